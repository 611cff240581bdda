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

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Two values count as equal up to this part of the size of the sums behind them (`Layer.size`) and of their
# window's highest: in float32 and float64 alike, or they would choose differently. Measured in float32 on
# real, still and uniform clips, in every layer of C3D, R3D-18, ResNet3D-50 and I3D: roundings reach
# 3.4e-6 of that size, a ninth of this.
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


def to_first(gradient: Tensor, x: Tensor, windows: Sequence[Windows], rounding: Tensor) -> Tensor:
    """Give each window's gradient to its first value that counts as the highest.

    One axis after another: of the last three axes, the first frame whose maximum counts as the highest, in it
    the first row whose maximum does, in it the first value that does.

    Parameters
    ----------
    gradient
        What arrives at the windows of `x`.
    windows
        Those along each of the last axes of x.
    rounding
        The difference up to which two values of x count as equal, broadcastable to it.

    Returns
    -------
    A tensor of the shape of x.
    """
    shares = torch.zeros_like(x)
    for outputs, inputs, within in _blocks(x, windows):
        shares[inputs] += _to_first(gradient[outputs], x[inputs], within, rounding[outputs[:1]])
    return shares


def maxima(x: Tensor, windows: Sequence[Windows]) -> list[Tensor]:
    """Return the input, and its maxima along the last axis, the last two, and so on."""
    stages = [x]
    for axis, along in reversed(list(enumerate(windows, start=-len(windows)))):
        last = stages[-1]
        shape = list(last.shape)
        shape[axis] = max(outputs.stop for outputs, _ in along)
        # In the layout of x, and lower than any value.
        top = torch.empty_permuted(shape, last.dim_order(), dtype=x.dtype, device=x.device).fill_(-torch.inf)
        for outputs, inputs in along:
            here = _part(top, axis, outputs)
            torch.maximum(here, _part(last, axis, inputs), out=here)
        stages.append(top)
    return stages


@dataclass
class Winners:
    """The winners of one pooling of a forward pass, for any number of backward passes.

    A library's pooling is fast, and right wherever no other value comes close to the highest. The few windows
    in which one does are looked for once.

    Attributes
    ----------
    x, top, indices
        Input, output and plain winners of the library's pooling.
    backward
        The library's pullback, given a gradient, x and indices.
    windows, rounding
        As for `to_first`.
    rectified
        Whether x is known to have no negative entry.
    """

    x: Tensor
    top: Tensor
    indices: Tensor
    backward: Callable[[Tensor, Tensor, Tensor], Tensor]
    windows: Sequence[Windows]
    rounding: Tensor
    rectified: bool
    close: tuple[Sequence[Tensor], Sequence[Tensor], Tensor] | None = None
    """Of each voxel that gets part of such a window: the window, the voxel and its share."""

    def pullback(self, gradient: Tensor) -> Tensor:
        """Give the gradient of each window, which may be overwritten, to its winner."""
        if self.close is None:
            self.close = self._find_close()
        windows, voxels, share = self.close
        given = gradient[tuple(windows)] * share
        gradient[tuple(windows)] = 0
        shares = self.backward(gradient, self.x, self.indices)
        return shares.index_put_(tuple(voxels), given, accumulate=True)

    def _find_close(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor]:
        parts, close = [], []
        for outputs, inputs, within in _blocks(self.x, self.windows):
            top = self.top[outputs]
            bar = top - top.abs().mul_(EQUAL).add_(self.rounding[outputs[:1]])
            excess = _excess(self.x[inputs], top, bar, within)
            # Where the highest is 0, behind a rectifier all are, and the plain winner is the first.
            close.append(_positive(excess.mul_(top.sign()) if self.rectified else excess))
            for axis, part in enumerate(outputs):
                close[-1][:, axis] += part.start or 0
            # In a uniform clip all windows are close: some at a time.
            if sum(map(len, close)) > 2**18:
                parts.append(self._shares(torch.cat(close)))
                close.clear()
        parts.append(self._shares(torch.cat(close or [self.indices.new_empty(0, self.top.dim())])))
        windows, voxels, shares = (torch.cat(each, dim=-1) for each in zip(*parts, strict=True))
        return tuple(windows), tuple(voxels), shares

    def _shares(self, close: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the voxels of some close windows get, where the library gives them something else.

        `close` are the positions of the windows in the output, (window, axis).
        """
        axes, rank = len(self.windows), self.top.dim()
        tables = [_table(along).to(close.device) for along in self.windows]
        first = torch.zeros_like(close[:, 0])
        for axis, table in enumerate(tables, start=-axes):
            first = first * self.x.shape[axis] + table[close[:, axis], 0]
        # The plain winner wins where it is the first: the quick way through uniform clips.
        close = close[self.indices[tuple(close.T)] != first]
        before = [close[:, axis].view(-1, *(1,) * axes) for axis in range(rank - axes)]
        positions = []
        for axis, table in enumerate(tables, start=-axes):
            taken = table[close[:, axis]]
            positions.append(
                taken.view(len(close), *(taken.shape[1] if a == axis else 1 for a in range(-axes, 0)))
            )
        voxels = torch.broadcast_tensors(*before, *positions)  # type: ignore[no-untyped-call]
        outside = torch.stack([at < 0 for at in voxels[-axes:]]).any(dim=0)
        values = self.x[voxels].masked_fill(outside, -torch.inf)
        whole = [tuple((slice(0, 1), slice(i, i + 1)) for i in range(n)) for n in values.shape[1:]]
        equal = self.rounding.expand(*self.top.shape[: rank - axes], *(1,) * axes)
        equal = equal[tuple(close[:, : rank - axes].T)]
        share = _to_first(torch.ones_like(equal), values, whole, equal)
        plain = self.indices[tuple(close.T)].view(-1, *(1,) * axes)
        flat = voxels[-axes]
        for axis in range(1 - axes, 0):
            flat = flat * self.x.shape[axis] + voxels[axis]
        differs = ((share > 0) & (flat != plain)).flatten(1).any(dim=1)
        chosen = (share > 0) & differs.view(-1, *(1,) * axes)
        return close.T[:, chosen.nonzero()[:, 0]], torch.stack([at[chosen] for at in voxels]), share[chosen]


def _excess(x: Tensor, top: Tensor, bar: Tensor, windows: Sequence[Windows]) -> Tensor:
    """How far the values of a window, its highest apart, lie above its bar in all: exactly 0 if none does."""
    excess, above = torch.zeros_like(top), torch.empty_like(top)
    for along in itertools.product(*windows):
        outputs: tuple[Any, ...] = (..., *(outputs for outputs, _ in along))
        inputs: tuple[Any, ...] = (..., *(inputs for _, inputs in along))
        part = torch.sub(x[inputs], bar[outputs], out=above[outputs])
        excess[outputs] += part.clamp_(min=0)
    return excess.sub_(top - bar)


def _positive(x: Tensor) -> Tensor:
    """Where x is positive, as `nonzero` has it, which would take long: first where it is in any channel."""
    anywhere = (x.amax(dim=1) > 0).nonzero()
    at, channel = (x.movedim(1, -1)[tuple(anywhere.T)] > 0).nonzero().T
    return torch.cat([anywhere[at, :1], channel[:, None], anywhere[at, 1:]], dim=1)


def _table(windows: Windows) -> Tensor:
    """The inputs of every output's window, (output, input of its window); -1 after its last."""
    taken = [inputs_of(windows, output) for output in range(max(outputs.stop for outputs, _ in windows))]
    longest = max(map(len, taken))
    return torch.tensor([inputs + [-1] * (longest - len(inputs)) for inputs in taken])


def _to_first(gradient: Tensor, x: Tensor, windows: Sequence[Windows], rounding: Tensor) -> Tensor:
    """Do what `to_first` does, for all of x at once."""
    stages = maxima(x, windows)
    for axis, along in enumerate(windows, start=-len(windows)):
        top, below = stages.pop(), stages[-1]
        once = apart(along)
        shares = torch.zeros_like(below)
        width = top.abs().mul_(EQUAL / 2).add_(rounding / 2)
        bar, left = top - width, gradient.clone()
        for outputs, inputs in along:
            rest, target = _part(left, axis, outputs), _part(shares, axis, inputs)
            # Only the highest is left where nothing before it counts: the last takes what is left.
            given = rest
            if outputs != along[-1][0] or inputs != along[-1][1]:
                entries = _part(below, axis, inputs)
                share = _share(entries, _part(bar, axis, outputs), _part(width, axis, outputs))
                given = share.mul_(rest)
                rest.sub_(given)
            target.copy_(given) if once else target.add_(given)
        gradient = shares
    return gradient


def _blocks(
    x: Tensor, windows: Sequence[Windows]
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...], Sequence[Windows]]]:
    """Cut a pooling into clips and frames, so that what is in between fits a processor's cache."""
    if x.dim() != 5 or len(windows) != 3 or not apart(windows[0]):
        yield (), (), windows
        return
    every = slice(None)
    for clip in range(len(x)):
        clips = slice(clip, clip + 1)
        for frame in range(max(outputs.stop for outputs, _ in windows[0])):
            taken = inputs_of(windows[0], frame)
            frames = slice(taken[0], taken[-1] + 1, taken[1] - taken[0] if len(taken) > 1 else 1)
            one = tuple((slice(0, 1), slice(i, i + 1)) for i in range(len(taken)))
            outputs = (clips, every, slice(frame, frame + 1))
            yield outputs, (clips, every, frames), (one, *windows[1:])


def inputs_of(windows: Windows, output: int) -> list[int]:
    """The inputs in one output's window."""
    return [
        inputs.start + (output - outputs.start) * (inputs.step or 1)
        for outputs, inputs in windows
        if outputs.start <= output < outputs.stop
    ]


def apart(windows: Windows) -> bool:
    """Whether no input is in two of the windows along an axis."""
    count = max(outputs.stop for outputs, _ in windows)
    taken = [i for output in range(count) for i in inputs_of(windows, output)]
    return len(taken) == len(set(taken))


def positive_part(x: Tensor, rounding: Tensor) -> Tensor:
    """The positive part of x, without what counts as 0."""
    return where_positive(x.clamp(min=0), x, rounding)


def where_positive(values: Tensor, x: Tensor, rounding: Tensor) -> Tensor:
    """The values where x is positive, 0 where it counts as 0, in place."""
    # By frames, so that no further map is in memory.
    maps = (values, x, (2 / rounding).expand_as(x))
    parts = (torch.split(t, 1, dim=2) if x.dim() == 5 else (t,) for t in maps)
    for value, entry, scale in zip(*parts, strict=True):
        # `_share` of a bar that is twice its width, in fewer steps.
        value.mul_((entry * scale).sub_(1).clamp_(0, 1))
    return values


def first_highest(logits: Tensor) -> Tensor:
    """Of each row, the first entry that counts as its highest: what a model predicts, int64 (clip,)."""
    top = logits.amax(dim=1, keepdim=True)
    near = logits >= top - EQUAL / 2 * logits.abs().amax(dim=1, keepdim=True)
    # The first of several highest, which argmax leaves open.
    return logits.shape[1] - (near * torch.arange(logits.shape[1], 0, -1, device=near.device)).amax(dim=1)


def _share(x: Tensor, bar: Tensor, width: Tensor) -> Tensor:
    """1 where x reaches a bar, 0 where it is a width below, and in proportion between."""
    return (x - bar).div_(width).add_(1).clamp_(0, 1)


def _part(x: Tensor, axis: int, part: slice) -> Tensor:
    index: tuple[Any, ...] = (..., part, *(slice(None),) * (-axis - 1))
    return x[index]
