"""R(2+1)D-18 (Tran et al. 2018, *A closer look at spatiotemporal convolutions for action recognition*).

R3D-18 with every convolution split into one over space and one over time. Names, geometry and input
are those of torchvision's ``r2plus1d_18`` (pytorch/vision, ``torchvision/models/video/resnet.py``:
``Conv2Plus1D``, ``R2Plus1dStem``, ``R2Plus1D_18_Weights``). The width between the two follows from
the weights.
"""

from torch import nn

from selrel.models import Family, State, size
from selrel.models.r3d_18 import WIDTHS, VideoResNet, profile, renamer

STEM_MIDDLE = 45


def build(state: State) -> VideoResNet:
    """Make the R(2+1)D-18 whose widths are those of the weights."""
    middle = size(state, "stem.0.weight", 0, STEM_MIDDLE)
    width = size(state, "stem.3.weight", 0, WIDTHS[0])
    stem = nn.Sequential(
        nn.Conv3d(3, middle, (1, 7, 7), (1, 2, 2), (0, 3, 3), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(),
        nn.Conv3d(middle, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
        nn.BatchNorm3d(width),
        nn.ReLU(),
    )
    return VideoResNet(state, stem, (_split,) * 4)


def _split(state: State, name: str, channels: int, width: int, stride: int) -> nn.Module:
    middle = size(state, f"{name}.0.weight", 0, size(state, f"{name}.1.weight", 0, width))
    return nn.Sequential(
        nn.Conv3d(channels, middle, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
        nn.BatchNorm3d(middle),
        nn.ReLU(),
        nn.Conv3d(middle, width, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
    )


_RENAME = renamer(r"[03]\.weight|[14]\.NORM", r"0\.[03]\.weight|0\.1\.NORM")

FAMILIES = (Family("r2plus1d_18", _RENAME, profile("r2plus1d_18")),)
