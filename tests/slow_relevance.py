"""Deep Taylor decomposition of one clip, restated slowly from the papers in float64 numpy.

Knows nothing of the engine: a linear layer is the dense matrix that it applies to basis vectors, and
every rule is written out as contributions of single inputs to single outputs.
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


@dataclass(eq=False)
class Value:
    """An intermediate result, and how its relevance goes to where it came from.

    `bounds` are the lowest and highest value of every entry, where the entries are pixels.
    """

    array: Array
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
        self.clip = Value(clip.double().numpy(), bounds=(bounds[0], bounds[1]))
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
            return [self._contributions(matrix * x, relevance.ravel())]

        return self._append(Value((matrix @ x + offset).reshape(shape), (a,), give))

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
        return self._append(Value(np.where(a.array > 0, a.array, 0), (a,), lambda r: [r]))

    def rectified(self, a: Value, slope: float = 0.0, ceiling: float = math.inf) -> Value:
        """Any rectifier: one input an output, which gets all, whatever was cut off."""
        cut = [min(x, ceiling) if x > 0 else slope * x for x in a.array.ravel()]
        return self._append(Value(np.reshape(cut, a.array.shape), (a,), lambda r: [r]))

    def scaled(self, a: Value, norm: nn.Module) -> Value:
        """A batch norm by itself: one input an output, which gets all."""

        def apply(x: Array) -> Array:
            with torch.no_grad():
                return copy.deepcopy(norm).double()(torch.tensor(x)[None])[0].numpy()

        bounds = None
        if a.bounds is not None:
            ends = [apply(np.array(b)) for b in a.bounds]
            bounds = np.minimum(*ends), np.maximum(*ends)
        return self._append(Value(apply(a.array), (a,), lambda r: [r], bounds))

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
        return self._append(Value(pick(a.array), (a,), give, bounds))

    def concatenated(self, parts: Sequence[Value]) -> Value:
        ends = np.cumsum([len(p.array) for p in parts])[:-1]
        whole = np.concatenate([p.array for p in parts])
        return self._append(Value(whole, tuple(parts), lambda r: np.split(r, ends)))

    def added(self, a: Value, b: Value) -> Value:
        def give(relevance: Array) -> Sequence[Array]:
            first, second = np.zeros(a.array.shape), np.zeros(a.array.shape)
            for i in np.ndindex(a.array.shape):
                p, q = max(a.array[i], 0), max(b.array[i], 0)
                share = p / (p + q) if p + q > 0 else 0.5
                first[i], second[i] = share * relevance[i], (1 - share) * relevance[i]
            return [first, second]

        return self._append(Value(a.array + b.array, (a, b), give))

    def averaged(self, a: Value, average: Callable[[torch.Tensor], torch.Tensor]) -> Value:
        """In proportion to the positive part of what is averaged; equally where none is positive."""
        matrix, _, shape = dense(average, a.array.shape)
        x = a.array.ravel()

        def give(relevance: Array) -> Sequence[Array]:
            found = np.zeros(x.size)
            for row, amount in zip(matrix, relevance.ravel(), strict=True):
                parts = row * np.maximum(x, 0)
                parts = parts if parts.sum() > 0 else row
                found += parts / parts.sum() * amount
            return [found]

        return self._append(Value((matrix @ x).reshape(shape), (a,), give))

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

    def maximum(self, a: Value, axes: Sequence[int]) -> Value:
        """Over whole axes, 1 being the first behind the channels; they stay, with one entry."""
        sizes = enumerate(a.array.shape[1:], start=1)
        return self._winners(a, [[range(n)] if k in axes else [[i] for i in range(n)] for k, n in sizes])

    def _winners(self, a: Value, axes: Sequence[Sequence[Sequence[int]]]) -> Value:
        winner = {}
        for c in range(len(a.array)):
            for place in itertools.product(*(range(len(windows)) for windows in axes)):
                best = None
                for voxel in itertools.product(*(w[o] for w, o in zip(axes, place, strict=True))):
                    if best is None or a.array[(c, *voxel)] > a.array[best]:
                        best = (c, *voxel)
                winner[(c, *place)] = best
        pooled = np.zeros((len(a.array), *(len(w) for w in axes)))
        for place, voxel in winner.items():
            pooled[place] = a.array[voxel]

        def give(relevance: Array) -> Sequence[Array]:
            found = np.zeros(a.array.shape)
            for place, voxel in winner.items():
                found[voxel] += relevance[place]
            return [found]

        return self._append(Value(pooled, (a,), give))


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
