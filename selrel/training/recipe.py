"""How a model is trained: the recipe, checked when it is made."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Schedule = Literal["plateau", "cosine"]
Sampling = Literal["random", "balanced"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the paper's (Hiley et al. 2020, section 5.1).

    Attributes
    ----------
    epochs : int
        Passes over all samples.
    batch_size : int
        Clips of one step.
    learning_rate, momentum : float
        Of stochastic gradient descent.
    schedule : "plateau" or "cosine"
        The rate is divided by 10 after `patience` epochs in which the training loss did not fall; or it
        rises over the first 15 % of the steps and falls to zero along a cosine.
    patience : int
        Epochs; of "plateau" only.
    sampling : "random" or "balanced"
        Every clip once an epoch; or as many clips an epoch, an equal share of every class, those of a small
        class several times.
    pixel_unit : float
        Pixels are counted in this unit while training, which brings those of 0..255 near unit variance;
        the weights that come out take the profile's own pixels. A power of two makes that exact.
    max_gradient_norm : float, optional
        Longer gradients are shortened to this.
    jitter : int
        A clip starts up to this many frames earlier or later.
    random_crop : bool
        Crop anywhere in the resized frame, not in its centre.
    flip : bool
        Mirror every other clip, left to right, by chance.
    colour : float
        0 to 1: how far brightness and colour balance of a clip are changed at random, and whether (above
        0) its channels change places.
    precision : "float32" or "bfloat16"
        Of the arithmetic of a step; weights, their updates and the measurements are float32 in both.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    momentum: float = 0.9
    schedule: Schedule = "plateau"
    patience: int = 10
    sampling: Sampling = "random"
    pixel_unit: float = 1.0
    max_gradient_norm: float | None = None
    jitter: int = 0
    random_crop: bool = False
    flip: bool = False
    colour: float = 0.0
    precision: Precision = "float32"

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
        for name, choices in (("schedule", Schedule), ("sampling", Sampling), ("precision", Precision)):
            allowed = get_args(choices)
            _check(name, getattr(self, name), getattr(self, name) in allowed, f"one of {', '.join(allowed)}")


def _check(name: str, value: object, allowed: bool, wanted: str) -> None:
    if not allowed:
        raise ValueError(f"{name} is {value}; give {wanted}")
