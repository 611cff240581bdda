"""Text as it may be shown: numbers, and what files hold, without what would command a terminal."""

from __future__ import annotations

from copy import copy
from typing import Any


def visible(text: str, *, lines: bool = False) -> str:
    r"""Escape what is not printable (``\x1b``, ``\n``, ``\u202e``); keep line breaks if asked to."""
    return "".join(
        char
        if char.isprintable() or (lines and char == "\n")
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def all_visible(value: Any) -> Any:
    """Make all text in plain JSON values visible, the names of objects too."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        # A stored object stays one: it tells what it lacks.
        shown = copy(value)
        shown.clear()
        shown.update({visible(str(name)): all_visible(inner) for name, inner in value.items()})
        return shown
    return [all_visible(inner) for inner in value] if isinstance(value, list | tuple) else value


def decimal(value: float, digits: int, sign: str = "") -> str:
    """Write a number with so many decimals, and ``+`` before it if asked to; none is written as -0."""
    return f"{value:{sign}z,.{digits}f}"


def first_line(error: Exception) -> str:
    """The first line of what an error says, cut to 120 characters; its kind if it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:120]
