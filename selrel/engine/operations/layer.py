"""What convolutions and linear layers share: a weight of which rules use parts, each made once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from selrel.engine.operations import Operation

Part = Callable[[Tensor], Tensor]
"""What a rule takes of a layer's weight."""


def whole(weight: Tensor) -> Tensor:
    """Return the weight itself."""
    return weight


def positive(weight: Tensor) -> Tensor:
    """Return the positive part of the weight."""
    return weight.clamp(min=0)


def negative(weight: Tensor) -> Tensor:
    """Return the negative part of the weight."""
    return weight.clamp(max=0)


@dataclass(frozen=True, eq=False)
class Layer(Operation):
    """A linear map with a weight and a bias."""

    weight: Tensor
    bias: Tensor | None
    forms: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Parts of the weight, and their layouts in memory, as they were first needed."""

    def form(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """Return a form of the weight, made at its first use."""
        if key not in self.forms:
            self.forms[key] = make()
        return self.forms[key]

    def part(self, part: Part) -> Tensor:
        """Return a part of the weight."""
        return self.weight if part is whole else self.form(part, lambda: part(self.weight))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the layer, with the bias."""
        return self.apply(inputs[0], whole, self.bias)

    @abstractmethod
    def apply(self, x: Tensor, part: Part, bias: Tensor | None = None) -> Tensor:
        """Apply a part of the weight in place of the whole."""

    @abstractmethod
    def transpose(self, gradient: Tensor, part: Part, x: Tensor) -> Tensor:
        """Apply the transpose of a part; `x` gives only the shape of the layer's input."""

    def transposes(self, gradient: Tensor, parts: tuple[Part, ...], x: Tensor) -> Sequence[Tensor]:
        """Apply the transposes of several parts to the same gradient."""
        return [self.transpose(gradient, part, x) for part in parts]

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Apply the transpose."""
        return (self.transpose(gradient, whole, inputs[0]),)

    def nonnegative(self, inputs: bool) -> bool:
        """Weights have both signs."""
        return False

    def size(self, inputs: Sequence[Tensor], sizes: Iterator[Tensor], output: Tensor) -> Tensor:
        """Return the size of the sums in the output, by clip and channel.

        Roundings of a sum add up as its summands would at random, so it is the norm of the weights times
        the clip's largest input, and the bias. The plain sum of magnitudes grows with the number of
        summands, which roundings don't: that of C3D's layers is 7 to 50 times as large.
        """
        (x,) = inputs
        weights = self.form("norm", lambda: self.by_output(self.weight.flatten(1).norm(dim=1)))
        highest = torch.maximum(x.amax(tuple(range(1, x.dim()))), -x.amin(tuple(range(1, x.dim()))))
        return weights * highest.view(-1, *(1,) * (x.dim() - 1)) + self.bias_view().abs()

    def by_output(self, values: Tensor) -> Tensor:
        """Return one value for each output channel, shaped to be combined with the output."""
        return values.view(-1, *(1,) * (self.weight.dim() - 2))

    def bias_view(self) -> Tensor:
        """Return the bias, shaped to be added to the output."""
        return self.weight.new_zeros(()) if self.bias is None else self.by_output(self.bias)
