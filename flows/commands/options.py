"""Makes flags of the lists of options."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import Field
from typing import Annotated, Any, TypeVar, get_args, get_origin

from cyclopts import Group, Parameter

from flows.commands.arguments import Several
from flows.options import takes

R = TypeVar("R")
# In the order in which help shows them.
_GROUPS: dict[str, Group] = {}


def flags(*lists: type) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command that takes ``**options`` those of some lists as flags."""

    def in_words(default: Sequence[object]) -> str:
        return " ".join(map(str, default))

    def flag(one: Field[Any], hint: Any) -> Any:
        name = one.metadata["group"]
        group = _GROUPS.setdefault(name, Group(name, sort_key=len(_GROUPS) + 1))
        several = any(get_origin(kind) in (Sequence, tuple) for kind in (hint, *get_args(hint)))
        said = Parameter(
            group=group,
            help=one.metadata["help"],
            negative="" if hint is bool else None,
            show_default=(lambda given: " ".join(map(str, given)))
            if isinstance(one.default, tuple)
            else None,
        )
        return Annotated[hint, Several, said] if several else Annotated[hint, said]

    def told(function: Callable[..., R]) -> Callable[..., R]:
        about = function.__doc__
        takes(*lists, annotation=flag)(function)
        # Each flag says itself what it is.
        function.__doc__ = about
        return function

    return told
