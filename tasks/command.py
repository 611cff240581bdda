"""Command: the command line that repeats a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from tasks.request import Request

Row = Mapping[str, Any]


def command(root: str, description: Row, dataset: Row, *, work: Row | None = None) -> str:
    """Write the command line that repeats a run, from its run.json and its data set's description.

    `work` says where the work is to be done: ``workers``, ``scheduler``, ``insecure``; by default nothing.
    """
    # The first version asked about no changed clips.
    settings = {"changes": [], **description["settings"]}
    kept = {**description, "settings": settings, "dataset": dataset}
    options: dict[str, Any] = {}
    for one in fields(Request):
        # An older version kept nothing of some.
        value: Any = kept
        for name in (one.metadata["kept"] or "").split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        options[one.name] = value
    if options["model"] is not None:
        # A model of the user's own has no family to name.
        options["family"] = None
    methods = []
    for name, own in settings["methods"].items():
        pairs = ",".join(f"{key}={_word(value)}" for key, value in own.items())
        methods.append(f"{name}:{pairs}" if pairs else name)
    options |= {
        "root": root,
        "held_out_groups": options["held_out_groups"] or None,
        "methods": methods,
        "changes": settings["changes"] or ["none"],
        **(work or {}),
    }
    words = ["selrel", "explain"]
    for name, value in options.items():
        if value is not None and value is not False:
            given = value if isinstance(value, list | tuple) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *(shlex.quote(_word(one)) for one in given)]
    return " ".join(words)


def _word(value: object) -> str:
    # 2.0 as 2, and 1/255 with every digit: the identity of a run depends on it.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
