"""Discriminative relevance: what a decision owes to single frames, and what to their change.

Hiley et al. 2019, "Discriminating spatial and temporal relevance in deep Taylor decompositions for
explainable activity recognition". Every frame is repeated to a frozen clip, and that is explained for the
clip's own class: the spatial relevance of the frame. What the frame has beyond that in the clip is temporal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selrel.engine import Forward, Rules
from selrel.engine.frozen import frozen
from selrel.explain import deep_taylor, default_settings

UNITS = "logit"
# Those of deep Taylor, under this method's name.
RULES = Rules("discriminative", deep_taylor.rules(1.0).table)
BESIDE = {"spatial": ("clip", "time", "y", "x"), "frames": ("clip", "time", "output")}


def explain(forward: Forward[Tensor], targets: Tensor, *, variant: str = "mean") -> Tensor:
    """Give the temporal relevance of every voxel, in units of the target's logit.

    Parameters
    ----------
    forward, targets
        A forward pass of clips and the output to explain for each.
    variant
        "mean": a frame's spatial relevance is the mean over time of its frozen clip's. "authors": that of the
        frozen clip's first frame, and both are divided by their largest magnitude in the clip before one is
        taken from the other, as the paper's code does; nothing adds up then, and it takes half as long again.

    Returns
    -------
    (clip, time, height, width). With "mean" it sums to the clip's logit of the target less the mean of those
    of its frozen frames, within the error of deep Taylor itself.
    """
    for node in forward.graph.nodes:
        RULES.at(node)
    spatial = beside(forward, targets, variant=variant)["spatial"]
    relevance = _of_clips(forward, targets)
    if variant == "authors":
        return _by_largest(relevance) - _by_largest(spatial)
    return relevance - spatial


def beside(forward: Forward[Tensor], targets: Tensor, *, variant: str = "mean") -> dict[str, Tensor]:
    """What comes with the temporal relevance.

    Returns
    -------
    ``spatial`` (clip, time, height, width): the spatial relevance, in units of the logit. ``frames`` (clip,
    time, output): the logits of each frame's frozen clip.
    """
    if variant not in ("mean", "authors"):
        raise ValueError(f"unknown variant {variant!r}; allowed: mean, authors")
    return forward.once(_of_frames, targets, {"variant": variant})


def _of_frames(forward: Forward[Tensor], targets: Tensor, *, variant: str) -> dict[str, Tensor]:
    spatial, logits = [], []
    # Clip by clip, since the frames of one fill the memory that a batch of clips does.
    for clip, target in zip(forward.clips, targets, strict=True):
        frames = clip.movedim(1, 0)[:, :, None]
        length = len(frames)
        if variant == "mean":
            graph = forward.graph.remember("frozen", lambda: frozen(forward.graph))
            stopped = Forward(graph, frames.contiguous())
            cubes = deep_taylor.explain(stopped, target.expand(length), start="logit") / length
        else:
            stopped = Forward(forward.graph, frames.expand(-1, -1, length, -1, -1).contiguous())
            cubes = deep_taylor.explain(stopped, target.expand(length), start="logit")
        spatial.append(cubes[:, 0])
        logits.append(stopped.logits)
    return {"spatial": torch.stack(spatial), "frames": torch.stack(logits)}


def _of_clips(forward: Forward[Tensor], targets: Tensor) -> Tensor:
    """Deep Taylor relevance of the clips, in units of the logit: what starts from 1 by the logit."""
    # By the very settings of the method itself, which has them once for both.
    shares: Tensor = forward.once(deep_taylor.explain, targets, default_settings("deep_taylor"))
    return shares * deep_taylor.amount(forward, targets, "logit").view(-1, 1, 1, 1)


def _by_largest(relevance: Tensor) -> Tensor:
    largest = relevance.abs().amax(dim=(1, 2, 3), keepdim=True)
    divided: Tensor = torch.where(largest > 0, relevance / largest, 0.0)
    return divided
