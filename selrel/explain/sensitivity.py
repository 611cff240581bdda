"""Sensitivity: Simonyan et al. 2013, "Deep Inside Convolutional Networks" (arXiv 1312.6034).

Squared as Montavon et al. 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor

from selrel.engine import PULLBACKS, Clips, Forward, Rules

UNITS = "logit (squared or not) per unit of normalised pixel"
RULES = Rules("sensitivity", PULLBACKS)


def explain(forward: Forward[Clips], targets: Tensor, *, measure: str = "squared") -> Clips:
    """Measure how strongly the target's logit reacts to each voxel.

    Parameters
    ----------
    forward, targets
        A forward pass of clips and the output to explain for each.
    measure
        "squared": the squared gradient. "absolute": its absolute value.

    Returns
    -------
    (clip, time, height, width): summed over colour channels; non-negative. In logits per unit of
    normalised pixel, or in the square of that.

    Raises
    ------
    ValueError
        If the measure is unknown.
    """
    if measure not in ("squared", "absolute"):
        raise ValueError(f"unknown measure {measure!r}; allowed: squared, absolute")
    gradient = forward.backward(RULES, forward.at_target(targets))
    size = torch.square if measure == "squared" else torch.abs
    return forward.each(lambda slope: size(slope).sum(dim=1), gradient)
