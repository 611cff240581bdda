"""Read a model's graph with `torch.export` and translate it into the engine's operations.

The exported graph is functional (in-place operations, reused modules and control flow on shapes are
resolved) and its operators are few, so one translation serves any module that is built from them.
The model itself is neither changed nor run.
"""

from __future__ import annotations

import operator
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from selrel.engine import rewrites
from selrel.engine.graph import Graph, Node
from selrel.engine.operations import Call, UnsupportedModel, translations

Shape = tuple[int, int, int, int]

# Not 1, which models treat specially when they squeeze; a size that no other axis is likely to have.
_TRACED_BATCH = 7


def trace(
    model: nn.Module,
    shape: Shape | tuple[Shape, ...],
    *,
    low: Tensor | tuple[Tensor, ...],
    high: Tensor | tuple[Tensor, ...],
) -> Graph:
    """Translate a model into a graph of operations with known derivatives and rules.

    Parameters
    ----------
    model
        Maps (clip, channel, time, height, width) to logits (clip, class). It is traced in eval mode
        and left as it came. Its parameters are shared, not copied; batch norms are folded into
        copies of their convolutions' weights. The graph is that of the weights at this moment: after
        they have changed, trace again.
    shape
        (channel, time, height, width) of one clip.
    low, high
        (channel,): the lowest and highest value of a normalised pixel.

    Notes
    -----
    For a model of several inputs, `shape`, `low` and `high` are tuples with one entry for each input.

    Raises
    ------
    UnsupportedModel
        Naming the operation and the module it stands in, before anything is computed.
    """
    first = next(model.parameters(), None)
    if first is None:
        raise UnsupportedModel("the model has no parameters, so there is nothing to explain")
    inputs: Any = (shape,) if isinstance(low, Tensor) else shape
    lows = (low,) if isinstance(low, Tensor) else low
    highs = (high,) if isinstance(high, Tensor) else high
    program = _export(model, tuple(first.new_zeros((_TRACED_BATCH, *size)) for size in inputs))
    nodes, shapes = _translate(program, model)
    bounds = tuple(
        (_constant_image(darkest, size).to(first), _constant_image(lightest, size).to(first))
        for darkest, lightest, size in zip(lows, highs, inputs, strict=True)
    )
    graph = rewrites.fold_batch_norms(Graph(tuple(nodes), bounds, None), shapes, first.dtype)
    graph = replace(graph, cam_value=rewrites.cam_value(graph, shapes))
    return rewrites.rectify_in_place(rewrites.pool_first(graph))


def _export(model: nn.Module, clips: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # An empty table: functional, but convolutions, linear layers and poolings stay whole.
            program: torch.export.ExportedProgram = torch.export.export(model, clips).run_decompositions({})
            return program
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        shapes = " and ".join(str(tuple(x.shape[1:])) for x in clips)
        raise UnsupportedModel(
            f"{type(model).__name__} can't be traced with clips of shape {shapes}: {reason}; "
            "a model must map one tensor (clip, channel, time, height, width) to logits (clip, class) "
            "without control flow on values"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training


def _translate(
    program: torch.export.ExportedProgram, model: nn.Module
) -> tuple[list[Node], list[tuple[int, ...]]]:
    """Return the graph's nodes, and the shape of every value without the batch axis."""
    tensors = _tensors(program, model)
    whole, parts = translations()
    clips = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    positions = {node: position for position, node in enumerate(clips)}
    shapes = [tuple(node.meta["val"].shape[1:]) for node in clips]
    signs = [(False, True) for _ in clips]
    nodes: list[Node] = []
    # Only what the output depends on: a dead branch is no reason to refuse a model.
    program.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    for node in program.graph.nodes:
        if node.op != "call_function" or node.target in parts:
            # Of an operator that gives parts, each is translated where it is taken.
            continue
        value = node.meta["val"]
        shape = tuple(getattr(value[0] if isinstance(value, (tuple, list)) else value, "shape", ()))
        call, translate = Call(node, tensors, shape), whole.get(node.target)
        if node.target is operator.getitem:
            source, part = node.args
            assert isinstance(source, fx.Node) and isinstance(part, int)
            if source.target in parts:
                call, translate = Call(source, tensors, shape, part), parts[source.target]
            elif part == 0:
                positions[node] = positions[source]
                continue
            else:
                raise call.refusal("only the values of a pooling may be used, not its indices")
        inputs = tuple(positions[n] for n in call.tensor_arguments if n in positions)
        if translate is None or not inputs:
            raise call.refusal("no explanation rule covers it")
        if not shape or shape[0] != _TRACED_BATCH:
            raise call.refusal(f"its output {shape} has lost the batch axis")
        operation = translate(call)
        nonnegative = operation.nonnegative(all(signs[i][0] for i in inputs))
        signs.append((nonnegative, operation.only_moves and all(signs[i][1] for i in inputs)))
        nodes.append(Node(call.name, operation, inputs, *signs[-1]))
        positions[node] = len(shapes)
        shapes.append(shape[1:])
    _check_output(program, positions, len(clips))
    return nodes, shapes


def _tensors(program: torch.export.ExportedProgram, model: nn.Module) -> dict[str, Tensor]:
    """The model's own parameters, buffers and constants, by the names of their nodes."""
    signature = program.graph_signature
    live = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    tensors = {key: live[name].detach() for key, name in names.items() if name in live}
    for key, name in signature.inputs_to_lifted_tensor_constants.items():
        tensors[key] = program.tensor_constants[name]
    return tensors


def _check_output(
    program: torch.export.ExportedProgram, positions: dict[fx.Node, int], n_inputs: int
) -> None:
    (results,) = program.graph.output_node().args
    assert isinstance(results, (tuple, list))
    form = program.call_spec.out_spec
    last = results[0] if len(results) == 1 and form is not None and form.is_leaf() else None
    last_position = max(positions.values(), default=-1)
    if not isinstance(last, fx.Node) or last_position < n_inputs or positions.get(last) != last_position:
        raise UnsupportedModel("the model must return one tensor, its logits (clip, class)")
    if last.meta["val"].dim() != 2:
        raise UnsupportedModel(
            f"the model returns a tensor of shape {tuple(last.meta['val'].shape)} for a batch of "
            f"{_TRACED_BATCH}; it must return logits (clip, class)"
        )


def _constant_image(bound: Tensor, shape: Shape) -> Tensor:
    if bound.shape != (shape[0],):
        raise ValueError(f"bounds of {tuple(bound.shape)} for {shape[0]} channels; give one bound a channel")
    return bound.view(1, -1, 1, 1, 1).expand(1, *shape)
