"""Which of several equal values wins, and which values are 0: decided by rule, never by rounding.

Over a still or uniform part of a clip, values are equal in exact arithmetic, and differ by a few roundings
in floating point. Those depend on the processor, the number of threads, the memory layout and the dtype,
and so would the winner of a pooling and the state of a rectifier at 0. Here, values closer than a stated
difference count as equal; the first of them wins, and what is as close to 0 counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Values count as equal up to this part of the size of the sums behind them (`Layer.size`), and of the highest
# value of a window: the same for float32 and float64, or they would choose differently. Measured in float32 on
# real, still and uniform clips, from the first layer of C3D to its last: roundings reach 3e-6 of that size.
EQUAL = 2.0**-18

Windows = Sequence[tuple[slice, slice]]
"""A pooling along one axis: pairs of outputs, and of the inputs that come next in their windows."""


def regular_windows(
    size: int, count: int, *, kernel: int, stride: int, padding: int, dilation: int
) -> Windows:
    """The windows of a plain pooling with `count` outputs along an axis of `size` inputs."""
    windows = []
    for start in range(-padding, -padding + kernel * dilation, dilation):
        inside = [i for i in range(count) if 0 <= start + i * stride < size]
        if inside:
            first, last = (start + i * stride for i in (inside[0], inside[-1]))
            windows.append((slice(inside[0], inside[-1] + 1), slice(first, last + 1, stride)))
    return tuple(windows)


def adaptive_windows(size: int, count: int) -> Windows:
    """The windows of an adaptive pooling; with one output, the whole axis."""
    if size % count == 0:
        kernel = size // count
        return regular_windows(size, count, kernel=kernel, stride=kernel, padding=0, dilation=1)
    return tuple(
        (slice(i, i + 1), slice(j, j + 1))
        for i in range(count)
        for j in range(i * size // count, -(-(i + 1) * size // count))
    )


def highest(x: Tensor, axis: int, windows: Windows) -> Tensor:
    """The highest value of every window along an axis, counted from the last (-1)."""
    shape = list(x.shape)
    shape[axis] = max(outputs.stop for outputs, _ in windows)
    top = torch.empty_permuted(shape, x.dim_order(), dtype=x.dtype, device=x.device).fill_(-torch.inf)
    for outputs, inputs in windows:
        here = _along(top, axis, outputs)
        torch.maximum(here, _along(x, axis, inputs), out=here)
    return top


def to_first(
    gradient: Tensor, x: Tensor, top: Tensor, axis: int, windows: Windows, rounding: Tensor
) -> Tensor:
    """Give each window's gradient, which is used up, to its first value that counts as the highest.

    Parameters
    ----------
    gradient, top
        What arrives at the windows of `x` along `axis`, and `highest` of them.
    rounding
        The difference up to which two values of x count as equal, broadcastable to it.

    Returns
    -------
    A tensor of the shape of x.
    """
    found = torch.zeros_like(x)
    # Below the highest in any case: one value is above the bar, also among zeros.
    bar = (top - EQUAL * top.abs()).sub_(rounding.clamp(min=torch.finfo(torch.float32).tiny))
    for outputs, inputs in windows:
        left = _along(gradient, axis, outputs)
        given = above(left, _along(x, axis, inputs), _along(bar, axis, outputs))
        _along(found, axis, inputs).add_(given)
        left.sub_(given)
    return found


def above(values: Tensor, x: Tensor, bar: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The values where x is above a bar, broadcastable to it, and 0 elsewhere."""
    out = torch.empty_like(values) if out is None else out
    # By frames, so that the difference is no further map in memory.
    parts = (t.split(1, dim=2) if x.dim() == 5 else (t,) for t in (values, x, bar.expand_as(x), out))
    for value, entry, least, place in zip(*parts, strict=True):
        torch.ops.aten.threshold_backward.grad_input(value, entry - least, 0, grad_input=place)
    return out


def _along(x: Tensor, axis: int, part: slice) -> Tensor:
    return x[(..., part, *(slice(None),) * (-axis - 1))]
