"""Explains a batch of clips with several methods on one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from selrel.engine import Forward, Graph
from selrel.engine.ties import first_highest
from selrel.explain import default_settings, method
from selrel.explain.deep_taylor import amount, conservation_error

Result = TypeVar("Result")
Timed = Callable[[str, Callable[[], Result]], Result]


@dataclass(frozen=True)
class Explanation:
    """What a batch of clips gave.

    Attributes
    ----------
    logits : float32 (clip, output)
        The model's outputs before any softmax.
    targets : int64 (clip,)
        The output that was explained.
    cubes : mapping of method to float32 (clip, time, height, width)
        Signed relevance, summed over colour channels.
    conservation_error : float64 (clip,)
        Relative difference of the deep Taylor cube's sum from its start; NaN where deep Taylor was not
        asked for.
    """

    logits: Tensor
    targets: Tensor
    cubes: dict[str, Tensor]
    conservation_error: Tensor


def explain_batch(
    graph: Graph,
    clips: Tensor,
    methods: Mapping[str, Mapping[str, Any]],
    *,
    targets: Tensor | None = None,
    timed: Callable[[str, Callable[[], Any]], Any] | None = None,
) -> Explanation:
    """Explain a batch of clips.

    Parameters
    ----------
    graph
        A model traced by `selrel.engine.trace`.
    clips : float32 (clip, channel, time, height, width)
        Normalised, on the model's device.
    methods
        Settings by method name.
    targets : int64 (clip,), optional
        The output to explain; by default the one with the highest logit.
    timed
        Calls a function and returns its result, given a step's name ("forward", or a method's) and
        the function: how a caller measures what each step takes on top of what the ones before have
        computed.

    Returns
    -------
    Explanation
    """
    run = timed or _untimed
    forward: Forward = run("forward", lambda: Forward(graph, clips))
    chosen = first_highest(forward.logits) if targets is None else targets.to(forward.logits.device)
    cubes = {name: run(name, _explaining(forward, chosen, name, given)) for name, given in methods.items()}
    error = _conservation_error(forward, chosen, cubes, methods)
    return Explanation(forward.logits, chosen, cubes, error)


def _explaining(
    forward: Forward, targets: Tensor, name: str, settings: Mapping[str, Any]
) -> Callable[[], Tensor]:
    return lambda: forward.once(method(name), targets, settings)


def _untimed(step: str, function: Callable[[], Result]) -> Result:
    return function()


def _conservation_error(
    forward: Forward, targets: Tensor, cubes: Mapping[str, Tensor], methods: Mapping[str, Mapping[str, Any]]
) -> Tensor:
    if "deep_taylor" not in cubes:
        return torch.full((len(targets),), torch.nan, dtype=torch.float64)
    settings = {**default_settings("deep_taylor"), **methods["deep_taylor"]}
    return conservation_error(cubes["deep_taylor"], amount(forward, targets, settings["start"]))
