"""Operations that only move values: views, slices, parts, padding with zeros, concatenation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from selrel.engine.operations import Call, Operation, transpose_of
from selrel.engine.private_torch import UNSAFE_VIEW

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Routing(Operation):
    """A function that only moves values.

    `keeps_axes` says whether the axes of time, height and width are still where they were.
    """

    function: Callable[..., Tensor]
    keeps_axes: bool = True
    only_moves = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """Move the values."""
        return self.function(*inputs)

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Move the gradient back to where its value came from."""
        return transpose_of(self.function, gradient, inputs)

    def size(self, inputs: Sequence[Tensor], sizes: Iterator[Tensor], output: Tensor) -> Tensor:
        """Return the largest size of each clip, since channels may have moved; all of it if nothing moved."""
        return next(sizes) if output is inputs[0] else super().size(inputs, sizes, output)


def same(x: Tensor) -> Tensor:
    """Move nothing."""
    return x


def identity(call: Call) -> Routing:
    """Translate what changes nothing, as dropout in eval mode."""
    return Routing(same)


def _reshape(call: Call) -> Routing:
    rest = call.shape[1:]
    return Routing(lambda x: x.reshape(len(x), *rest), keeps_axes=call.shape == call.input_shape)


def _slice(call: Call) -> Routing:
    if call.argument(1, "dim", 0) % call.input_rank == 0:
        raise call.refusal("it cuts the batch")
    return Routing(call.applied())


def _part(call: Call, *, dim: int) -> Routing:
    """Translate one of the tensors that a division gives; `dim` is the position of that argument."""
    if call.argument(dim, "dim", 0) % call.input_rank == 0:
        raise call.refusal("it cuts the batch")
    divide, part = call.applied(), call.part
    return Routing(lambda x: divide(x)[part])


def _permute(call: Call) -> Routing:
    order = [d % len(call.shape) for d in call.argument(1, "dims")]
    if order[0] != 0:
        raise call.refusal("it moves the batch axis")
    return Routing(lambda x: x.permute(order), keeps_axes=order == sorted(order))


def _transpose(call: Call) -> Routing:
    first, second = (d % len(call.shape) for d in (call.argument(1, "dim0"), call.argument(2, "dim1")))
    if 0 in (first, second):
        raise call.refusal("it moves the batch axis")
    return Routing(lambda x: x.transpose(first, second), keeps_axes=first == second)


def _pad(call: Call) -> Routing:
    if call.node.target is aten.constant_pad_nd.default:
        mode, value = "constant", call.argument(2, "value", 0) or 0
    else:
        mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value", 0) or 0
    if mode != "constant" or value != 0:
        raise call.refusal(f"it pads with {value if mode == 'constant' else mode}, not with zeros")
    size = call.argument(1, "pad")
    return Routing(lambda x: torch.nn.functional.pad(x, size))


def _concatenation(call: Call) -> Routing:
    axis = call.argument(1, "dim", 0)
    if axis % len(call.shape) == 0:
        raise call.refusal("it concatenates along the batch")
    return Routing(lambda *xs: torch.cat(xs, axis))


def _stack(call: Call) -> Routing:
    axis = call.argument(1, "dim", 0) % len(call.shape)
    if axis == 0:
        raise call.refusal("it stacks before the batch axis")
    return Routing(lambda *xs: torch.stack(xs, axis))


TRANSLATIONS = {
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    UNSAFE_VIEW: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.squeeze.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.slice.Tensor: _slice,
    aten.select.int: _slice,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.cat.default: _concatenation,
    aten.stack.default: _stack,
    aten.clone.default: identity,
    aten.alias.default: identity,
    aten.contiguous.default: identity,
    aten.dropout.default: identity,
    aten.feature_dropout.default: identity,
}
PARTS = {
    aten.split.Tensor: partial(_part, dim=2),
    aten.split_with_sizes.default: partial(_part, dim=2),
    aten.unbind.int: partial(_part, dim=1),
}
