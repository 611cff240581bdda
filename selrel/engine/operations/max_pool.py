"""Max pooling: plain, adaptive, and maxima over whole axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from selrel.engine.operations import Call, Operation
from selrel.engine.ties import Windows, adaptive_windows, maxima, regular_windows, to_first

aten = torch.ops.aten


@dataclass(frozen=True, eq=False)
class MaxPool(Operation):
    """Max pooling, plain or adaptive, over any of the axes but the first.

    Of what counts as highest, the first in (time, height, width) order wins: in the first frame whose maximum
    counts as the highest, in the first row of that frame whose maximum counts as its highest.

    Attributes
    ----------
    windows
        Those along each axis.
    with_indices, backward
        A library's pooling and its pullback (gradient, input, indices), where there is one.
    dropped
        Axes of one window each, in order and counted from the last (-1), that the output does without.
    """

    windows: tuple[Windows, ...]
    with_indices: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    backward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    dropped: tuple[int, ...] = ()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Pool."""
        return maxima(inputs[0], self.windows)[-1].squeeze(self.dropped)

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Give the gradient to the winner, which is found again: to keep it would take a map of indices."""
        for axis in self.dropped:
            gradient = gradient.unsqueeze(axis + inputs[0].dim())
        return (to_first(gradient, inputs[0], self.windows, self.of_windows(rounding[0])),)

    def size(self, inputs: Sequence[Tensor], sizes: Iterator[Tensor], output: Tensor) -> Tensor:
        """Return the size of the sums in the output: the same within a window."""
        (size,) = sizes
        return self.of_windows(size).squeeze(self.dropped)

    def of_windows(self, size: Tensor) -> Tensor:
        """Return the largest size along the pooled axes, which are kept."""
        return size.amax(tuple(range(-len(self.windows), 0)), keepdim=True)


def _plain(call: Call, *, axes: int) -> MaxPool:
    kernel = call.by_axis(1, "kernel_size", None, axes)
    stride, padding, dilation = (
        call.by_axis(index, name, default, axes)
        for index, name, default in ((2, "stride", kernel), (3, "padding", 0), (4, "dilation", 1))
    )
    along = zip(call.input_shape[-axes:], call.shape[-axes:], kernel, stride, padding, dilation, strict=True)
    windows = tuple(
        regular_windows(size, count, kernel=k, stride=s, padding=p, dilation=d)
        for size, count, k, s, p, d in along
    )
    if axes == 1:
        # torch has no pullback of its own there.
        return MaxPool(windows)
    with_indices = getattr(aten, f"max_pool{axes}d_with_indices").default
    backward = getattr(aten, f"max_pool{axes}d_with_indices_backward").default
    given = (kernel, stride, padding, dilation, call.argument(5, "ceil_mode", False))
    return MaxPool(
        windows,
        lambda x: with_indices(x, *given),
        lambda gradient, x, indices: backward(gradient, x, *given, indices),
    )


def _adaptive(call: Call, *, axes: int) -> MaxPool:
    counts = call.shape[-axes:]
    windows = tuple(map(adaptive_windows, call.input_shape[-axes:], counts))
    if axes == 1:
        return MaxPool(windows)
    with_indices = getattr(aten, f"adaptive_max_pool{axes}d").default
    backward = getattr(aten, f"adaptive_max_pool{axes}d_backward").default
    return MaxPool(windows, lambda x: with_indices(x, counts), backward)


def _over_axes(call: Call) -> MaxPool:
    """Translate a maximum over whole axes."""
    given = call.argument(1, "dim", ())
    rank = call.input_rank
    axes = sorted(axis % rank - rank for axis in ([given] if isinstance(given, int) else given))
    if not axes or axes[0] == -rank:
        raise call.refusal("it takes the maximum over the batch")
    sizes = {axis: call.input_shape[axis] for axis in range(axes[0], 0)}
    windows = tuple(adaptive_windows(n, 1 if axis in axes else n) for axis, n in sizes.items())
    return MaxPool(windows, dropped=() if call.argument(2, "keepdim", False) else tuple(axes))


TRANSLATIONS: dict[object, Callable[[Call], MaxPool]] = {
    aten.amax.default: _over_axes,
    aten.max.dim: _over_axes,
    aten.max_pool1d.default: partial(_plain, axes=1),
    aten.max_pool2d.default: partial(_plain, axes=2),
    aten.max_pool3d.default: partial(_plain, axes=3),
    aten.max_pool1d_with_indices.default: partial(_plain, axes=1),
    aten.max_pool2d_with_indices.default: partial(_plain, axes=2),
    aten.max_pool3d_with_indices.default: partial(_plain, axes=3),
    aten.adaptive_max_pool1d.default: partial(_adaptive, axes=1),
    aten.adaptive_max_pool2d.default: partial(_adaptive, axes=2),
    aten.adaptive_max_pool3d.default: partial(_adaptive, axes=3),
}
