"""Grad-CAM in space and time: Selvaraju et al. 2017; on video as Hiley et al. 2020, section 5.1."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from selrel.engine import PULLBACKS, Clips, Forward, Rules

UNITS = "logit"
RULES = Rules("grad_cam", PULLBACKS)


def explain(forward: Forward[Clips], targets: Tensor) -> Clips:
    """Weigh the last feature maps by their mean gradient, keep the positive part, and upsample.

    Only the part of the model behind those maps (C3D: conv5b after its rectifier) needs a backward
    pass.

    Returns
    -------
    (clip, time, height, width): the class activation map, trilinearly upsampled; non-negative.

    Raises
    ------
    ValueError
        If the model has no rectified feature map with axes of time, height and width.
    """
    position = forward.graph.cam_value
    if position is None:
        every = " that sees every input" if forward.graph.n_inputs > 1 else ""
        raise ValueError(
            f"grad_cam needs a rectified feature map (clip, channel, time, height, width){every}, and this "
            "model has none; choose other methods"
        )
    maps = forward.value(position)
    gradients = forward.backward(RULES, forward.at_target(targets), stop=position)
    weights = gradients.mean(dim=(2, 3, 4), keepdim=True)
    activation = (weights * maps).sum(dim=1, keepdim=True).relu()

    def upsampled(clips: Tensor) -> Tensor:
        size = clips.shape[2:]
        return F.interpolate(activation, size=size, mode="trilinear", align_corners=False)[:, 0]

    return forward.each(upsampled, forward.clips)
