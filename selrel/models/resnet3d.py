"""3D ResNets (Hara et al. 2018, *Can spatiotemporal 3D CNNs retrace the history of 2D CNNs and ImageNet?*).

Names, geometry and input are those of kenshohara/3D-ResNets-PyTorch (``models/resnet.py``,
``main.py``, ``mean.py``, ``opts.py``, ``util_scripts/ucf101_json.py``), whose files have ``module.`` in
front of every key or not. Depth (10, 18, 34, 50, 101, 152, 200), widths, groups and the shortcut type
follow from the weights; so ResNeXt and wide ResNets, which differ in widths and groups alone, load too.

There are two generations with the same keys and different inputs:

- ``resnet3d-kenshohara-cvpr2018``: trained on Kinetics-400, some fine-tuned on UCF-101; pixels 0..255
  minus ActivityNet's mean (``--norm_value 1 --mean_dataset activitynet``, no ``--std_norm``). ResNet-18
  and 34 have shortcut type A, without weights.
- ``resnet3d-kenshohara-2020``: trained on Kinetics-700, Moments in Time and others; pixels 0..1 minus
  Kinetics' mean, over its standard deviation; shortcut type B.

A file is taken for the older one if its shortcuts are of type A, its blocks widen twofold (ResNeXt and
wide ResNets were published then only), or it counts no batches, as before PyTorch 0.4.1. A newer
fine-tuning of an older type B network must name its family. Published evaluation scales frames with
antialiasing (PIL), ours without.
"""

import re
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from selrel.clips.profiles import Profile, View
from selrel.models import COUNTER, Family, State, size

WIDTHS = (64, 128, 256, 512)
CLASSES = 400
BASIC_DEPTHS = ((1, 1, 1, 1), (2, 2, 2, 2), (3, 4, 6, 3))
BOTTLENECK_DEPTHS = ((3, 4, 6, 3), (3, 4, 23, 3), (3, 8, 36, 3), (3, 24, 36, 3))


class PaddedShortcut(nn.Module):
    """Shortcut type A: every other voxel, and channels of zeros up to the block's width.

    Parameters
    ----------
    channels, width : int
        Channels before and after.
    stride : int
        Step along time, height and width.

    Raises
    ------
    ValueError
        If the width is below the number of channels.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        if width < channels:
            raise ValueError(
                f"a shortcut of type A adds channels, and this checkpoint's goes from {channels} to {width}; "
                "give weights in which no block is narrower than the one before it"
            )
        self.added = width - channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Thin out and pad (clip, channel, time, height, width)."""
        step = self.stride
        return F.pad(x[:, :, ::step, ::step, ::step], (0, 0, 0, 0, 0, 0, 0, self.added))


class Block(nn.Module):
    """Two (basic) or three (bottleneck) convolutions beside a shortcut, added and rectified.

    Parameters
    ----------
    convolutions : two or three Conv3d
        In order; a batch norm follows each, and a rectifier all but the last.
    downsample : Module, optional
        The shortcut, where the block changes its input's shape.
    """

    def __init__(self, convolutions: Sequence[nn.Conv3d], downsample: nn.Module | None) -> None:
        super().__init__()
        self.count = len(convolutions)
        for number, convolution in enumerate(convolutions, 1):
            self.add_module(f"conv{number}", convolution)
            self.add_module(f"bn{number}", nn.BatchNorm3d(convolution.out_channels))
        self.relu = nn.ReLU()
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """Compute the block's output."""
        output = x
        for number in range(1, self.count + 1):
            convolution, norm = self.get_submodule(f"conv{number}"), self.get_submodule(f"bn{number}")
            output = norm(convolution(output if number == 1 else self.relu(output)))
        rectified: Tensor = self.relu(output + (x if self.downsample is None else self.downsample(x)))
        return rectified


class ResNet3D(nn.Module):
    """A 3D ResNet whose depth, widths, groups and shortcuts are those of the weights.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights, of which the names and shapes are used; where one is absent, the published width holds.

    Notes
    -----
    Input float32 (clip, 3, time, height, width), published with 16 frames of 112x112; output
    (clip, class). The last pooling is over all that is left; published code of 2018 has a kernel of
    that size at 112x112.
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        channels = size(state, "conv1.weight", 0, WIDTHS[0])
        time = size(state, "conv1.weight", 2, 7)
        self.conv1 = nn.Conv3d(3, channels, (time, 7, 7), (1, 2, 2), (time // 2, 3, 3), bias=False)
        self.bn1 = nn.BatchNorm3d(channels)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool3d(3, stride=2, padding=1)
        for stage, count in enumerate(_depth(state), 1):
            blocks = []
            for index in range(count):
                stride = 2 if stage > 1 and index == 0 else 1
                block, channels = _block(state, f"layer{stage}.{index}", channels, stride)
                blocks.append(block)
            self.add_module(f"layer{stage}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(channels, size(state, "fc.weight", 0, CLASSES))

    def forward(self, clips: Tensor) -> Tensor:
        """Compute the logits (clip, class) of normalised clips."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(clips))))
        for stage in range(1, len(WIDTHS) + 1):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def build(state: State) -> ResNet3D:
    """Make the 3D ResNet that these weights describe."""
    return ResNet3D(state)


def _depth(state: State) -> tuple[int, ...]:
    """The smallest published depth that has all blocks of the weights; the deepest if none has."""
    found = [0] * len(WIDTHS)
    for key in state:
        if match := re.match(r"layer([1-4])\.(\d{1,4})\.", key):
            stage = int(match[1]) - 1
            found[stage] = max(found[stage], int(match[2]) + 1)
    depths = BOTTLENECK_DEPTHS if _is_bottleneck(state) else BASIC_DEPTHS
    fitting = [d for d in depths if all(a >= b for a, b in zip(d, found, strict=True))]
    return (fitting or [depths[-1]])[0]


def _is_bottleneck(state: State) -> bool:
    return any(".conv3." in key for key in state)


def _block(state: State, name: str, channels: int, stride: int) -> tuple[Block, int]:
    """One block, and its output width."""
    width = WIDTHS[int(name[5]) - 1]
    middle = size(state, f"{name}.conv1.weight", 0, width)
    if _is_bottleneck(state):
        out = size(state, f"{name}.conv3.weight", 0, 4 * width)
        # ResNeXt's cardinality: a kernel of a grouped convolution sees only its group's channels.
        seen = size(state, f"{name}.conv2.weight", 1, middle)
        groups = middle // seen if middle % seen == 0 else 1
        convolutions = [
            nn.Conv3d(channels, middle, 1, bias=False),
            nn.Conv3d(middle, middle, 3, stride, 1, groups=groups, bias=False),
            nn.Conv3d(middle, out, 1, bias=False),
        ]
    else:
        out = size(state, f"{name}.conv2.weight", 0, width)
        convolutions = [
            nn.Conv3d(channels, middle, 3, stride, 1, bias=False),
            nn.Conv3d(middle, out, 3, 1, 1, bias=False),
        ]
    return Block(convolutions, _shortcut(state, channels, out, stride)), out


def _shortcut(state: State, channels: int, width: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == width:
        return None
    if not _has_projections(state):
        return PaddedShortcut(channels, width, stride)
    return nn.Sequential(nn.Conv3d(channels, width, 1, stride, bias=False), nn.BatchNorm3d(width))


def _has_projections(state: State) -> bool:
    """Whether the shortcuts are of type B; type A has no weights."""
    return any(".downsample." in key for key in state)


def _is_of_2018(state: State) -> bool:
    widening = size(state, "layer1.0.conv3.weight", 0, 4) / size(state, "layer1.0.conv3.weight", 1, 1)
    counts = any(key.endswith(COUNTER) for key in state)
    return not _has_projections(state) or not counts or widening == 2


_NORM = r"(?:weight|bias|running_mean|running_var|num_batches_tracked)"
_IN_BLOCK = rf"(?:conv[123]\.weight|bn[123]\.{_NORM}|downsample\.0\.weight|downsample\.1\.{_NORM})"
_NAMES = re.compile(rf"conv1\.weight|bn1\.{_NORM}|layer[1-4]\.\d{{1,4}}\.{_IN_BLOCK}|fc\.(?:weight|bias)")


def _rename(key: str) -> str | None:
    return key if _NAMES.fullmatch(key) else None


_VIEW = View(resize=112, crop=(112, 112), crop_rounding="round", clip_length=16)
_PROFILE_2018 = Profile(
    family="resnet3d-kenshohara-cvpr2018",
    view=_VIEW,
    colour_order="RGB",
    scale=1.0,
    mean=(114.7748, 107.7354, 99.475),
    std=(1.0, 1.0, 1.0),
    label_order="classInd",
)
_PROFILE_2020 = Profile(
    family="resnet3d-kenshohara-2020",
    view=_VIEW,
    colour_order="RGB",
    scale=1 / 255,
    mean=(0.4345, 0.4051, 0.3775),
    std=(0.2768, 0.2713, 0.2737),
    label_order="classInd",
)

FAMILIES = (
    Family("resnet3d-kenshohara-cvpr2018", _rename, _PROFILE_2018, _is_of_2018),
    Family("resnet3d-kenshohara-2020", _rename, _PROFILE_2020, lambda state: not _is_of_2018(state)),
)
