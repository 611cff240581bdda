"""R3D-18 (Tran et al. 2018, *A closer look at spatiotemporal convolutions for action recognition*).

A residual network of eight blocks with two 3x3x3 convolutions each. Names, geometry and input are
those of torchvision's ``r3d_18`` (pytorch/vision, ``torchvision/models/video/resnet.py``:
``VideoResNet``, ``R3D_18_Weights``; ``torchvision/transforms/_presets.py``: ``VideoClassification``).
Its relatives `mc3_18` and `r2plus1d_18` are built from the same blocks. Widths follow from the
weights; the depth is that of the name.

torchvision's weights are for Kinetics-400. Those fine-tuned with its own ``datasets.UCF101`` have the
classes in Python's sorted order.
"""

import re
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from selrel.clips.profiles import Profile, View
from selrel.models import Family, State, size

WIDTHS = (64, 128, 256, 512)
BLOCKS = 2
CLASSES = 400

Convolution = Callable[[State, str, int, int, int], nn.Module]
"""Makes one convolution of a block from (state, its name, input channels, output channels, stride)."""


class Block(nn.Module):
    """Two convolutions beside a shortcut, added and rectified.

    Parameters
    ----------
    first, second : Module
        The convolutions, each followed by a batch norm; the first by a rectifier too.
    downsample : Module, optional
        The shortcut's convolution and batch norm, where the block changes its input's shape.
    """

    def __init__(self, first: nn.Module, second: nn.Module, downsample: nn.Module | None) -> None:
        super().__init__()
        self.conv1 = first
        self.conv2 = second
        self.downsample = downsample
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        shortcut = x if self.downsample is None else self.downsample(x)
        output: Tensor = self.relu(self.conv2(self.conv1(x)) + shortcut)
        return output


class VideoResNet(nn.Module):
    """A stem, four stages of two blocks, the mean over time and space, and a linear layer.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights whose shapes give the widths; where one is absent, the published width holds.
    stem : Sequential
        The layers before the first stage.
    convolutions : four functions
        Makes the convolutions of each stage.
    temporal : four bools
        Whether the stage's stride, where it has one, also goes along time.

    Notes
    -----
    Input float32 (clip, 3, time, height, width), published with 16 frames of 112x112; output
    (clip, class).
    """

    def __init__(
        self,
        state: State,
        stem: nn.Sequential,
        convolutions: Sequence[Convolution],
        temporal: Sequence[bool] = (True, True, True, True),
    ) -> None:
        super().__init__()
        self.stem = stem
        channels = [layer.num_features for layer in stem if isinstance(layer, nn.BatchNorm3d)][-1]
        for stage, (width, make, in_time) in enumerate(zip(WIDTHS, convolutions, temporal, strict=True), 1):
            blocks = []
            for index in range(BLOCKS):
                stride = 2 if stage > 1 and index == 0 else 1
                name = f"layer{stage}.{index}"
                out = size(state, f"{name}.conv2.1.weight", 0, width)
                blocks.append(_block(state, name, (channels, out), stride, make, in_time))
                channels = out
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(channels, size(state, "fc.weight", 0, CLASSES))

    def forward(self, clips: Tensor) -> Tensor:
        """Compute the logits (clip, class) of normalised clips."""
        x = self.stem(clips)
        for stage in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def build(state: State) -> VideoResNet:
    """Make the R3D-18 whose widths are those of the weights."""
    return VideoResNet(state, basic_stem(state), (solid,) * 4)


def basic_stem(state: State) -> nn.Sequential:
    """The 3x7x7 convolution of R3D and MC3, with its batch norm and rectifier."""
    width = size(state, "stem.0.weight", 0, WIDTHS[0])
    convolution = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(width), nn.ReLU())


def solid(state: State, name: str, channels: int, width: int, stride: int) -> nn.Module:
    """A 3x3x3 convolution."""
    return nn.Conv3d(channels, width, 3, stride, 1, bias=False)


def planar(state: State, name: str, channels: int, width: int, stride: int) -> nn.Module:
    """A convolution over space alone, 1x3x3."""
    return nn.Conv3d(channels, width, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)


def profile(family: str) -> Profile:
    """What torchvision's video weights expect: frames of 171x128, 112x112 of them, in RGB, 16 a clip.

    torchvision reports their accuracy at 15 frames per second.
    """
    return Profile(
        family=family,
        view=View(resize=(171, 128), crop=(112, 112), crop_rounding="round", clip_length=16),
        colour_order="RGB",
        scale=1 / 255,
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        label_order="sorted",
    )


def renamer(stem: str, convolution: str) -> Callable[[str], str | None]:
    """Accept the names of a video ResNet, which are the model's own.

    Parameters
    ----------
    stem, convolution : str
        Regular expressions for what is inside the stem and inside a block's convolution.
    """
    norm = r"(?:weight|bias|running_mean|running_var|num_batches_tracked)"
    inside = rf"(?:conv1\.(?:{convolution}|1\.{norm})|conv2\.(?:{convolution}|1\.{norm}))"
    block = rf"(?:{inside}|downsample\.(?:0\.weight|1\.{norm}))"
    names = re.compile(
        rf"(?:stem\.(?:{stem})|layer[1-4]\.\d+\.{block}|fc\.(?:weight|bias))".replace("NORM", norm)
    )
    return lambda key: key if names.fullmatch(key) else None


BASIC = renamer(r"0\.weight|1\.NORM", r"0\.weight")


def is_planar(state: State) -> bool:
    """Whether the second stage convolves over space alone, which tells MC3-18 from R3D-18."""
    return size(state, "layer2.0.conv1.0.weight", 2, 3) == 1


def _block(
    state: State, name: str, widths: tuple[int, int], stride: int, make: Convolution, in_time: bool
) -> Block:
    channels, out = widths
    middle = size(state, f"{name}.conv1.1.weight", 0, out)
    first = make(state, f"{name}.conv1.0", channels, middle, stride)
    second = make(state, f"{name}.conv2.0", middle, out, 1)
    downsample = None
    if stride > 1 or channels != out:
        strides = (stride if in_time else 1, stride, stride)
        shortcut = nn.Conv3d(channels, out, 1, strides, bias=False)
        downsample = nn.Sequential(shortcut, nn.BatchNorm3d(out))
    return Block(
        nn.Sequential(first, nn.BatchNorm3d(middle), nn.ReLU()),
        nn.Sequential(second, nn.BatchNorm3d(out)),
        downsample,
    )


FAMILIES = (Family("r3d_18", BASIC, profile("r3d_18"), lambda state: not is_planar(state)),)
