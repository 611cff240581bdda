"""Prefect tasks: read, call the core, write, return a reference."""
