"""Drawn videos, of which the truth is known."""
