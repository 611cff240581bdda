"""Which of several equal values wins, and which values are 0: decided by rule, never by rounding.

Over a still or uniform part of a clip, values are equal in exact arithmetic, and differ by a few roundings
in floating point. Those depend on the processor, the number of threads, the memory layout and the dtype,
and so would the winner of a pooling and the state of a rectifier at 0. Here, values count as equal up to a
stated difference; the first of them wins, and what is as close to 0 counts as 0.

Any such border is one that other values happen to lie at. So it is no jump: values count as equal up to
half of that difference, and less and less up to all of it, and rounding moves what a window gives by a
hundredth of it where a sharp border would turn it over.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Two values count as equal up to this part of the size of the sums behind them (`Layer.size`) and of their
# window's highest: in float32 and float64 alike, or they would choose differently. Measured in float32 on real,
# still and uniform clips, in every layer of C3D, R3D-18, ResNet3D-50 and I3D: roundings reach 3.4e-6 of that
# size, a ninth of this.
EQUAL = 2.0**-15

# Smaller values are exact zeros; it keeps their differences apart from none.
TINY = 1e-30

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
    width = (EQUAL * top.abs()).add_(rounding).div_(2)
    bar = top - width
    for outputs, inputs in windows:
        left = _along(gradient, axis, outputs)
        entries = _along(x, axis, inputs)
        given = _above(left, entries, _along(bar, axis, outputs), _along(width, axis, outputs))
        _along(found, axis, inputs).add_(given)
        left.sub_(given)
    return found


def positive_part(x: Tensor, rounding: Tensor) -> Tensor:
    """The positive part of x, without what counts as 0."""
    return where_positive(x.clamp(min=0), x, rounding)


def where_positive(values: Tensor, x: Tensor, rounding: Tensor) -> Tensor:
    """The values where x is positive, 0 where it counts as 0, in place."""
    return _above(values, x, rounding, rounding / 2, out=values)


def first_highest(logits: Tensor) -> Tensor:
    """Of each row, the first entry that counts as its highest: what a model predicts, int64 (clip,)."""
    top = logits.amax(dim=1, keepdim=True)
    near = logits >= top - EQUAL / 2 * logits.abs().amax(dim=1, keepdim=True)
    # The first of several highest, which argmax leaves open.
    return logits.shape[1] - (near * torch.arange(logits.shape[1], 0, -1, device=near.device)).amax(dim=1)


def _above(values: Tensor, x: Tensor, bar: Tensor, width: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The values where x reaches a bar, 0 where it is a width below, and in proportion between."""
    out = torch.empty_like(values) if out is None else out
    # By frames, so that no further map is in memory.
    maps = (values, x, bar.expand_as(x), width.expand_as(x), out)
    parts = (t.split(1, dim=2) if x.dim() == 5 else (t,) for t in maps)
    for value, entry, least, below, place in zip(*parts, strict=True):
        torch.mul(value, (entry - least).div_(below).add_(1).clamp_(0, 1), out=place)
    return out


def _along(x: Tensor, axis: int, part: slice) -> Tensor:
    return x[(..., part, *(slice(None),) * (-axis - 1))]
