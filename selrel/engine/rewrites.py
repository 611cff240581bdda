"""What a traced graph is rewritten to: the same values with fewer operations and less memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch

from selrel.engine.graph import Graph
from selrel.engine.operations.addition import Addition
from selrel.engine.operations.convolution import Convolution
from selrel.engine.operations.layer import Layer
from selrel.engine.operations.linear import Linear
from selrel.engine.operations.max_pool import MaxPool
from selrel.engine.operations.relu import Relu
from selrel.engine.operations.routing import Routing, same
from selrel.engine.operations.scaling import Scaling
from selrel.engine.ties import apart

Shapes = Sequence[tuple[int, ...]]
"""The shape of every value of a graph, without the batch axis."""


def fold_batch_norms(graph: Graph, shapes: Shapes, dtype: torch.dtype) -> Graph:
    """Fold each batch norm, given in float64, into the layer before it, or let it stand by itself."""
    readers, nodes = graph.readers(), list(graph.nodes)
    for index, node in enumerate(graph.nodes):
        norm, source = node.operation, node.inputs[0]
        if not isinstance(norm, Scaling):
            continue
        before = source - graph.n_inputs
        layer = nodes[before].operation if before >= 0 else None
        # A batch norm of (clip, channel, length) behind a linear layer is by no output of that layer.
        joins = isinstance(layer, Convolution) or (isinstance(layer, Linear) and len(shapes[source]) == 1)
        if joins and readers[source] == 1:
            assert isinstance(layer, Layer)
            weight = layer.weight * norm.factor.view(-1, *(1,) * (layer.weight.dim() - 1))
            bias = norm.shift if layer.bias is None else norm.shift + layer.bias * norm.factor
            layer = replace(layer, weight=weight.to(dtype), bias=bias.to(dtype))
            nodes[before], nodes[index] = (
                replace(nodes[before], operation=layer),
                replace(node, operation=Routing(same)),
            )
        else:
            nodes[index] = replace(node, operation=Scaling(norm.factor.to(dtype), norm.shift.to(dtype)))
    return replace(graph, nodes=tuple(nodes))


def pool_first(graph: Graph) -> Graph:
    """Let a rectifier and the max pooling behind it change places, where nothing else needs its output.

    What they give is the same, on a smaller map; and windows are compared before anything is cut off, where
    an entry far below 0 does not equal one hardly above it. Overlapping windows stay: guided backpropagation
    cuts off what a rectifier gets from all of them together.
    """
    readers, nodes = graph.readers(), list(graph.nodes)
    for index, node in enumerate(graph.nodes):
        pool, source = node.operation, node.inputs[0]
        if not isinstance(pool, MaxPool) or not all(map(apart, pool.windows)):
            continue
        if source < graph.n_inputs or readers[source] > 1 or source == graph.cam_value:
            continue
        before = nodes[source - graph.n_inputs]
        if isinstance(before.operation, Relu) and before.operation.plain:
            nodes[source - graph.n_inputs] = replace(node, inputs=before.inputs, nonnegative=False)
            nodes[index] = replace(before, inputs=(source,))
    return replace(graph, nodes=tuple(nodes))


def rectify_in_place(graph: Graph) -> Graph:
    """Let a rectifier overwrite its input where nothing else reads it: one map less in memory.

    Not the output of a layer that sees pixels, whose rule divides by what follows from it.
    """
    readers, nodes = graph.readers(), list(graph.nodes)
    for index, node in enumerate(graph.nodes):
        if not (isinstance(node.operation, Relu) and node.operation.plain):
            continue
        # The node that allocated the value, if nothing but one chain of identities reads it.
        position = node.inputs[0]
        while (owner := graph.node(position)) is not None and readers[position] == 1:
            if not (isinstance(owner.operation, Routing) and owner.operation.function is same):
                # Their outputs are new tensors, which no rule but a layer's own looks at again.
                allocates = isinstance(owner.operation, Layer | Addition | Scaling)
                if allocates and not any(map(graph.holds_pixels, owner.inputs)):
                    nodes[index] = replace(node, operation=Relu(in_place=True))
                break
            position = owner.inputs[0]
    return replace(graph, nodes=tuple(nodes))


def cam_value(graph: Graph, shapes: Shapes) -> int | None:
    """Find the last rectified feature map before it is pooled, concatenations and sums of such maps included.

    A map of a single place, as in a head of 1x1x1 convolutions, shows nothing of where. One of several parts
    of a map is none, since the others count as well; neither is one whose axes have changed places, nor, of
    several inputs, one that does not see all of them.
    """
    readers = graph.readers()
    sees = [{i} for i in range(graph.n_inputs)]
    maps: list[int] = []
    parts: list[int] = []
    for position, node in zip(graph.positions, graph.nodes, strict=True):
        operation, source, shape = node.operation, node.inputs[0], shapes[position]
        sees.append(set().union(*(sees[i] for i in node.inputs)))
        kept = isinstance(operation, Addition) or (isinstance(operation, Routing) and operation.keeps_axes)
        follows = kept and all(i in maps for i in node.inputs)
        if len(shape) == 4 and math.prod(shape[1:]) > 1 and (isinstance(operation, Relu) or follows):
            maps.append(position)
            shared = readers[source] > 1 and math.prod(shape) < math.prod(shapes[source])
            if follows and len(node.inputs) == 1 and (shared or source in parts):
                parts.append(position)
    whole = (i for i in reversed(maps) if i not in parts and len(sees[i]) == graph.n_inputs)
    return next(whole, None)
