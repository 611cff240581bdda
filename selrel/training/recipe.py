"""How a model is trained: the recipe, checked when it is made."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

Sampling = Literal["random", "balanced"]


def _setting(default: Any, about: str) -> Any:
    return field(default=default, metadata={"group": "Recipe", "help": about, "kept": None})


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; the defaults are the paper's (Hiley et al. 2020, section 5.1).

    What each setting does is told beside it, which is what the command line shows.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    epochs: int = _setting(100, "Passes over all clips.")
    batch_size: int = _setting(32, "Clips of one step.")
    learning_rate: float = _setting(1e-3, "Of stochastic gradient descent, in the first epochs.")
    momentum: float = _setting(0.9, "Of stochastic gradient descent.")
    schedule: Literal["plateau", "cosine"] = _setting(
        "plateau",
        "`plateau`: the rate is divided by 10 after `patience` epochs without a lower training loss; "
        "`cosine`: it rises over the first 15 % of the steps and falls to zero along a cosine.",
    )
    patience: int = _setting(10, "Epochs without progress, of `plateau`.")
    sampling: Sampling = _setting(
        "random",
        "Every clip once an epoch; or (`balanced`) as many clips an epoch, an equal share of every class, "
        "those of a small class several times.",
    )
    pixel_unit: float = _setting(
        1.0,
        "Pixels are counted in this unit while training; 64 brings those of 0..255 near unit variance, which "
        "helps new weights along. The weights that come out take the profile's own pixels; a power of two "
        "makes that exact.",
    )
    max_gradient_norm: float | None = _setting(None, "Longer gradients are shortened to this.")
    jitter: int = _setting(0, "A clip starts up to this many frames earlier or later.")
    random_crop: bool = _setting(False, "Crop anywhere in the resized frame, not in its centre.")
    flip: bool = _setting(False, "Mirror every other clip, left to right, by chance.")
    colour: float = _setting(
        0.0,
        "0 to 1: how far brightness and colour balance of a clip are changed by chance, and whether "
        "(above 0) its channels change places.",
    )
    precision: Literal["float32", "bfloat16"] = _setting(
        "float32",
        "Of the arithmetic of a step; `bfloat16` is about twice as fast on a GPU. Weights, their updates and "
        "the measurements are float32 in both.",
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        for name in ("epochs", "batch_size", "patience"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "a number above 0")
        # Far from where pixels or weights in that unit would be no float32 any more.
        _check("pixel_unit", self.pixel_unit, 1e-6 <= self.pixel_unit <= 1e6, "1e-6 to 1e6")
        norm = self.max_gradient_norm
        finite = norm is None or 0 < norm < math.inf
        _check("max_gradient_norm", norm, finite, "a finite number above 0, or leave it out")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "0 up to below 1")
        _check("jitter", self.jitter, self.jitter >= 0, "0 or more frames")
        _check("colour", self.colour, 0 <= self.colour <= 1, "0 to 1")
        for one in fields(self):
            if get_origin(one.type) is Literal:
                value, allowed = getattr(self, one.name), get_args(one.type)
                _check(one.name, value, value in allowed, f"one of {', '.join(allowed)}")


def _check(name: str, value: object, allowed: bool, wanted: str) -> None:
    if not allowed:
        raise ValueError(f"{name} is {value}; give {wanted}")
