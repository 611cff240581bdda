"""The one way to a terminal: text from files can't command it, on standard output, on error or in a log."""

from __future__ import annotations

import logging
from typing import Any

from rich import console
from rich.text import Text

from storage.text import visible


class Console(console.Console):
    """A console that shows text as it is: no markup, no emoji by name, no control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a string into text, as everything that is printed is; only line breaks are kept."""
        return super().render_str(visible(text, lines=True), **options)


class LogFormatter(logging.Formatter):
    """A line a record; only a traceback has several."""

    def format(self, record: logging.LogRecord) -> str:
        """Write a record."""
        return visible(super().format(record), lines=bool(record.exc_info))
