"""The explanation methods: one file each, named as a user types it.

A method is a module with a function `explain(forward, targets, **settings)` that returns the
relevance of every voxel, (clip, time, height, width), summed over colour channels and signed, and with
its `UNITS`. One that gives more has a function `beside` of the same arguments, and the axes of each of its
results in `BESIDE`. Adding a method is adding a file: nothing else lists them.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

from selrel.engine import Clips, Forward


class Explain(Protocol):
    """The call signature of a method."""

    def __call__(self, forward: Forward[Clips], targets: Tensor, **settings: Any) -> Clips:
        """Explain the logit of each clip's target.

        Parameters
        ----------
        forward
            The forward pass of a batch of clips.
        targets
            int64 (clip,): the output to explain.

        Returns
        -------
        (clip, time, height, width): signed relevance, summed over colour channels. Of a model with several
        inputs, a tuple with one for each.
        """
        ...


def methods() -> tuple[str, ...]:
    """Return the names of all methods, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def method(name: str) -> Explain:
    """Return a method by its name.

    Raises
    ------
    ValueError
        Listing the known names.
    """
    explain: Explain = _module(name).explain
    return explain


def units(name: str, settings: Mapping[str, Any]) -> str:
    """Return the units of a method's relevance, from its file's `UNITS`; deep Taylor's follow its start.

    Raises
    ------
    ValueError
        As `method`.
    """
    given: str = _module(name).UNITS
    return "logit" if settings.get("start") == "logit" else given


def beside(name: str) -> dict[str, tuple[str, ...]]:
    """Return the axes of what a method gives beside its relevance, by name, from its file's `BESIDE`."""
    axes: dict[str, tuple[str, ...]] = getattr(_module(name), "BESIDE", {})
    return axes


def explain_beside(
    name: str, forward: Forward[Clips], targets: Tensor, settings: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Return what a method gives beside its relevance, by ``<method>_<name>``."""
    if not beside(name):
        return {}
    given = _module(name).beside(forward, targets, **settings)
    return {f"{name}_{what}": values for what, values in given.items()}


def default_settings(name: str) -> dict[str, Any]:
    """Return the settings of a method and their default values, read from its signature."""
    parameters = inspect.signature(method(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _module(name: str) -> ModuleType:
    # The name may come from a file, and must not lead to any other import.
    if name not in methods():
        raise ValueError(f"unknown method {name!r}; known methods: {', '.join(methods())}")
    return importlib.import_module(f"{__name__}.{name}")
