"""One forward pass over a traced model, and any number of backward passes under any rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, overload

import torch
from torch import Tensor

from selrel.engine import ties
from selrel.engine.operations import Operation, UnsupportedModel, largest
from selrel.engine.operations.convolution import channels_last
from selrel.engine.operations.max_pool import MaxPool
from selrel.engine.ties import TINY, Winners

Result = TypeVar("Result")
Clips = TypeVar("Clips", Tensor, tuple[Tensor, ...])
"""One tensor for a model of one input, a tuple with one for each input for a model of several."""


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of the model.

    Attributes
    ----------
    name
        The module it stands in and the operator, as "layer1.0.conv1 (conv3d)".
    operation
        Its arithmetic.
    inputs
        The positions of its inputs in the graph; the first positions are the model's inputs.
    nonnegative
        Whether its output is known to have no negative entry, whatever the clip.
    moves_pixels
        Whether its output holds nothing but pixels of the clip, at most scaled and shifted by channel,
        and zeros (padding, slices, views).
    """

    name: str
    operation: Operation
    inputs: tuple[int, ...]
    nonnegative: bool = False
    moves_pixels: bool = False


@dataclass(frozen=True, eq=False)
class Graph:
    """A model as a list of operations in order of execution.

    Attributes
    ----------
    nodes
        With n inputs, the values 0 to n - 1 are the clips, and node k computes value n + k.
    bounds
        For each input, the value of a black and of a white clip, (1, channel, time, height, width).
    cam_value
        The value that Grad-CAM explains: the last feature map with axes of space and time, before
        the pooling that ends it. None where the model has no such map.
    """

    nodes: tuple[Node, ...]
    bounds: tuple[tuple[Tensor, Tensor], ...]
    cam_value: int | None
    constants: dict[Any, Any] = field(default_factory=dict, compare=False)

    @property
    def n_inputs(self) -> int:
        """How many clips the model takes at once."""
        return len(self.bounds)

    @property
    def positions(self) -> range:
        """The positions of the nodes' values."""
        return range(self.n_inputs, self.n_inputs + len(self.nodes))

    def node(self, position: int) -> Node | None:
        """Return the node that computes a value; None for an input of the model."""
        return self.nodes[position - self.n_inputs] if position >= self.n_inputs else None

    def holds_pixels(self, position: int) -> bool:
        """Whether a value is an input or only moves pixels of one."""
        node = self.node(position)
        return node is None or node.moves_pixels

    def nonnegative(self, position: int) -> bool:
        """Whether a value is known to have no negative entry."""
        node = self.node(position)
        return node is not None and node.nonnegative

    def readers(self) -> Counter[int]:
        """Count how many nodes read each value; the logits count as read."""
        return Counter([self.positions.stop - 1, *(i for node in self.nodes for i in node.inputs)])

    def remember(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return what was computed under `key` before, or compute it: constants of the model."""
        if key not in self.constants:
            self.constants[key] = compute()
        return self.constants[key]

    def bound_images(self, position: int) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest image that can arrive at a value that only moves pixels."""
        node = self.node(position)
        if node is None:
            return self.bounds[position]
        incoming = [self.bound_images(i) for i in node.inputs]
        first = node.operation.forward(*(low for low, _ in incoming))
        second = node.operation.forward(*(high for _, high in incoming))
        # A negative factor turns them round.
        return torch.minimum(first, second), torch.maximum(first, second)


@dataclass(frozen=True, eq=False)
class Step:
    """What a rule sees of one node during a backward pass: the node, its inputs and output.

    `rounding` is, for each input, the difference up to which two of its entries count as equal. `winners` are
    those of a pooling, where a library has pooled.
    """

    node: Node
    inputs: tuple[Tensor, ...]
    output: Tensor
    rounding: tuple[Tensor, ...]
    winners: Winners | None
    graph: Graph


Rule = Callable[[Step, Tensor], tuple[Tensor, ...]]
"""Distribute what arrives at a node's output over its inputs; it may overwrite what arrives."""


@dataclass(frozen=True)
class Rules:
    """What a method does at each type of operation.

    Attributes
    ----------
    method
        The method's name, for its refusals.
    table
        The rule for each type of operation. A type without an entry takes that of its nearest parent.
    """

    method: str
    table: Mapping[type[Any], Rule]

    def at(self, node: Node) -> Rule:
        """Look up the rule for a node.

        Raises
        ------
        UnsupportedModel
            If the table has neither the node's type of operation nor one of its parents.
        """
        for kind in type(node.operation).__mro__:
            if kind in self.table:
                return self.table[kind]
        raise UnsupportedModel(
            f"{self.method} has no rule for {node.name}; choose other methods, or replace the operation"
        )


class Forward(Generic[Clips]):
    """The forward pass of a batch of clips, kept so that several explanations can start from it.

    Attributes
    ----------
    clips : (clip, channel, time, height, width), normalised; a tuple for a model of several inputs.
    logits : (clip, class).
    """

    def __init__(self, graph: Graph, clips: Clips) -> None:
        self.graph = graph
        self.clips: Clips = clips
        inputs: tuple[Tensor, ...] = clips if isinstance(clips, tuple) else (clips,)
        if len(inputs) != graph.n_inputs:
            raise ValueError(f"the model takes {graph.n_inputs} inputs, but was given {len(inputs)}")
        self._values = [channels_last(x) for x in inputs]
        self._indices: dict[int, Tensor] = {}
        self._winners: dict[int, Winners] = {}
        self._sizes: dict[int, Tensor] = {}
        self._results: dict[Any, Any] = {}
        with torch.no_grad():
            for position, node in zip(graph.positions, graph.nodes, strict=True):
                operation, given = node.operation, [self._values[i] for i in node.inputs]
                if isinstance(operation, MaxPool) and operation.with_indices is not None:
                    output, self._indices[position] = operation.with_indices(given[0])
                else:
                    output = operation.forward(*given)
                self._values.append(output)

    @property
    def logits(self) -> Tensor:
        """The model's output, (clip, class)."""
        return self._values[-1]

    def value(self, position: int) -> Tensor:
        """Return an intermediate value by its position in the graph."""
        return self._values[position]

    def at_target(self, targets: Tensor, amount: Tensor | float = 1.0) -> Tensor:
        """Return a start for a backward pass: `amount` at each clip's target, 0 elsewhere, (clip, class)."""
        start = torch.zeros_like(self.logits)
        rows = torch.arange(len(targets), device=start.device)
        start[rows, targets] = torch.as_tensor(amount, dtype=start.dtype, device=start.device)
        return start

    def each(self, function: Callable[..., Tensor], *given: Clips) -> Clips:
        """Apply a function to what belongs to one input of the model, for every input."""
        inputs = zip(*(x if isinstance(x, tuple) else (x,) for x in given), strict=True)
        return self._in_form([function(*parts) for parts in inputs])

    def _in_form(self, of_each: list[Tensor]) -> Clips:
        """Return what there is for each input in the form of `clips`."""
        result: Any = tuple(of_each) if isinstance(self.clips, tuple) else of_each[0]
        form: Clips = result
        return form

    @overload
    def backward(self, rules: Rules, start: Tensor) -> Clips: ...

    @overload
    def backward(self, rules: Rules, start: Tensor, *, stop: int) -> Tensor: ...

    def backward(self, rules: Rules, start: Tensor, *, stop: int | None = None) -> Clips | Tensor:
        """Carry `start` from the logits to the clips, or to the value at `stop`, by a method's rules.

        Returns
        -------
        A tensor of the shape of that value; to the clips, in the form of `clips`. What arrives along several
        paths is added.

        Raises
        ------
        UnsupportedModel
            Before anything is computed, if the method has no rule for an operation on the way.
        """
        graph = self.graph
        above = [i for i in reversed(graph.positions) if stop is None or i > stop]
        way = [(i, node, rules.at(node)) for i in above if (node := graph.node(i))]
        arriving: dict[int, Tensor] = {graph.positions.stop - 1: start.clone()}
        with torch.no_grad():
            for position, node, rule in way:
                if position in arriving:
                    shares = rule(self._step(position, node), arriving.pop(position))
                    for source, share in zip(node.inputs, shares, strict=True):
                        arriving[source] = arriving[source] + share if source in arriving else share

        def arrived(position: int) -> Tensor:
            return arriving.get(position, torch.zeros_like(self._values[position]))

        if stop is not None:
            return arrived(stop)
        return self._in_form([arrived(i) for i in range(graph.n_inputs)])

    def _step(self, position: int, node: Node) -> Step:
        inputs = tuple(self._values[i] for i in node.inputs)
        rounding = tuple(self.rounding(i) for i in node.inputs)
        if position in self._indices and position not in self._winners:
            pool = node.operation
            assert isinstance(pool, MaxPool) and pool.backward is not None
            self._winners[position] = Winners(
                inputs[0],
                self._values[position],
                self._indices[position],
                pool.backward,
                pool.windows,
                pool.of_windows(rounding[0]),
                rectified=self.graph.nonnegative(node.inputs[0]),
            )
        return Step(node, inputs, self._values[position], rounding, self._winners.get(position), self.graph)

    def rounding(self, position: int) -> Tensor:
        """Return the difference up to which two entries of a value count as equal, broadcastable to it."""
        return (ties.EQUAL * self._size(position)).clamp(min=TINY)

    def _size(self, position: int) -> Tensor:
        """What the roundings in a value are relative to: by clip, and by channel where that is known."""
        if position not in self._sizes:
            value, node = self._values[position], self.graph.node(position)
            if node is None:
                self._sizes[position] = largest(value.abs(), value.dim())
            else:
                inputs = [self._values[i] for i in node.inputs]
                self._sizes[position] = node.operation.size(inputs, map(self._size, node.inputs), value)
        return self._sizes[position]

    def once(self, explain: Callable[..., Result], targets: Tensor, settings: Mapping[str, Any]) -> Result:
        """Compute an explanation of this batch once, however many methods are built on it."""
        key = (explain, tuple(targets.tolist()), tuple(sorted(settings.items())))
        if key not in self._results:
            self._results[key] = explain(self, targets, **settings)
        result: Result = self._results[key]
        return result
