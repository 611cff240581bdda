"""Deep Taylor decomposition of one clip, restated slowly from the papers in float64 numpy.

Knows nothing of the engine: a linear layer is the dense matrix that it applies to basis vectors, and
every rule is written out as contributions of single inputs to single outputs.

What counts as equal is restated, too: values that differ by half of EQUAL times their size, the norm of the
weights behind them times the largest input, plus the bias. From there to the whole of it they count in part.
"""

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Array = NDArray[np.float64]

EQUAL = 2.0**-15


@dataclass(eq=False)
class Value:
    """An intermediate result, and how its relevance goes to where it came from.

    `bounds` are the lowest and highest value of every entry, where the entries are pixels. `size` is that of
    the sums behind the entries, broadcastable to them.
    """

    array: Array
    size: Array
    sources: tuple["Value", ...] = ()
    give: Callable[[Array], Sequence[Array]] = lambda relevance: ()
    bounds: tuple[Array, Array] | None = None
    relevance: Array = field(init=False)


class SlowRelevance:
    """Records a forward pass of one clip; `decompose` walks it backwards.

    `lost` is the relevance that met a denominator of zero.
    """

    def __init__(self, clip: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> None:
        shape = tuple(clip.shape)
        bounds = tuple(np.broadcast_to(b.double().numpy()[:, None, None, None], shape) for b in (low, high))
        pixels = clip.double().numpy()
        self.clip = Value(pixels, np.abs(pixels).max(), bounds=(bounds[0], bounds[1]))
        self.values = [self.clip]

    def decompose(self, output: Value, start: Array, *, alpha: float = 1.0) -> Array:
        self.alpha, self.lost = alpha, 0.0
        for value in self.values:
            value.relevance = np.zeros(value.array.shape)
        output.relevance = np.asarray(start, float).reshape(output.array.shape)
        for value in reversed(self.values):
            for source, share in zip(value.sources, value.give(value.relevance), strict=True):
                source.relevance = source.relevance + np.reshape(share, source.array.shape)
        return self.clip.relevance

    def _append(self, value: Value) -> Value:
        self.values.append(value)
        return value

    # Layers

    def layer(self, a: Value, *modules: nn.Module) -> Value:
        """A convolution or linear layer; modules behind it (a batch norm) count as part of it."""
        matrix, offset, shape = dense(nn.Sequential(*modules), a.array.shape)
        x = a.array.ravel()

        def give(relevance: Array) -> Sequence[Array]:
            if a.bounds is not None:
                low, high = (b.ravel() for b in a.bounds)
                return [self._z_b(matrix, x, low, high, relevance.ravel())]
            return [self._contributions(matrix * beyond_rounding(a).ravel(), relevance.ravel())]

        return self._append(
            Value((matrix @ x + offset).reshape(shape), size_of(a, modules, shape), (a,), give)
        )

    def _z_b(self, w: Array, x: Array, low: Array, high: Array, relevance: Array) -> Array:
        parts = np.where(w > 0, w * (x - low), w * (x - high))
        return self._shares(parts, relevance)

    def _shares(self, parts: Array, relevance: Array) -> Array:
        """parts[i, j] >= 0: what input j has in output i."""
        found = np.zeros(parts.shape[1])
        for row, amount in zip(parts, relevance, strict=True):
            if row.sum() > 0:
                found += row / row.sum() * amount
            else:
                self.lost += amount
        return found

    def _contributions(self, z: Array, relevance: Array) -> Array:
        found = np.zeros(z.shape[1])
        for row, amount in zip(z, relevance, strict=True):
            positive, negative = np.where(row > 0, row, 0), np.where(row < 0, row, 0)
            alpha = self.alpha if negative.any() else 1.0
            if positive.any():
                found += alpha * amount * positive / positive.sum()
            if negative.any():
                found -= (self.alpha - 1) * amount * negative / negative.sum()
            if not positive.any():
                self.lost += alpha * amount
        return found

    # Everything else

    def relu(self, a: Value) -> Value:
        return self._append(Value(np.where(a.array > 0, a.array, 0), a.size, (a,), lambda r: [r]))

    def rectified(self, a: Value, slope: float = 0.0, ceiling: float = math.inf) -> Value:
        """Any rectifier: one input an output, which gets all, whatever was cut off."""
        cut = [min(x, ceiling) if x > 0 else slope * x for x in a.array.ravel()]
        return self._append(Value(np.reshape(cut, a.array.shape), a.size, (a,), lambda r: [r]))

    def scaled(self, a: Value, norm: nn.Module) -> Value:
        """A batch norm by itself: one input an output, which gets all."""

        def apply(x: Array) -> Array:
            with torch.no_grad():
                return copy.deepcopy(norm).double()(torch.tensor(x)[None])[0].numpy()

        bounds = None
        if a.bounds is not None:
            ends = [apply(np.array(b)) for b in a.bounds]
            bounds = np.minimum(*ends), np.maximum(*ends)
        shift = apply(np.zeros(a.array.shape))
        factor = apply(np.ones(a.array.shape)) - shift
        size = np.abs(factor) * a.size + np.abs(shift)
        return self._append(Value(apply(a.array), size, (a,), lambda r: [r], bounds))

    def moved(self, a: Value, move: Callable[[torch.Tensor], torch.Tensor]) -> Value:
        """Views, slices and padding with zeros: numbers tell where each entry came from."""
        numbers = torch.arange(1, a.array.size + 1).reshape(1, *a.array.shape)
        origin = move(numbers)[0].numpy()

        def pick(x: Array) -> Array:
            return np.concatenate([[0.0], x.ravel()])[origin]

        def give(relevance: Array) -> Sequence[Array]:
            found = np.zeros(a.array.size + 1)
            np.add.at(found, origin.ravel(), relevance.ravel())
            return [found[1:]]

        bounds = None if a.bounds is None else (pick(a.bounds[0]), pick(a.bounds[1]))
        still = origin.shape == a.array.shape and np.array_equal(
            origin.ravel(), np.arange(1, a.array.size + 1)
        )
        size = a.size if still else np.max(a.size)
        return self._append(Value(pick(a.array), size, (a,), give, bounds))

    def concatenated(self, parts: Sequence[Value]) -> Value:
        ends = np.cumsum([len(p.array) for p in parts])[:-1]
        whole = np.concatenate([p.array for p in parts])
        size = max(np.max(p.size) for p in parts)
        return self._append(Value(whole, size, tuple(parts), lambda r: np.split(r, ends)))

    def added(self, a: Value, b: Value) -> Value:
        def give(relevance: Array) -> Sequence[Array]:
            first, second = np.zeros(a.array.shape), np.zeros(a.array.shape)
            above = [np.maximum(beyond_rounding(summand), 0) for summand in (a, b)]
            for i in np.ndindex(a.array.shape):
                p, q = above[0][i], above[1][i]
                share = p / (p + q) if p + q > 0 else 0.5
                first[i], second[i] = share * relevance[i], (1 - share) * relevance[i]
            return [first, second]

        return self._append(Value(a.array + b.array, a.size + b.size, (a, b), give))

    def averaged(self, a: Value, average: Callable[[torch.Tensor], torch.Tensor]) -> Value:
        """In proportion to the positive part of what is averaged; equally where none is positive."""
        matrix, _, shape = dense(average, a.array.shape)
        x = a.array.ravel()

        def give(relevance: Array) -> Sequence[Array]:
            found = np.zeros(x.size)
            for row, amount in zip(matrix, relevance.ravel(), strict=True):
                parts = row * np.maximum(beyond_rounding(a).ravel(), 0)
                parts = parts if parts.sum() > 0 else row
                found += parts / parts.sum() * amount
            return [found]

        return self._append(Value((matrix @ x).reshape(shape), np.max(a.size), (a,), give))

    def max_pooled(
        self,
        a: Value,
        kernel: Sequence[int],
        *,
        stride: Sequence[int] | None = None,
        padding: Sequence[int] = (0, 0, 0),
        dilation: Sequence[int] = (1, 1, 1),
        shape: Sequence[int] | None = None,
    ) -> Value:
        """Max pooling; `shape` gives the output's size where it is rounded up."""
        sizes = a.array.shape[1:]
        stride = stride or kernel
        axes = []
        for size, k, s, p, d, i in zip(sizes, kernel, stride, padding, dilation, itertools.count()):
            count = shape[i] if shape else (size + 2 * p - d * (k - 1) - 1) // s + 1
            axes.append(
                [[j for j in range(o * s - p, o * s - p + d * k, d) if 0 <= j < size] for o in range(count)]
            )
        return self._winners(a, axes)

    def adaptive_max_pooled(self, a: Value, output: Sequence[int]) -> Value:
        return self._winners(
            a,
            [
                [range(o * size // n, math.ceil((o + 1) * size / n)) for o in range(n)]
                for size, n in zip(a.array.shape[1:], output, strict=True)
            ],
        )

    def maximum(self, a: Value, axes: Sequence[int], *, keep: bool = False) -> Value:
        """Over whole axes, 1 being the first behind the channels."""
        sizes = enumerate(a.array.shape[1:], start=1)
        found = self._winners(a, [[range(n)] if k in axes else [[i] for i in range(n)] for k, n in sizes])
        if not keep:
            found.array = found.array.squeeze(tuple(axes))
            found.size = np.broadcast_to(found.size, a.array.shape).max(tuple(axes))
        return found

    def _winners(self, a: Value, axes: Sequence[Sequence[Sequence[int]]]) -> Value:
        shares: dict[tuple[int, ...], list[tuple[tuple[int, ...], float]]] = {}
        pooled = np.zeros((len(a.array), *(len(w) for w in axes)))
        sizes = np.broadcast_to(a.size, a.array.shape)
        for place in np.ndindex(pooled.shape):
            c = place[0]
            window = [list(w[o]) for w, o in zip(axes, place[1:], strict=True)]
            cut = a.array[c][np.ix_(*window)]
            pooled[place] = cut.max()
            size = sizes[c].max()
            shares[place] = [
                ((c, *(w[i] for w, i in zip(window, voxel, strict=True))), share)
                for voxel, share in winners(cut, size)
            ]

        def give(relevance: Array) -> Sequence[Array]:
            found = np.zeros(a.array.shape)
            arriving = relevance.reshape(pooled.shape)
            for place, voxels in shares.items():
                for voxel, share in voxels:
                    found[voxel] += share * arriving[place]
            return [found]

        return self._append(Value(pooled, a.size, (a,), give))


def winners(window: Array, size: float) -> list[tuple[tuple[int, ...], float]]:
    """Which entries of a window win, and with what share of 1: the first frame, its first row, and so on."""
    if window.ndim == 0:
        return [((), 1.0)]
    return [
        ((i, *inside), of_part * share)
        for i, of_part in first_highest(window.max(tuple(range(1, window.ndim))), size)
        for inside, share in winners(window[i], size)
    ]


def first_highest(values: Array, size: float) -> list[tuple[int, float]]:
    """Which of some values win, and with what share of 1."""
    top = values.max()
    zone = EQUAL * (size + abs(top)) + 1e-300
    found, left = [], 1.0
    for i, value in enumerate(values):
        if left > 0 and top - value < zone:
            share = left * min(1.0, 2 * (1 - (top - value) / zone))
            found.append((i, share))
            left -= share
    return found


def beyond_rounding(a: Value) -> Array:
    """The entries, without those that count as 0."""
    zone = np.broadcast_to(EQUAL * a.size + 1e-300, a.array.shape)
    return a.array * np.clip(2 * np.abs(a.array) / zone - 1, 0, 1)


def size_of(a: Value, modules: Sequence[nn.Module], shape: Sequence[int]) -> Array:
    """The norm of each output's weights times the largest input, plus its bias; norms are part of a layer."""
    layer, *norms = [m for module in modules for m in module.modules() if not isinstance(m, nn.Sequential)]
    weights = layer.weight.detach().double().flatten(1).norm(dim=1).numpy()
    bias = np.zeros(len(weights)) if layer.bias is None else layer.bias.detach().double().numpy()
    for norm in norms:
        scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().double().numpy()
        weights, bias = weights * np.abs(scale), (bias - norm.running_mean.double().numpy()) * scale
        bias = bias + norm.bias.detach().double().numpy()
    size = weights * np.abs(a.array).max() + np.abs(bias)
    return size if isinstance(layer, nn.Linear) else size.reshape(-1, *(1,) * (len(shape) - 1))


def dense(
    function: Callable[[torch.Tensor], torch.Tensor], shape: Sequence[int]
) -> tuple[Array, Array, tuple[int, ...]]:
    """The matrix and the offset of an affine function of one clip, found with basis vectors."""
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).double().eval()
    size = math.prod(shape)
    with torch.no_grad():
        offset = function(torch.zeros(1, *shape, dtype=torch.float64))
        columns = [
            (function(basis.reshape(-1, *shape)) - offset).flatten(1)
            for basis in torch.eye(size, dtype=torch.float64).split(256)
        ]
    return torch.cat(columns).T.contiguous().numpy(), offset.flatten().numpy(), tuple(offset.shape[1:])
