"""Arguments that several commands take."""

from __future__ import annotations

import json
from typing import Any

from cyclopts import Parameter

YEAR_S = 31_536_000
Several = Parameter(consume_multiple=True, negative_iterable=())


def settings_of(words: list[str]) -> dict[str, Any]:
    """Settings of explain-ucf101 given as name=value; the value in JSON or plain text, one for a list of one.

    Raises
    ------
    ValueError
        If a word has no equals sign, or no reading of its value is one that the setting takes.
    """
    from flows.watch_checkpoints import setting

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"setting {word!r}: give name=value, such as videos=1010")
        try:
            read = json.loads(value)
        except ValueError:
            read = value
        found[name] = setting(name, read, value, [read], [value])
    return found


def place(url: str) -> str:
    """A directory made absolute, or an S3 URL as it is: a worker runs elsewhere."""
    from storage.stores.root import Root

    return Root(url).url


def settings_elsewhere(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a worker, which runs elsewhere, understands them."""
    against = settings.get("against")
    return {**settings, "against": place(against)} if against else settings
