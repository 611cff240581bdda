"""Views: what the core says of its tables, as data that pages, consoles and figures iterate over."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from typing import Any

from selrel.scores.metrics import tables


@cache
def views() -> dict[str, dict[str, Any]]:
    """Return the fields of every table by its name, in the order of a page."""
    return {name: asdict(table) for name, table in tables().items()}
