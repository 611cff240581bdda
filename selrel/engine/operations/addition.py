"""The sum of two tensors of the same shape: a residual connection."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selrel.engine.operations import Call, Operation
from selrel.engine.operations.routing import identity

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Addition(Operation):
    """The sum of two tensors of the same shape."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Add."""
        return inputs[0] + inputs[1]

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Give the gradient to both, each its own, since either may be overwritten."""
        return gradient, gradient.clone()

    def size(self, inputs: Sequence[Tensor], sizes: Iterator[Tensor], output: Tensor) -> Tensor:
        """Return the size of the sums in the output."""
        first, second = sizes
        return first + second


def _addition(call: Call) -> Operation:
    # Python's sum begins with 0.
    if call.node.args[1:] in ((0,), (0.0,)):
        return identity(call)
    summands = call.tensor_arguments
    shapes = {tuple(s.meta["val"].shape) for s in summands if "val" in s.meta}
    if len(summands) != 2 or len(shapes) != 1 or call.argument(2, "alpha", 1) != 1:
        raise call.refusal("only the plain sum of two tensors of one shape has a rule")
    if any(s.name in call.tensors for s in summands):
        raise call.refusal("it adds a parameter; give the layer before it a bias instead")
    return Addition()


TRANSLATIONS = {aten.add.Tensor: _addition}
