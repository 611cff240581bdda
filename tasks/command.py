"""Command: the command line that repeats a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

_GATE = {"measure": "gate"}


def command(root: str, description: Row, dataset: Row, *, work: Row | None = None) -> str:
    """Write the command line that repeats a run, from its run.json and its data set's description.

    `work` says where the work is to be done: ``workers``, ``scheduler``, ``insecure``; by default nothing.
    """
    settings, profile = description["settings"], description["profile"]
    methods = settings["methods"]
    options = {
        "data": description["data"],
        "checkpoint": description["checkpoint"],
        "root": root,
        "split": dataset["split"],
        "subset": dataset["subset"],
        "classes": description["drawn"].get("classes"),
        "held-out-groups": description["drawn"].get("held_out_groups") or None,
        "videos": description["drawn"]["videos"],
        "seed": description["drawn"]["seed"],
        "methods": list(methods),
        "sigmas": settings["sigmas"],
        "target": settings["target"],
        **settings["selective"],
        "motion-rule": settings["motion"]["rule"],
        "tau": settings["motion"]["tau"],
        **{name: methods.get("deep_taylor", {}).get(name) for name in ("alpha", "start")},
        # A model of the user's own has no family to name.
        "family": None if description["model"] else description["family"],
        "model": description["model"],
        **{name: profile[name] for name in ("colour_order", "scale", "mean", "std", "label_order")},
        "crop": profile["view"]["crop"],
        # The command line has no way to say the other form, so the family's own stands.
        "resize": resize if isinstance(resize := profile["view"]["resize"], list | tuple) else None,
        "block-clips": dataset["block_clips"],
        "batch-clips": settings["batch_clips"],
        # The first version asked about no changed clips.
        "changes": settings.get("changes") or ["none"],
        # The first version had no gate.
        **{_GATE.get(name, name): value for name, value in description.get("gate", {}).items()},
        **(work or {}),
    }
    words = ["selrel", "explain"]
    for name, value in options.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *(shlex.quote(_word(one)) for one in _values(value))]
    return " ".join(words)


def _values(value: object) -> Sequence[object]:
    if isinstance(value, list | tuple):
        return value
    return [] if value is True else [value]


def _word(value: object) -> str:
    # 2.0 as 2, and 1/255 with every digit: the identity of a run hangs on it.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
