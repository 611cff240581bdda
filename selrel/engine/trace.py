"""Read a model's graph with `torch.export` and translate it into the engine's operations.

The exported graph is functional (in-place operations, reused modules and control flow on shapes are
resolved) and its operators are few, so one translation serves any module that is built from them.
The model itself is neither changed nor run.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from selrel.engine.graph import Graph, Node, UnsupportedModel
from selrel.engine.operations import (
    Addition,
    Average,
    Convolution,
    Layer,
    Linear,
    MaxPool,
    Operation,
    Relu,
    Routing,
    Scaling,
)
from selrel.engine.ties import adaptive_windows, apart, regular_windows

aten = torch.ops.aten

# Not 1, which models treat specially when they squeeze; a size that no other axis is likely to have.
_TRACED_BATCH = 7


def trace(model: nn.Module, shape: tuple[int, int, int, int], *, low: Tensor, high: Tensor) -> Graph:
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

    Raises
    ------
    UnsupportedModel
        Naming the operation and the module it stands in, before anything is computed.
    """
    program = _export(model, shape)
    translation = _Translation(program, model)
    nodes = _fold_batch_norms(translation.nodes())
    cam_value = _cam_value(nodes, translation.shapes)
    nodes = _rectify_in_place(_pool_first(nodes, kept=cam_value))
    first = next(model.parameters())
    bounds = tuple(_constant_image(bound, shape).to(first) for bound in (low, high))
    return Graph(nodes=tuple(nodes), bounds=(bounds[0], bounds[1]), cam_value=cam_value)


def _export(model: nn.Module, shape: tuple[int, int, int, int]) -> torch.export.ExportedProgram:
    first = next(model.parameters(), None)
    if first is None:
        raise UnsupportedModel("the model has no parameters, so there is nothing to explain")
    clip = torch.zeros((_TRACED_BATCH, *shape), dtype=first.dtype, device=first.device)
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            # An empty table: functional, but convolutions, linear layers and poolings stay whole.
            program: torch.export.ExportedProgram = torch.export.export(model, (clip,)).run_decompositions({})
            return program
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModel(
            f"{type(model).__name__} can't be traced with clips of shape {shape}: {reason}; "
            "a model must map one tensor (clip, channel, time, height, width) to logits (clip, class) "
            "without control flow on values"
        ) from error
    finally:
        for module, training in modes.items():
            module.training = training


@dataclass(frozen=True, eq=False)
class _BatchNorm:
    """A batch norm in eval mode: a scale and a shift for every channel; `axes` follow the channel."""

    scale: Tensor
    shift: Tensor
    axes: int
    dtype: torch.dtype

    def alone(self) -> Scaling:
        """The same as an operation of its own."""
        return Scaling(self.scale.to(self.dtype), self.shift.to(self.dtype))

    def after(self, layer: Layer) -> Layer:
        """The layer before it with the norm folded in."""
        weight = layer.weight * self.scale.view(-1, *(1,) * (layer.weight.dim() - 1))
        bias = self.shift if layer.bias is None else self.shift + layer.bias * self.scale
        return replace(layer, weight=weight.to(self.dtype), bias=bias.to(self.dtype))


class _Translation:
    """Walks the exported graph once."""

    def __init__(self, program: torch.export.ExportedProgram, model: nn.Module) -> None:
        self.program = program
        self.positions: dict[fx.Node, int] = {}
        self.tensors = self._tensors(model)
        self.shapes: list[tuple[int, ...]] = []
        """The shape of every value, the batch axis left out."""

    def _tensors(self, model: nn.Module) -> dict[str, Tensor]:
        signature = self.program.graph_signature
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        live = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        tensors = {key: live[name].detach() for key, name in names.items() if name in live}
        for key, name in signature.inputs_to_lifted_tensor_constants.items():
            tensors[key] = self.program.tensor_constants[name]
        return tensors

    def nodes(self) -> list[Node]:
        nodes: list[Node] = []
        for node in self._needed():
            if node.op == "placeholder":
                self._accept_placeholder(node)
            elif node.op == "call_function":
                self._translate(node, nodes)
        self._check_output(nodes)
        return nodes

    def _needed(self) -> list[fx.Node]:
        """The nodes that the output depends on, in order of execution; parameters excepted."""
        needed: set[fx.Node] = set()
        waiting = [self.program.graph.output_node()]
        while waiting:
            node = waiting.pop()
            if node not in needed:
                needed.add(node)
                waiting.extend(node.all_input_nodes)
        return [node for node in self.program.graph.nodes if node in needed]

    def _accept_placeholder(self, node: fx.Node) -> None:
        if node.name not in self.tensors:
            self.positions[node] = 0
            self.shapes.append(tuple(node.meta["val"].shape[1:]))

    def _translate(self, node: fx.Node, nodes: list[Node]) -> None:
        if node.target in _DIVISIONS:
            # Translated where one of its parts is taken.
            return
        origin = _divided(node) or node
        if node.target is operator.getitem and origin is node:
            self._translate_item(node)
            return
        translate = _TRANSLATIONS.get(node.target) if origin is node else _part
        inputs = tuple(n for n in origin.all_input_nodes if n in self.positions)
        if translate is None or not inputs:
            raise self._refusal(node, "no explanation rule covers it")
        value = node.meta["val"]
        output = value[0] if isinstance(value, (tuple, list)) else value
        if output.dim() == 0 or output.shape[0] != _TRACED_BATCH:
            raise self._refusal(node, f"its output {tuple(output.shape)} has lost the batch axis")
        operation = translate(_Call(node, self.tensors, tuple(output.shape), self._refusal))
        positions = tuple(self.positions[n] for n in inputs)
        if isinstance(operation, Routing | Addition):
            positions = tuple(self.positions[n] for n in _tensor_arguments(origin) if n in self.positions)
        nodes.append(Node(_name(origin), operation, positions, *self._signs(operation, positions, nodes)))
        self.positions[node] = len(nodes)
        self.shapes.append(tuple(output.shape[1:]))

    def _translate_item(self, node: fx.Node) -> None:
        """Of an operator with several outputs only the first, the values, may be used."""
        source, index = node.args[0], node.args[1]
        if index != 0:
            raise self._refusal(node, "only the values of a pooling may be used, not its indices")
        assert isinstance(source, fx.Node)
        self.positions[node] = self.positions[source]

    @staticmethod
    def _signs(operation: Operation, inputs: tuple[int, ...], nodes: list[Node]) -> tuple[bool, bool]:
        if isinstance(operation, Relu) and operation.slope == 0:
            return True, False
        linear = isinstance(operation, Layer | _BatchNorm)
        nonnegative = not linear and all(i > 0 and nodes[i - 1].nonnegative for i in inputs)
        still = isinstance(operation, Routing | _BatchNorm)
        moves = still and all(i == 0 or nodes[i - 1].moves_pixels for i in inputs)
        return nonnegative, moves

    def _check_output(self, nodes: list[Node]) -> None:
        (results,) = self.program.graph.output_node().args
        assert isinstance(results, (tuple, list))
        form = self.program.call_spec.out_spec
        last = results[0] if len(results) == 1 and form is not None and form.is_leaf() else None
        if not isinstance(last, fx.Node) or self.positions.get(last) != len(nodes) or not nodes:
            raise UnsupportedModel("the model must return one tensor, its logits (clip, class)")
        if last.meta["val"].dim() != 2:
            raise UnsupportedModel(
                f"the model returns a tensor of shape {tuple(last.meta['val'].shape)} for a batch of "
                f"{_TRACED_BATCH}; it must return logits (clip, class)"
            )

    @staticmethod
    def _refusal(node: fx.Node, reason: str) -> UnsupportedModel:
        known = ", ".join(sorted({str(target).split(".")[1] for target in (*_TRANSLATIONS, *_DIVISIONS)}))
        return UnsupportedModel(
            f"can't explain {_name(node)}: {reason}; replace it by operations from this list "
            f"({known}) or leave it out: logits are explained before any softmax"
        )


@dataclass(frozen=True, eq=False)
class _Call:
    """One operator call of the exported graph, with its tensors looked up."""

    node: fx.Node
    tensors: dict[str, Tensor]
    shape: tuple[int, ...]
    refuse: Callable[[fx.Node, str], UnsupportedModel]

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or name, parameters as tensors."""
        args, kwargs = self.node.args, self.node.kwargs
        value: Any = args[index] if index < len(args) else kwargs.get(name, default)
        if isinstance(value, fx.Node):
            if value.name not in self.tensors:
                raise self.refuse(self.node, f"its {name} is computed, not a parameter")
            return self.tensors[value.name]
        return default if value is None else value

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of the first input, the batch included."""
        return tuple(self.node.all_input_nodes[0].meta["val"].shape)

    @property
    def input_rank(self) -> int:
        """The number of axes of the first input, the batch included."""
        return len(self.input_shape)

    def all_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.node.args, dict(self.node.kwargs)


def _name(node: fx.Node) -> str:
    modules = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    where = str(modules[-1]) if modules and modules[-1] else "the model's forward"
    what = str(node.target).removeprefix("aten.").split(".")[0]
    return f"{where} ({what})"


def _tensor_arguments(node: fx.Node) -> list[fx.Node]:
    """All tensor arguments in order, repeats included (x + x)."""
    found: list[fx.Node] = []
    for argument in node.args:
        items = argument if isinstance(argument, (list, tuple)) else [argument]
        found.extend(item for item in items if isinstance(item, fx.Node))
    return found


def _constant_image(bound: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    if bound.shape != (shape[0],):
        raise ValueError(f"bounds of {tuple(bound.shape)} for {shape[0]} channels; give one bound a channel")
    return bound.view(1, -1, 1, 1, 1).expand(1, *shape)


# --- one small translation an operator --------------------------------------------------------


def _convolution(axes: int) -> Callable[[_Call], Operation]:
    def translate(call: _Call) -> Operation:
        def several(index: int, name: str, default: int) -> tuple[int, ...]:
            given = call.argument(index, name, [default] * axes)
            values = [given] if isinstance(given, int) else list(given)
            return tuple(values * axes if len(values) == 1 else values)

        weight, dilation = call.argument(1, "weight"), several(5, "dilation", 1)
        named = isinstance(call.argument(4, "padding"), str)
        return Convolution(
            weight=weight,
            bias=call.argument(2, "bias"),
            stride=several(3, "stride", 1),
            padding=_named_padding(call, weight, dilation) if named else several(4, "padding", 0),
            dilation=dilation,
            groups=call.argument(6, "groups", 1),
        )

    return translate


def _named_padding(call: _Call, weight: Tensor, dilation: tuple[int, ...]) -> tuple[int, ...]:
    """What "valid" and "same" pad."""
    if call.argument(4, "padding") == "valid":
        return (0,) * len(dilation)
    both = [d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(total % 2 for total in both):
        raise call.refuse(call.node, 'padding="same" is lopsided for its even kernel, so pad before it')
    return tuple(total // 2 for total in both)


def _linear(call: _Call) -> Operation:
    return Linear(call.argument(1, "weight"), call.argument(2, "bias"))


def _batch_norm(call: _Call) -> Any:
    weight, bias = call.argument(1, "weight"), call.argument(2, "bias")
    mean, variance = call.argument(3, "running_mean"), call.argument(4, "running_var")
    if mean is None or variance is None:
        raise call.refuse(call.node, "it has no running statistics")
    # In float64: folding must not cost accuracy.
    scale = (variance.double() + call.argument(6, "eps")).rsqrt()
    scale = scale if weight is None else scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return _BatchNorm(scale, shift, len(call.shape) - 2, mean.dtype)


def _relu(call: _Call) -> Operation:
    return Relu()


def _leaky_relu(call: _Call) -> Operation:
    slope = call.argument(1, "negative_slope", 0.01)
    if not 0 <= slope <= 1:
        raise call.refuse(call.node, f"its slope is {slope}, and only slopes of 0 to 1 have a rule")
    return Relu(slope=float(slope))


def _clamp(lowest: str, highest: str, default: tuple[float, float]) -> Callable[[_Call], Operation]:
    """What cuts values off at 0, and maybe at a ceiling; the names are those of the operator's arguments."""

    def translate(call: _Call) -> Operation:
        low, high = call.argument(1, lowest, default[0]), call.argument(2, highest, default[1])
        if low != 0 or not high > 0:
            raise call.refuse(
                call.node, f"it keeps values in {low} to {high}, and only ranges from 0 on have a rule"
            )
        return Relu(ceiling=float(high))

    return translate


def _max_pool(axes: int) -> Callable[[_Call], Operation]:
    def translate(call: _Call) -> Operation:
        def several(index: int, name: str, default: Any) -> list[int]:
            given = call.argument(index, name, default) or default
            values = [given] if isinstance(given, int) else list(given)
            return values * axes if len(values) == 1 else values

        kernel = several(1, "kernel_size", None)
        stride, padding, dilation = (
            several(2, "stride", kernel),
            several(3, "padding", 0),
            several(4, "dilation", 1),
        )
        geometry = zip(kernel, stride, padding, dilation, strict=True)
        windows = tuple(
            regular_windows(size, count, kernel=k, stride=s, padding=p, dilation=d)
            for size, count, (k, s, p, d) in zip(*_pooled_axes(call, axes), geometry, strict=True)
        )
        if axes == 1:
            # torch has no pullback of its own there.
            return MaxPool(windows)
        with_indices = getattr(aten, f"max_pool{axes}d_with_indices").default
        backward = getattr(aten, f"max_pool{axes}d_with_indices_backward").default
        given = (kernel, stride, padding, dilation, call.argument(5, "ceil_mode", False))
        return MaxPool(
            windows,
            lambda x: with_indices(x, *given),
            lambda gradient, x, indices: backward(gradient, x, *given, indices),
        )

    return translate


def _adaptive_max_pool(axes: int) -> Callable[[_Call], Operation]:
    def translate(call: _Call) -> Operation:
        sizes, counts = _pooled_axes(call, axes)
        windows = tuple(adaptive_windows(size, count) for size, count in zip(sizes, counts, strict=True))
        if axes == 1:
            return MaxPool(windows)
        with_indices = getattr(aten, f"adaptive_max_pool{axes}d").default
        backward = getattr(aten, f"adaptive_max_pool{axes}d_backward").default
        return MaxPool(windows, lambda x: with_indices(x, counts), backward)

    return translate


def _pooled_axes(call: _Call, axes: int) -> tuple[Sequence[int], Sequence[int]]:
    """The sizes of the last axes before and after."""
    return call.input_shape[-axes:], call.shape[-axes:]


def _maximum(call: _Call) -> Operation:
    """The maximum over whole axes."""
    given = call.argument(1, "dim", ())
    rank = call.input_rank
    axes = sorted(axis % rank - rank for axis in ([given] if isinstance(given, int) else given))
    if not axes or axes[0] == -rank:
        raise call.refuse(call.node, "it takes the maximum over the batch")
    sizes = {axis: call.input_shape[axis] for axis in range(axes[0], 0)}
    windows = tuple(adaptive_windows(n, 1 if axis in axes else n) for axis, n in sizes.items())
    return MaxPool(windows, dropped=() if call.argument(2, "keepdim", False) else tuple(axes))


def _applied(call: _Call) -> Callable[[Tensor], Tensor]:
    """The operator itself with its other arguments fixed."""
    target: Any = call.node.target
    args, kwargs = call.all_arguments()
    return lambda x: target(x, *args[1:], **kwargs)


def _average(call: _Call) -> Operation:
    over_axes = call.node.target in (aten.mean.dim, aten.sum.dim_IntList)
    if over_axes and any(d in (0, -call.input_rank) for d in call.argument(1, "dim")):
        raise call.refuse(call.node, "it averages over the batch")
    return Average(_applied(call))


def _reshape(call: _Call) -> Operation:
    rest = call.shape[1:]
    return Routing(lambda x: x.reshape(len(x), *rest), keeps_axes=call.shape == call.input_shape)


def _move(call: _Call) -> Operation:
    if call.argument(1, "dim", 0) % call.input_rank == 0:
        raise call.refuse(call.node, "it cuts the batch")
    return Routing(_applied(call))


def _part(call: _Call) -> Operation:
    """One of the tensors that a division gives."""
    source, index = call.node.args
    assert isinstance(source, fx.Node) and isinstance(index, int)
    division = replace(call, node=source)
    if division.argument(_DIVISIONS[source.target], "dim", 0) % division.input_rank == 0:
        raise call.refuse(source, "it cuts the batch")
    divide: Any = _applied(division)
    return Routing(lambda x: divide(x)[index])


def _stack(call: _Call) -> Operation:
    axis = call.argument(1, "dim", 0) % len(call.shape)
    if axis == 0:
        raise call.refuse(call.node, "it stacks before the batch axis")
    return Routing(lambda *xs: torch.stack(xs, axis))


def _permute(call: _Call) -> Operation:
    order = [d % len(call.shape) for d in call.argument(1, "dims")]
    if order[0] != 0:
        raise call.refuse(call.node, "it moves the batch axis")
    return Routing(lambda x: x.permute(order), keeps_axes=order == sorted(order))


def _transpose(call: _Call) -> Operation:
    first, second = (d % len(call.shape) for d in (call.argument(1, "dim0"), call.argument(2, "dim1")))
    if 0 in (first, second):
        raise call.refuse(call.node, "it moves the batch axis")
    return Routing(lambda x: x.transpose(first, second), keeps_axes=first == second)


def _pad(call: _Call) -> Operation:
    mode, value = call.argument(2, "mode", "constant"), call.argument(3, "value", 0) or 0
    if call.node.target is aten.constant_pad_nd.default:
        mode, value = "constant", call.argument(2, "value", 0) or 0
    if mode != "constant" or value != 0:
        raise call.refuse(call.node, f"it pads with {value if mode == 'constant' else mode}, not with zeros")
    size = call.argument(1, "pad")
    return Routing(lambda x: torch.nn.functional.pad(x, size))


def _identity(call: _Call) -> Operation:
    return Routing(lambda x: x)


def _concatenation(call: _Call) -> Operation:
    axis = call.argument(1, "dim", 0)
    if axis % len(call.shape) == 0:
        raise call.refuse(call.node, "it concatenates along the batch")
    return Routing(lambda *xs: torch.cat(xs, axis))


def _addition(call: _Call) -> Operation:
    # Python's sum begins with 0.
    if call.node.args[1:] in ((0,), (0.0,)):
        return _identity(call)
    summands = _tensor_arguments(call.node)
    shapes = {tuple(s.meta["val"].shape) for s in summands if "val" in s.meta}
    if len(summands) != 2 or len(shapes) != 1 or call.argument(2, "alpha", 1) != 1:
        raise call.refuse(call.node, "only the plain sum of two tensors of one shape has a rule")
    if any(s.name in call.tensors for s in summands):
        raise call.refuse(call.node, "it adds a parameter; give the layer before it a bias instead")
    return Addition()


_TRANSLATIONS: dict[Any, Callable[[_Call], Any]] = {
    aten.conv1d.default: _convolution(1),
    aten.conv2d.default: _convolution(2),
    aten.conv3d.default: _convolution(3),
    aten.conv1d.padding: _convolution(1),
    aten.conv2d.padding: _convolution(2),
    aten.conv3d.padding: _convolution(3),
    aten.linear.default: _linear,
    aten._native_batch_norm_legit_no_training.default: _batch_norm,
    aten.relu.default: _relu,
    aten.leaky_relu.default: _leaky_relu,
    aten.relu6.default: _clamp("", "", (0, 6)),
    aten.hardtanh.default: _clamp("min_val", "max_val", (-1, 1)),
    aten.clamp.default: _clamp("min", "max", (-math.inf, math.inf)),
    aten.clamp_min.default: _clamp("min", "", (-math.inf, math.inf)),
    aten.amax.default: _maximum,
    aten.max.dim: _maximum,
    aten.max_pool1d.default: _max_pool(1),
    aten.max_pool2d.default: _max_pool(2),
    aten.max_pool3d.default: _max_pool(3),
    aten.max_pool1d_with_indices.default: _max_pool(1),
    aten.max_pool2d_with_indices.default: _max_pool(2),
    aten.max_pool3d_with_indices.default: _max_pool(3),
    aten.adaptive_max_pool1d.default: _adaptive_max_pool(1),
    aten.adaptive_max_pool2d.default: _adaptive_max_pool(2),
    aten.adaptive_max_pool3d.default: _adaptive_max_pool(3),
    aten.avg_pool1d.default: _average,
    aten.avg_pool2d.default: _average,
    aten.avg_pool3d.default: _average,
    aten.adaptive_avg_pool1d.default: _average,
    aten.adaptive_avg_pool2d.default: _average,
    aten.adaptive_avg_pool3d.default: _average,
    aten.mean.dim: _average,
    aten.sum.dim_IntList: _average,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.squeeze.default: _reshape,
    aten.squeeze.dim: _reshape,
    aten.squeeze.dims: _reshape,
    aten.unsqueeze.default: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.slice.Tensor: _move,
    aten.select.int: _move,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.cat.default: _concatenation,
    aten.stack.default: _stack,
    aten.add.Tensor: _addition,
    aten.clone.default: _identity,
    aten.alias.default: _identity,
    aten.contiguous.default: _identity,
    aten.dropout.default: _identity,
    aten.feature_dropout.default: _identity,
}


# What gives several tensors, each of which moves some of the values, and the place of its "dim".
_DIVISIONS: dict[Any, int] = {
    aten.split.Tensor: 2,
    aten.split_with_sizes.default: 2,
    aten.unbind.int: 1,
}


def _divided(node: fx.Node) -> fx.Node | None:
    """The division that a node takes a part of; None if it is no part."""
    source = node.args[0] if node.target is operator.getitem else None
    return source if isinstance(source, fx.Node) and source.target in _DIVISIONS else None


# --- rewrites ---------------------------------------------------------------------------------


def _consumers(nodes: list[Node]) -> list[int]:
    """How many nodes read each value; the logits count as read."""
    counts = [0] * (len(nodes) + 1)
    counts[-1] = 1
    for node in nodes:
        for position in node.inputs:
            counts[position] += 1
    return counts


def _fold_batch_norms(nodes: list[Node]) -> list[Node]:
    """Fold each batch norm into the layer before it, or let it stand by itself."""
    counts = _consumers(nodes)
    folded = list(nodes)
    for index, node in enumerate(nodes):
        norm: Any = node.operation
        if not isinstance(norm, _BatchNorm):
            continue
        before = node.inputs[0] - 1
        layer: Any = folded[before].operation if before >= 0 else None
        if _joins(norm, layer) and counts[before + 1] == 1:
            folded[before] = replace(folded[before], operation=norm.after(layer))
            folded[index] = replace(node, operation=Routing(_same))
        else:
            folded[index] = replace(node, operation=norm.alone())
    return folded


def _joins(norm: _BatchNorm, layer: Any) -> bool:
    """Whether a norm's channels are the outputs of a layer."""
    return isinstance(layer, Convolution) or (isinstance(layer, Linear) and norm.axes == 0)


def _same(x: Tensor) -> Tensor:
    return x


def _pool_first(nodes: list[Node], *, kept: int | None) -> list[Node]:
    """Let a rectifier and the max pooling behind it change places, where nothing else needs its output.

    What they give is the same, on a smaller map; and windows are compared before anything is cut off, where
    an entry far below 0 does not equal one hardly above it. Overlapping windows stay: guided backpropagation
    cuts off what a rectifier gets from all of them together.
    """
    counts = _consumers(nodes)
    turned = list(nodes)
    for index, node in enumerate(nodes):
        source = node.inputs[0]
        before = turned[source - 1] if source else None
        pools = isinstance(node.operation, MaxPool) and all(map(apart, node.operation.windows))
        if before is None or not pools or counts[source] > 1 or source == kept:
            continue
        if isinstance(before.operation, Relu) and before.operation.plain:
            turned[source - 1] = replace(node, inputs=before.inputs, nonnegative=False)
            turned[index] = replace(before, inputs=(source,))
    return turned


# Their outputs are new tensors, which no rule but a layer's own looks at again.
_ALLOCATING = (Layer, Addition, Scaling)


def _rectify_in_place(nodes: list[Node]) -> list[Node]:
    """Let a rectifier overwrite its input where nothing else reads it: one map less in memory.

    Not the output of a layer that sees pixels, whose rule divides by what follows from it.
    """
    counts = _consumers(nodes)
    rewritten = []
    for node in nodes:
        if isinstance(node.operation, Relu) and node.operation.plain:
            owner = _owner(nodes, counts, node.inputs[0])
            if (
                owner is not None
                and isinstance(owner.operation, _ALLOCATING)
                and not _sees_pixels(owner, nodes)
            ):
                node = replace(node, operation=Relu(in_place=True))
        rewritten.append(node)
    return rewritten


def _sees_pixels(node: Node, nodes: list[Node]) -> bool:
    return any(i == 0 or nodes[i - 1].moves_pixels for i in node.inputs)


def _owner(nodes: list[Node], counts: list[int], position: int) -> Node | None:
    """The node that allocated a value, if nothing but one chain of identities reads it."""
    while position > 0 and counts[position] == 1:
        node = nodes[position - 1]
        if not (isinstance(node.operation, Routing) and node.operation.function is _same):
            return node
        position = node.inputs[0]
    return None


def _cam_value(nodes: list[Node], shapes: list[tuple[int, ...]]) -> int | None:
    """The last rectified feature map, concatenations and sums of such maps included, before it is pooled.

    A map of a single place, as in a head of 1x1x1 convolutions, shows nothing of where. One of several parts
    of a map is none, since the others count as well; neither is one whose axes have changed places.
    """
    counts = _consumers(nodes)
    maps: list[int] = []
    parts: list[int] = []
    for position, node in enumerate(nodes, start=1):
        operation = node.operation
        kept = isinstance(operation, Addition) or (isinstance(operation, Routing) and operation.keeps_axes)
        follows = kept and all(i in maps for i in node.inputs)
        shape = shapes[position]
        located = len(shape) == 4 and math.prod(shape[1:]) > 1
        if located and (isinstance(operation, Relu) or follows):
            maps.append(position)
            source = node.inputs[0]
            shared = counts[source] > 1 and math.prod(shape) < math.prod(shapes[source])
            if follows and len(node.inputs) == 1 and (shared or source in parts):
                parts.append(position)
    return next((position for position in reversed(maps) if position not in parts), None)
