"""Guided Grad-CAM: Selvaraju et al. 2017."""

from __future__ import annotations

import torch
from torch import Tensor

from selrel.engine import Clips, Forward
from selrel.explain import grad_cam, guided_backprop

UNITS = "logit^2 per unit of normalised pixel"


def explain(forward: Forward[Clips], targets: Tensor) -> Clips:
    """Multiply guided backpropagation by Grad-CAM.

    Returns
    -------
    (clip, time, height, width): signed like guided backpropagation.
    """
    guided = forward.once(guided_backprop.explain, targets, {})
    return forward.each(torch.mul, guided, forward.once(grad_cam.explain, targets, {}))
