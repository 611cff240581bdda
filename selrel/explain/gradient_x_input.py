"""Gradient times input: Shrikumar et al. 2016, "Not Just a Black Box" (arXiv 1605.01713)."""

from __future__ import annotations

from torch import Tensor

from selrel.engine import PULLBACKS, Clips, Forward, Rules

UNITS = "logit"
RULES = Rules("gradient_x_input", PULLBACKS)


def explain(forward: Forward[Clips], targets: Tensor) -> Clips:
    """Multiply the gradient of the target's logit by the normalised pixels.

    Returns
    -------
    (clip, time, height, width): in logits, summed over colour channels; signed.
    """
    gradient = forward.backward(RULES, forward.at_target(targets))
    return forward.each(lambda slope, clips: (slope * clips).sum(dim=1), gradient, forward.clips)
