"""A C3D of four convolutions for clips of 64x64, small enough to be trained many times over.

It is no published model: it is handed to the main job as a factory, as a model of the user's own is.
"""

from collections import OrderedDict

from torch import nn

from selrel.clips.profiles import Profile, View

WIDTHS = (8, 16, 32, 32)
HIDDEN = 64
N_OUTPUTS = 4


def make() -> tuple[nn.Module, Profile]:
    """Make the model, with new weights, and the profile of its inputs.

    As in C3D, every pooling halves and the last one leaves 1x4x4; the last convolution's map is 2x8x8.

    Returns
    -------
    model : torch.nn.Module
        Takes float32 (clip, 3, 16, 64, 64), gives four logits.
    profile : Profile
        RGB 0..255 minus 100.
    """
    layers: list[tuple[str, nn.Module]] = []
    channels = 3
    for number, width in enumerate(WIDTHS, start=1):
        layers.append((f"conv{number}", nn.Conv3d(channels, width, 3, padding=1)))
        layers.append((f"relu{number}", nn.ReLU()))
        layers.append((f"pool{number}", nn.MaxPool3d(2)))
        channels = width
    head: list[tuple[str, nn.Module]] = [
        ("flatten", nn.Flatten()),
        ("fc5", nn.Linear(channels * 4 * 4, HIDDEN)),
        ("relu5", nn.ReLU()),
        ("fc6", nn.Linear(HIDDEN, N_OUTPUTS)),
    ]
    profile = Profile(
        family="small-c3d",
        view=View(resize=(86, 64), crop=(64, 64), clip_length=16),
        colour_order="RGB",
        scale=1.0,
        mean=(100.0, 100.0, 100.0),
        std=(1.0, 1.0, 1.0),
        label_order="classInd",
    )
    return nn.Sequential(OrderedDict(layers + head)), profile
