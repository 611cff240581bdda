"""MC3-18 (Tran et al. 2018, *A closer look at spatiotemporal convolutions for action recognition*).

Mixed convolutions: the stem and the first stage of R3D-18, then three stages that convolve over space
alone and keep the length in time. Names, geometry and input are those of torchvision's ``mc3_18``
(pytorch/vision, ``torchvision/models/video/resnet.py``: ``Conv3DNoTemporal``, ``MC3_18_Weights``).
Its keys are those of R3D-18; the kernels tell them apart.
"""

from selrel.models import Family, State
from selrel.models.r3d_18 import BASIC, VideoResNet, basic_stem, is_planar, planar, profile, solid


def build(state: State) -> VideoResNet:
    """Make the MC3-18 whose widths are those of the weights."""
    convolutions = (solid, planar, planar, planar)
    return VideoResNet(state, basic_stem(state), convolutions, (True, False, False, False))


FAMILIES = (Family("mc3_18", BASIC, profile("mc3_18"), is_planar),)
