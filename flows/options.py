"""Gives flows and commands their options, from the lists in which each is declared once."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeVar

from tasks.request import hints

R = TypeVar("R")
Annotation = Callable[["Field[Any]", Any], Any]


def takes(
    *lists: type, annotation: Annotation = lambda _, hint: hint
) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a function that takes ``**options`` those of some lists, as keywords with types and defaults.

    Its docstring gets a line for each, as Prefect shows it. `annotation` makes a parameter's annotation of
    the option and its type.
    """

    def told(function: Callable[..., R]) -> Callable[..., R]:
        options = [(one, hints(kind)[one.name]) for kind in lists for one in fields(kind)]
        own = [one for one in inspect.signature(function).parameters.values() if one.name != "options"]
        parameters = [
            inspect.Parameter(
                one.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if one.default is MISSING else one.default,
                annotation=annotation(one, hint),
            )
            for one, hint in options
        ]
        function.__signature__ = inspect.Signature([*own, *parameters])  # type: ignore[attr-defined]
        function.__annotations__ |= {one.name: one.annotation for one in parameters}
        lines = "\n".join(f"    {one.name}: {one.metadata['help']}" for one, _ in options)
        function.__doc__ = f"{textwrap.dedent(function.__doc__ or '').rstrip()}\n\nArgs:\n{lines}\n"
        return function

    return told
