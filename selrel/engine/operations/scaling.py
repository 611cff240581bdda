"""A factor and a shift for every channel: batch norms in eval mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from selrel.engine.operations import Call, Operation
from selrel.engine.private_torch import BATCH_NORM


@dataclass(frozen=True, eq=False)
class Scaling(Operation):
    """A factor and a shift for every channel."""

    factor: Tensor
    shift: Tensor
    only_moves = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """Scale and shift."""
        return inputs[0] * self._view(self.factor, inputs[0]) + self._view(self.shift, inputs[0])

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Scale."""
        return (gradient * self._view(self.factor, inputs[0]),)

    def nonnegative(self, inputs: bool) -> bool:
        """A factor or a shift may be negative."""
        return False

    def size(self, inputs: Sequence[Tensor], sizes: Iterator[Tensor], output: Tensor) -> Tensor:
        """Return the size of the sums in the output, by clip and channel."""
        (size,) = sizes
        return size * self._view(self.factor, size).abs() + self._view(self.shift, size).abs()

    @staticmethod
    def _view(values: Tensor, x: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (x.dim() - 2))


def _batch_norm(call: Call) -> Scaling:
    """Translate in float64, since a layer may take the batch norm in, and that must not cost accuracy."""
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    mean, variance = call.argument(3, "running_mean"), call.argument(4, "running_var")
    if mean is None or variance is None:
        raise call.refusal("it has no running statistics")
    factor = (variance.double() + call.argument(6, "eps")).rsqrt()
    factor = factor if weight is None else factor * weight
    return Scaling(factor, -mean * factor if bias is None else bias - mean * factor)


TRANSLATIONS = {BATCH_NORM: _batch_norm}
