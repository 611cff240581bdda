"""One forward pass over a traced model, and any number of backward passes under any rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from selrel.engine import ties
from selrel.engine.operations import Addition, Layer, MaxPool, Operation, Relu, Scaling, channels_last
from selrel.engine.ties import TINY, Winners


class UnsupportedModel(ValueError):
    """The model has an operation that no explanation rule covers, or can't be traced."""


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
        The positions of its inputs in the graph; position 0 is the clip.
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
        Node k computes value k + 1; value 0 is the clip.
    bounds
        The value of a black and of a white clip, (1, channel, time, height, width).
    cam_value
        The value that Grad-CAM explains: the last feature map with axes of space and time, before
        the pooling that ends it. None where the model has no such map.
    """

    nodes: tuple[Node, ...]
    bounds: tuple[Tensor, Tensor]
    cam_value: int | None
    constants: dict[Any, Any] = field(default_factory=dict, compare=False)

    def remember(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return what was computed under `key` before, or compute it: constants of the model."""
        if key not in self.constants:
            self.constants[key] = compute()
        return self.constants[key]

    def bound_images(self, value: int) -> tuple[Tensor, Tensor]:
        """The lowest and highest image that can arrive at a value that only moves pixels."""
        if value == 0:
            return self.bounds
        node = self.nodes[value - 1]
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


class Forward:
    """The forward pass of a batch of clips, kept so that several explanations can start from it.

    Attributes
    ----------
    clips : (clip, channel, time, height, width), normalised.
    logits : (clip, class).
    """

    def __init__(self, graph: Graph, clips: Tensor) -> None:
        self.graph = graph
        self.clips = clips
        self._values: list[Tensor] = [channels_last(clips)]
        self._indices: dict[int, Tensor] = {}
        with torch.no_grad():
            for node in graph.nodes:
                self._values.append(self._forward(node, [self._values[i] for i in node.inputs]))
        self._winners: dict[int, Winners] = {}
        self._sizes: dict[int, Tensor] = {}
        self._results: dict[Any, Tensor] = {}

    def _forward(self, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        operation = node.operation
        if isinstance(operation, MaxPool) and operation.with_indices is not None:
            output, self._indices[len(self._values)] = operation.with_indices(inputs[0])
            return output
        return operation.forward(*inputs)

    @property
    def logits(self) -> Tensor:
        """The model's output, (clip, class)."""
        return self._values[-1]

    def value(self, position: int) -> Tensor:
        """An intermediate value by its position in the graph."""
        return self._values[position]

    def at_target(self, targets: Tensor, amount: Tensor | float = 1.0) -> Tensor:
        """A start for a backward pass: `amount` at each clip's target, 0 elsewhere, (clip, class)."""
        start = torch.zeros_like(self.logits)
        rows = torch.arange(len(targets), device=start.device)
        start[rows, targets] = torch.as_tensor(amount, dtype=start.dtype, device=start.device)
        return start

    def backward(self, rules: Rules, start: Tensor, *, stop: int = 0) -> Tensor:
        """Carry `start` from the logits to the value at `stop` (default: the clip) by a method's rules.

        Returns
        -------
        A tensor of the shape of that value. What arrives along several paths is added.

        Raises
        ------
        UnsupportedModel
            Before anything is computed, if the method has no rule for an operation on the way.
        """
        nodes = self.graph.nodes
        rule_at = [rules.at(node) for node in nodes[stop:]]
        arriving: dict[int, Tensor] = {len(nodes): start.clone()}
        with torch.no_grad():
            for position in range(len(nodes), stop, -1):
                rule = rule_at.pop()
                if position in arriving:
                    shares = rule(self._step(position), arriving.pop(position))
                    _add(arriving, nodes[position - 1].inputs, shares)
        return arriving.get(stop, torch.zeros_like(self._values[stop]))

    def _step(self, position: int) -> Step:
        node = self.graph.nodes[position - 1]
        inputs = tuple(self._values[i] for i in node.inputs)
        rounding = tuple(self.rounding(i) for i in node.inputs)
        winners = self._found(position, rounding[0])
        return Step(node, inputs, self._values[position], rounding, winners, self.graph)

    def _found(self, position: int, rounding: Tensor) -> Winners | None:
        """The winners of a pooling, kept for the next backward pass."""
        pool = self.graph.nodes[position - 1]
        if position in self._indices and position not in self._winners:
            assert isinstance(pool.operation, MaxPool) and pool.operation.backward is not None
            x, output, indices = self._values[pool.inputs[0]], self._values[position], self._indices[position]
            self._winners[position] = Winners(
                x,
                output,
                indices,
                pool.operation.backward,
                pool.operation.windows,
                pool.operation.size(rounding),
                rectified=pool.inputs[0] > 0 and self.graph.nodes[pool.inputs[0] - 1].nonnegative,
            )
        return self._winners.get(position)

    def rounding(self, position: int) -> Tensor:
        """The difference up to which two entries of a value count as equal, broadcastable to it."""
        return (ties.EQUAL * self._size(position)).clamp(min=TINY)

    def _size(self, position: int) -> Tensor:
        """What the roundings in a value are relative to: by clip, and by channel where that is known."""
        if position not in self._sizes:
            self._sizes[position] = self._new_size(position)
        return self._sizes[position]

    def _new_size(self, position: int) -> Tensor:
        value = self._values[position]
        if position == 0:
            return _largest(value.abs(), value.dim())
        node = self.graph.nodes[position - 1]
        operation = node.operation
        if isinstance(operation, Layer):
            return operation.size(self._values[node.inputs[0]])
        sizes = [self._size(i) for i in node.inputs]
        if isinstance(operation, Addition):
            return sizes[0] + sizes[1]
        if isinstance(operation, Scaling | MaxPool):
            return operation.size(sizes[0])
        if isinstance(operation, Relu) or value is self._values[node.inputs[0]]:
            return sizes[0]
        return torch.stack([_largest(size, value.dim()) for size in sizes]).amax(dim=0)

    def once(self, explain: Callable[..., Tensor], targets: Tensor, settings: Mapping[str, Any]) -> Tensor:
        """Compute an explanation of this batch once, however many methods are built on it."""
        key = (explain, tuple(targets.tolist()), tuple(sorted(settings.items())))
        if key not in self._results:
            self._results[key] = explain(self, targets, **settings)
        return self._results[key]


def _largest(x: Tensor, rank: int) -> Tensor:
    """The largest entry of each clip, with so many axes."""
    return x.flatten(1).amax(dim=1).view(-1, *(1,) * (rank - 1))


def _add(arriving: dict[int, Tensor], inputs: Sequence[int], shares: Sequence[Tensor]) -> None:
    for position, share in zip(inputs, shares, strict=True):
        arriving[position] = arriving[position] + share if position in arriving else share
