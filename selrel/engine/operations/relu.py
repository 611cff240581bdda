"""Rectifiers: plain, leaky and with a ceiling."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selrel.engine.operations import Call, Operation
from selrel.engine.ties import where_positive

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Relu(Operation):
    """The rectifier, active where its input is positive by more than rounding.

    Attributes
    ----------
    slope
        What it lets through below 0: LeakyReLU's slope, 0 up to 1.
    ceiling
        Its highest output: ReLU6's 6. It is not active where its input reaches it.
    in_place
        Whether it overwrites its input; only one without slope and ceiling may.
    """

    slope: float = 0.0
    ceiling: float = math.inf
    in_place: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is the rectifier of the textbooks, max(0, x)."""
        return self.slope == 0 and self.ceiling == math.inf

    def forward(self, *inputs: Tensor) -> Tensor:
        """Rectify."""
        if self.plain:
            return inputs[0].relu_() if self.in_place else inputs[0].relu()
        if self.slope:
            return torch.nn.functional.leaky_relu(inputs[0], self.slope)
        return inputs[0].clamp(0, self.ceiling)

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Pass the gradient where the rectifier is active, in place, and the slope's share elsewhere."""
        leaked = gradient * self.slope if self.slope else None
        passed = where_positive(gradient, inputs[0], rounding[0])
        if self.ceiling < math.inf:
            passed = where_positive(passed, self.ceiling - inputs[0], rounding[0])
        # (1 - slope) of what is active, and the slope's share of everything.
        return (passed if leaked is None else passed.mul_(1 - self.slope).add_(leaked),)

    def nonnegative(self, inputs: bool) -> bool:
        """Only a leaky one lets negative entries through."""
        return inputs or self.slope == 0

    def size(self, inputs: Sequence[Tensor], sizes: Iterator[Tensor], output: Tensor) -> Tensor:
        """Return the size of the input: a rectifier adds nothing up."""
        (size,) = sizes
        return size


def _leaky(call: Call) -> Relu:
    slope = call.argument(1, "negative_slope", 0.01)
    if not 0 <= slope <= 1:
        raise call.refusal(f"its slope is {slope}, and only slopes of 0 to 1 have a rule")
    return Relu(slope=float(slope))


def _clamp(lowest: str, highest: str, default: tuple[float, float]) -> Callable[[Call], Relu]:
    """Translate what cuts values off at 0, and maybe at a ceiling, from the names of its two arguments."""

    def translate(call: Call) -> Relu:
        low, high = call.argument(1, lowest, default[0]), call.argument(2, highest, default[1])
        if low != 0 or not high > 0:
            raise call.refusal(f"it keeps values in {low} to {high}, and only ranges from 0 on have a rule")
        return Relu(ceiling=float(high))

    return translate


TRANSLATIONS: dict[object, Callable[[Call], Relu]] = {
    aten.relu.default: lambda call: Relu(),
    aten.leaky_relu.default: _leaky,
    aten.relu6.default: _clamp("", "", (0, 6)),
    aten.hardtanh.default: _clamp("min_val", "max_val", (-1, 1)),
    aten.clamp.default: _clamp("min", "max", (-math.inf, math.inf)),
    aten.clamp_min.default: _clamp("min", "", (-math.inf, math.inf)),
}
