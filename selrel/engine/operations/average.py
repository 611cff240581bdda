"""Average pooling, means and sums over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selrel.engine.operations import Call, Operation, transpose_of

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Average(Operation):
    """A linear map with fixed coefficients that are not negative."""

    function: Callable[[Tensor], Tensor]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Average."""
        return self.function(inputs[0])

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Spread the gradient over what was averaged."""
        return transpose_of(self.function, gradient, inputs)


def _pooling(call: Call) -> Average:
    return Average(call.applied())


def _over_axes(call: Call) -> Average:
    if any(d in (0, -call.input_rank) for d in call.argument(1, "dim")):
        raise call.refusal("it averages over the batch")
    return Average(call.applied())


TRANSLATIONS = {
    aten.avg_pool1d.default: _pooling,
    aten.avg_pool2d.default: _pooling,
    aten.avg_pool3d.default: _pooling,
    aten.adaptive_avg_pool1d.default: _pooling,
    aten.adaptive_avg_pool2d.default: _pooling,
    aten.adaptive_avg_pool3d.default: _pooling,
    aten.mean.dim: _over_axes,
    aten.sum.dim_IntList: _over_axes,
}
