"""Servers, clusters and processes that a flow needs while it runs, and how they end."""
