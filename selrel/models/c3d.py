"""C3D (Tran et al. 2015, *Learning spatiotemporal features with 3D convolutional networks*).

Eight 3x3x3 convolutions, five max poolings, three linear layers. The published weights pad the last
pooling by (0, 1, 1), so that conv5b's 2x7x7 map becomes 1x4x4. Widths follow from the weights.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from selrel.clips.profiles import Profile, View
from selrel.models import Family, State

CONVOLUTIONS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
LINEARS = ("fc6", "fc7", "fc8")
LAYERS = CONVOLUTIONS + LINEARS
WIDTHS = (64, 128, 256, 256, 512, 512, 512, 512)
HIDDEN = (4096, 4096)
INPUT = (3, 16, 112, 112)
SPORTS1M_CLASSES = 487


class C3D(nn.Sequential):
    """C3D of any width; every layer is a module of its own with the published name.

    Parameters
    ----------
    widths : eight ints
        Output channels of conv1, conv2, conv3a, conv3b, conv4a, conv4b, conv5a and conv5b.
    hidden : two ints
        Units of fc6 and fc7.
    n_outputs : int
        Classes; fc8 gives their logits, before any softmax.
    dropout : float
        Probability, of both dropouts, that a unit is zeroed in training.

    Raises
    ------
    ValueError
        If the number of widths is wrong or one is below 1, or dropout is no probability.

    Notes
    -----
    Input float32 (clip, 3, 16, 112, 112), output float32 (clip, class). No ReLU works in place, and
    none is shared, so hooks and traces see each layer's own input and output.
    """

    def __init__(
        self,
        widths: Sequence[int] = WIDTHS,
        hidden: Sequence[int] = HIDDEN,
        n_outputs: int = 101,
        *,
        dropout: float = 0.5,
    ) -> None:
        if len(widths) != 8 or len(hidden) != 2 or min(*widths, *hidden, n_outputs) < 1:
            raise ValueError(
                f"C3D needs 8 widths and 2 hidden sizes, all 1 or more; got widths {tuple(widths)}, "
                f"hidden {tuple(hidden)}, n_outputs {n_outputs}"
            )
        # torch lets NaN pass.
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout is {dropout}; give a probability, 0 to 1")
        features = _features(widths)
        head = [
            ("flatten", nn.Flatten()),
            ("fc6", nn.Linear(widths[-1] * 1 * 4 * 4, hidden[0])),
            ("relu6", nn.ReLU()),
            ("dropout6", nn.Dropout(dropout)),
            ("fc7", nn.Linear(hidden[0], hidden[1])),
            ("relu7", nn.ReLU()),
            ("dropout7", nn.Dropout(dropout)),
            ("fc8", nn.Linear(hidden[1], n_outputs)),
        ]
        super().__init__(OrderedDict([*features, *head]))

    def forward(self, input: Tensor) -> Tensor:
        """Compute the logits (clip, class) of normalised clips (clip, 3, 16, 112, 112).

        Raises
        ------
        ValueError
            If the clips have another shape; its linear layers fit no other.
        """
        if input.ndim != 5 or tuple(input.shape[1:]) != INPUT:
            raise ValueError(f"C3D takes clips of shape (clip, 3, 16, 112, 112), not {tuple(input.shape)}")
        for layer in self:
            input = layer(input)
        return input


def build(state: State) -> C3D:
    """Make the C3D whose widths are those of the weights, in C3D's own names."""
    widths = [_rows(state, name, default) for name, default in zip(CONVOLUTIONS, WIDTHS, strict=True)]
    hidden = [_rows(state, name, default) for name, default in zip(LINEARS, HIDDEN, strict=False)]
    return C3D(widths, hidden, _rows(state, "fc8", 101))


def _features(widths: Sequence[int]) -> list[tuple[str, nn.Module]]:
    layers: list[tuple[str, nn.Module]] = []
    channels = 3
    for name, width in zip(CONVOLUTIONS, widths, strict=True):
        stage = name.removeprefix("conv")
        layers += [(name, nn.Conv3d(channels, width, 3, padding=1)), (f"relu{stage}", nn.ReLU())]
        if not stage.endswith("a"):
            kernel = (1, 2, 2) if stage == "1" else (2, 2, 2)
            padding = (0, 1, 1) if stage == "5b" else (0, 0, 0)
            layers.append((f"pool{stage[0]}", nn.MaxPool3d(kernel, padding=padding)))
        channels = width
    return layers


def _rows(state: State, layer: str, default: int) -> int:
    """Output width of a layer; the published one where no weight tells, so that all faults get listed."""
    for value in (state.get(f"{layer}.weight"), state.get(f"{layer}.bias")):
        if value is not None and value.ndim and value.numel():
            return int(value.shape[0])
    return default


def _is_sports1m(state: State) -> bool:
    return _rows(state, "fc8", SPORTS1M_CLASSES) == SPORTS1M_CLASSES


def _renamer(*published: Sequence[str]) -> Callable[[str], str | None]:
    """Rename layers listed in network order, as one or several publishers call them."""
    own = {layer: name for names in published for layer, name in zip(names, LAYERS, strict=True)}

    def rename(key: str) -> str | None:
        layer, _, kind = key.rpartition(".")
        return f"{own[layer]}.{kind}" if layer in own and kind in ("weight", "bias") else None

    return rename


_SPORTS1M_LAYERS = (
    *(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)),
    *(f"classifier.{i}" for i in (0, 3, 6)),
)
_MMACTION2_LAYERS = (
    *(f"backbone.{name}.conv" for name in ("conv1a", "conv2a", *CONVOLUTIONS[2:])),
    "backbone.fc6",
    "backbone.fc7",
    "cls_head.fc_cls",
)

_JFZHANG_PROFILE = Profile(
    family="c3d-jfzhang",
    # Rows 8:120 and columns 30:142 of a 171x128 frame: half a pixel goes up.
    view=View(resize=(171, 128), crop=(112, 112), crop_rounding="round", clip_length=16),
    colour_order="BGR",
    scale=1.0,
    mean=(90.0, 98.0, 102.0),
    std=(1.0, 1.0, 1.0),
    label_order="sorted",
)
_SPORTS1M_PROFILE = dataclasses.replace(
    _JFZHANG_PROFILE, family="c3d-sports1m", mean=(90.25, 97.66, 101.41), label_order="classInd"
)
_MMACTION2_PROFILE = Profile(
    family="c3d-mmaction2",
    view=View(resize=128, crop=(112, 112), crop_rounding="floor", clip_length=16),
    colour_order="RGB",
    scale=1.0,
    mean=(104.0, 117.0, 128.0),
    std=(1.0, 1.0, 1.0),
    label_order="classInd",
)

FAMILIES = (
    Family("c3d-jfzhang", _renamer(LAYERS), _JFZHANG_PROFILE, lambda state: not _is_sports1m(state)),
    Family("c3d-sports1m", _renamer(LAYERS, _SPORTS1M_LAYERS), _SPORTS1M_PROFILE, _is_sports1m),
    Family("c3d-mmaction2", _renamer(_MMACTION2_LAYERS), _MMACTION2_PROFILE),
)
