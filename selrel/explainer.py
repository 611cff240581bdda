"""From frames to logits and cubes: the only way into a model's explanations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from selrel.clips.profiles import Profile, bounds, normalise
from selrel.engine import Forward, trace
from selrel.engine.ties import first_highest
from selrel.explain import default_settings, explain_beside, method
from selrel.explain.deep_taylor import amount, conservation_error

Frames = npt.NDArray[np.uint8] | Tensor
Methods = Mapping[str, Mapping[str, Any]]
"""Settings by the name of a method; what is not given is the method's own default."""


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
    beside : mapping of name to tensor
        What methods give beside their cubes: `selrel.explain.beside` says with which axes.
    """

    logits: Tensor
    targets: Tensor
    cubes: dict[str, Tensor]
    conservation_error: Tensor
    beside: dict[str, Tensor] = field(default_factory=dict)


class Explainer:
    """A model, traced once, that explains any number of batches.

    Parameters
    ----------
    model : nn.Module
        Takes clips (clip, channel, time, height, width), gives logits (clip, output); it stays as it is.
        It is explained on the device of its parameters, with the weights that it has now.
    profile : Profile
        How frames become its input.

    Raises
    ------
    ValueError
        If the model can't be traced: `selrel.engine.trace` says why.
    """

    def __init__(self, model: nn.Module, profile: Profile) -> None:
        low, high = bounds(profile)
        self.profile = profile
        self.graph = trace(model, profile.sample_shape, low=low, high=high)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.graph.bounds[0][0].device

    def logits(self, frames: Frames) -> Tensor:
        """Ask the model, without an explanation.

        Parameters
        ----------
        frames : uint8 (clip, time, y, x, channel)
            RGB, scaled and cropped as the profile says.

        Returns
        -------
        float32 (clip, output)
        """
        return Forward(self.graph, self._input(frames)).logits

    def explain(
        self,
        frames: Frames,
        methods: Methods,
        *,
        targets: Tensor | None = None,
        timed: Callable[[str, Callable[[], Any]], Any] | None = None,
    ) -> Explanation:
        """Explain a batch of clips by several methods on one forward pass.

        Parameters
        ----------
        frames : uint8 (clip, time, y, x, channel)
            RGB, scaled and cropped as the profile says.
        methods
            Settings by method name.
        targets : int64 (clip,), optional
            The output to explain; by default the one with the highest logit.
        timed
            Calls a function and returns its result, given a step's name ("forward", or a method's) and
            the function: how a caller measures what each step takes on top of what the ones before have
            computed.
        """
        run = timed or (lambda step, function: function())
        clips = self._input(frames)
        forward: Forward[Tensor] = run("forward", lambda: Forward(self.graph, clips))
        chosen = first_highest(forward.logits) if targets is None else targets.to(self.device)
        cubes = {
            name: run(name, partial(forward.once, method(name), chosen, settings))
            for name, settings in methods.items()
        }
        error = torch.full((len(chosen),), torch.nan, dtype=torch.float64)
        if "deep_taylor" in cubes:
            start = {**default_settings("deep_taylor"), **methods["deep_taylor"]}["start"]
            error = conservation_error(cubes["deep_taylor"], amount(forward, chosen, start))
        further: dict[str, Tensor] = {}
        for name, settings in methods.items():
            further |= explain_beside(name, forward, chosen, settings)
        return Explanation(forward.logits, chosen, cubes, error, further)

    def rehearse(self, methods: Methods) -> None:
        """Explain one black clip by every method, so that what can't work fails early.

        Raises
        ------
        ValueError
            If a method can't explain this model, in one line that says why.
        """
        channels, *window = self.profile.sample_shape
        self.explain(np.zeros((1, *window, channels), dtype=np.uint8), methods)

    def _input(self, frames: Frames) -> Tensor:
        pixels = frames if isinstance(frames, Tensor) else torch.from_numpy(np.ascontiguousarray(frames))
        return normalise(pixels.to(self.device), self.profile)
