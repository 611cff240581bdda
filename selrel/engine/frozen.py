"""The same model for frozen clips, of which it computes only what differs along time.

In a frozen clip every frame is the same picture. Behind a convolution, all frames are equal whose window
holds the same frames, and those at either end differ since padding is in theirs: 3 of 16 differ behind
C3D's first layer, 5 behind its second. Where a window holds one picture several times, one convolution in
space by the sum of its kernels does. Relevance that arrives at equal frames is only ever needed as a sum,
so every rule of the engine holds as it is, and what arrives at the picture is the sum over time of the
clip's relevance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from selrel.engine.graph import Graph, Node
from selrel.engine.operations import UnsupportedModel
from selrel.engine.operations.addition import Addition
from selrel.engine.operations.convolution import Convolution, channels_last
from selrel.engine.operations.layer import Layer, Part, whole
from selrel.engine.operations.max_pool import MaxPool
from selrel.engine.operations.relu import Relu
from selrel.engine.operations.routing import Routing, same
from selrel.engine.operations.scaling import Scaling
from selrel.engine.ties import inputs_of, regular_windows

Frames = tuple[int, ...]
"""For every frame along time, which of the different ones it is."""


def frozen(graph: Graph) -> Graph:
    """The graph that takes single frames in place of the clips that repeat them.

    Parameters
    ----------
    graph
        A model traced for clips.

    Returns
    -------
    A graph from frames (clip, channel, 1, height, width) to the logits of their frozen clips. What a backward
    pass carries to its input is the sum over time of what it would carry to the frozen clip.

    Raises
    ------
    UnsupportedModel
        If the model takes several inputs.
    """
    if graph.n_inputs > 1:
        raise UnsupportedModel(
            f"clips can be frozen for models of one input, and this one takes {graph.n_inputs}; "
            "leave out the method discriminative"
        )
    ((darkest, lightest),) = graph.bounds
    low, high, length = darkest[:, :, :1], lightest[:, :, :1], darkest.shape[2]
    made = _Frozen(low)
    # Where each value of the model stands among the new ones, and its frames; None where all are there.
    values: list[tuple[int, Frames | None]] = [(0, (0,) * length)]
    for node in graph.nodes:
        values.append(made.translated(node, [values[i] for i in node.inputs]))
    assert values[-1][0] == len(made.nodes), "the logits are the last value"
    return Graph(tuple(made.nodes), ((low, high),), None)


class _Frozen:
    """The nodes so far, with a value of each, which tells its shape."""

    def __init__(self, picture: Tensor) -> None:
        self.nodes: list[Node] = []
        self.samples = [picture]

    def add(self, node: Node) -> int:
        """Append a node and give the position of its value."""
        self.nodes.append(node)
        self.samples.append(node.operation.forward(*(self.samples[i].clone() for i in node.inputs)))
        return len(self.nodes)

    def translated(
        self, node: Node, values: Sequence[tuple[int, Frames | None]]
    ) -> tuple[int, Frames | None]:
        """Append a node of the model, on the different frames only where its operation allows that."""
        operation = node.operation
        (position, frames), *others = values
        if frames is not None and isinstance(operation, Convolution) and operation.weight.dim() == 5:
            windows = _windows(operation, frames)
            different, after = _different(windows)
            layer = FrozenConvolution(operation.weight, operation.bias, operation, different)
            return self.add(replace(node, operation=layer, inputs=(position,))), after
        if frames is not None and isinstance(operation, MaxPool) and len(operation.windows) == 3:
            return self._pooled(node, operation, position, frames)
        moves_nothing = isinstance(operation, Routing) and operation.function is same
        if frames is not None and (moves_nothing or isinstance(operation, Relu | Scaling)):
            return self.add(replace(node, inputs=(position,))), frames
        if isinstance(operation, Addition) and frames is not None and others[0][1] is not None:
            pairs, after = _different(list(zip(frames, others[0][1], strict=True)))
            inputs = tuple(
                self._taken(at, [pair[which] for pair in pairs]) for which, (at, _) in enumerate(values)
            )
            return self.add(replace(node, inputs=inputs)), after
        # From here on every frame counts.
        every = tuple(at if own is None else self._taken(at, own) for at, own in values)
        return self.add(replace(node, inputs=every)), None

    def _pooled(self, node: Node, pool: MaxPool, position: int, frames: Frames) -> tuple[int, Frames | None]:
        """A pooling: its different windows one after another, each filled up with its last frame."""
        along, *across = pool.windows
        taken = [inputs_of(along, output) for output in range(max(outputs.stop for outputs, _ in along))]
        different, after = _different([tuple(frames[i] for i in inputs) for inputs in taken])
        longest = max(map(len, different))
        filled = [window + window[-1:] * (longest - len(window)) for window in different]
        source = self._taken(position, [frame for window in filled for frame in window])
        n = len(different)
        windows = regular_windows(n * longest, n, kernel=longest, stride=longest, padding=0, dilation=1)
        plain = replace(pool, windows=(windows, *across))
        side_by_side = taken == [list(range(i, i + longest)) for i in range(0, longest * len(taken), longest)]
        serves = side_by_side and pool.with_indices is not None
        if not serves or pool.with_indices(self.samples[source])[0].shape[2] != n:  # type: ignore[misc]
            # The library's pooling is one of other windows than those that are side by side now.
            plain = replace(plain, with_indices=None, backward=None)
        return self.add(replace(node, operation=plain, inputs=(source,))), after

    def _taken(self, position: int, frames: Sequence[int]) -> int:
        """Take these frames of a value, in this order."""
        sample = self.samples[position]
        if list(frames) == list(range(sample.shape[2])):
            return position
        before = self.nodes[position - 1] if position else Node("", Taken(same), (), moves_pixels=True)
        index = torch.tensor(frames, device=sample.device)
        taken = Taken(lambda x: channels_last(x.index_select(2, index)))
        signs = before.nonnegative, before.moves_pixels
        return self.add(Node("frames of a frozen clip", taken, (position,), *signs))


class Taken(Routing):
    """Frames of a value, in any order and as often as need be."""

    def size(self, inputs: Sequence[Tensor], sizes: Iterator[Tensor], output: Tensor) -> Tensor:
        """Return that of the value, which is by clip and channel."""
        return next(sizes)


def _windows(layer: Convolution, frames: Frames) -> list[tuple[int, ...]]:
    """The frames in the window of every output of a convolution along time; -1 for padding."""
    kernel, stride = layer.weight.shape[2], layer.stride[0]
    padding, dilation = layer.padding[0], layer.dilation[0]
    count = (len(frames) + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    starts = [output * stride - padding for output in range(count)]
    return [
        tuple(
            frames[at] if 0 <= at < len(frames) else -1
            for at in range(start, start + kernel * dilation, dilation)
        )
        for start in starts
    ]


def _different(windows: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], Frames]:
    """The different windows, in the order in which they come, and which of them each one is."""
    different = list(dict.fromkeys(windows))
    return different, tuple(different.index(window) for window in windows)


@dataclass(frozen=True, eq=False)
class FrozenConvolution(Layer):
    """A convolution over time and space of a clip of which only the different frames are given.

    Attributes
    ----------
    of
        The convolution.
    windows
        Of each different output, the frames under the kernel; -1 for padding.
    """

    of: Convolution
    windows: Sequence[tuple[int, ...]]

    in_space: dict[tuple[tuple[int, ...], Part], Convolution] = field(default_factory=dict, repr=False)
    """The convolutions by sums of a part of the kernel along time, made when they are first needed."""

    def _steps(self) -> dict[tuple[int, ...], list[tuple[int, int]]]:
        """Pairs of an output and a frame by the places of the kernel at which that frame is."""
        steps: dict[tuple[int, ...], list[tuple[int, int]]] = {}
        for output, window in enumerate(self.windows):
            for frame in sorted(set(window) - {-1}):
                places = tuple(place for place, there in enumerate(window) if there == frame)
                steps.setdefault(places, []).append((output, frame))
        return steps

    def _at(self, places: tuple[int, ...], part: Part) -> Convolution:
        if (places, part) not in self.in_space:
            weight = part(self.weight)[:, :, list(places)].sum(dim=2)
            about = self.of
            self.in_space[places, part] = Convolution(
                weight, None, about.stride[1:], about.padding[1:], about.dilation[1:], about.groups
            )
        return self.in_space[places, part]

    def apply(self, x: Tensor, part: Part, bias: Tensor | None = None) -> Tensor:
        """Convolve with a part of the weight."""
        outputs: list[Tensor | None] = [None] * len(self.windows)
        for places, pairs in self._steps().items():
            maps = torch.cat([x[:, :, frame] for _, frame in pairs])
            found = self._at(places, part).apply(channels_last(maps), whole)
            for (output, _), share in zip(pairs, found.chunk(len(pairs)), strict=True):
                before = outputs[output]
                outputs[output] = share if before is None else before.add_(share)
        result = torch.stack([output for output in outputs if output is not None], dim=2)
        return channels_last(result if bias is None else result.add_(self.by_output(bias)))

    def transpose(self, gradient: Tensor, part: Part, x: Tensor) -> Tensor:
        """Apply the transposed convolution: what arrives at every frame, added up where it is the same."""
        found: list[Tensor | None] = [None] * x.shape[2]
        for places, pairs in self._steps().items():
            maps = torch.cat([gradient[:, :, output] for output, _ in pairs])
            like = x.new_empty((len(maps), *x.shape[1:2], *x.shape[3:]))
            carried = self._at(places, part).transpose(channels_last(maps), whole, like)
            for (_, frame), share in zip(pairs, carried.chunk(len(pairs)), strict=True):
                before = found[frame]
                found[frame] = share if before is None else before.add_(share)
        zero = x.new_zeros((len(x), *x.shape[1:2], *x.shape[3:]))
        return channels_last(torch.stack([zero if one is None else one for one in found], dim=2))
