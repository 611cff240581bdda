"""Fully connected layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from selrel.engine.operations.layer import Layer, Part

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """A fully connected layer."""

    def apply(self, x: Tensor, part: Part, bias: Tensor | None = None) -> Tensor:
        """Multiply by a part of the weight."""
        return torch.nn.functional.linear(x, self.part(part), bias)

    def transpose(self, gradient: Tensor, part: Part, x: Tensor) -> Tensor:
        """Multiply by the transpose of a part."""
        return gradient @ self.part(part)


TRANSLATIONS = {
    aten.linear.default: lambda call: Linear(call.argument(1, "weight"), call.argument(2, "bias")),
}
