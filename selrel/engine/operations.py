"""What the engine knows of each operation: its forward pass and the transpose of its derivative.

Nothing here knows an explanation method; the methods in `selrel.explain` build their rules from
these. Every operation keeps the batch as the first axis.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from selrel.engine.ties import Windows, maxima, to_first, where_positive

aten = torch.ops.aten

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def served_by_onednn(x: Tensor) -> bool:
    """Whether oneDNN convolves it: fastest with the channels last in memory."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() in _CHANNELS_LAST and available


def channels_last(x: Tensor) -> Tensor:
    """The same values with the channels last in memory, where that is faster."""
    return x.contiguous(memory_format=_CHANNELS_LAST[x.dim()]) if served_by_onednn(x) else x


class Operation(Protocol):
    """One node's arithmetic.

    `pullback` returns the gradient with respect to each input, given the gradient with respect to the
    output, which it may overwrite, and for each input the difference up to which two of its entries
    count as equal (`Forward.rounding`).
    """

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the output."""
        ...

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return the gradient of every input."""
        ...


Part = Callable[[Tensor], Tensor]
"""What a rule takes of a layer's weight."""


def whole(weight: Tensor) -> Tensor:
    """The weight itself."""
    return weight


def positive(weight: Tensor) -> Tensor:
    """The positive part of the weight."""
    return weight.clamp(min=0)


def negative(weight: Tensor) -> Tensor:
    """The negative part of the weight."""
    return weight.clamp(max=0)


@dataclass(frozen=True, eq=False)
class Layer(ABC):
    """What convolutions and linear layers share: a weight of which rules use parts, each made once."""

    weight: Tensor
    bias: Tensor | None
    forms: dict[Any, Tensor] = field(default_factory=dict, init=False, repr=False)
    """Parts of the weight, and their layouts in memory, as they were first needed."""

    def form(self, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """Return a form of the weight, made at its first use."""
        if key not in self.forms:
            self.forms[key] = make()
        return self.forms[key]

    def part(self, part: Part) -> Tensor:
        """A part of the weight."""
        return self.weight if part is whole else self.form(part, lambda: part(self.weight))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the layer, with the bias."""
        return self.apply(inputs[0], whole, self.bias)

    @abstractmethod
    def apply(self, x: Tensor, part: Part, bias: Tensor | None = None) -> Tensor:
        """Apply a part of the weight in place of the whole."""

    @abstractmethod
    def transpose(self, gradient: Tensor, part: Part, x: Tensor) -> Tensor:
        """Apply the transpose of a part; `x` gives only the shape of the layer's input."""

    def transposes(self, gradient: Tensor, parts: tuple[Part, ...], x: Tensor) -> Sequence[Tensor]:
        """Apply the transposes of several parts to the same gradient."""
        return [self.transpose(gradient, part, x) for part in parts]

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Apply the transpose."""
        return (self.transpose(gradient, whole, inputs[0]),)

    def size(self, x: Tensor) -> Tensor:
        """The size of the sums in the output, by clip and channel: what their roundings are relative to.

        Roundings of a sum add up as its summands would at random, so it is the norm of the weights times
        the clip's largest input, and the bias. The plain sum of magnitudes grows with the number of
        summands, which roundings don't: that of C3D's layers is 7 to 50 times as large.
        """
        weights = self.form("norm", lambda: self.by_output(self.weight.flatten(1).norm(dim=1)))
        largest = torch.maximum(x.amax(tuple(range(1, x.dim()))), -x.amin(tuple(range(1, x.dim()))))
        return weights * largest.view(-1, *(1,) * (x.dim() - 1)) + self.bias_view().abs()

    def by_output(self, values: Tensor) -> Tensor:
        """A value for each output channel, shaped to be combined with the output."""
        return values.view(-1, *(1,) * (self.weight.dim() - 2))

    def bias_view(self) -> Tensor:
        """The bias, shaped to be added to the output."""
        return self.weight.new_zeros(()) if self.bias is None else self.by_output(self.bias)


@dataclass(frozen=True, eq=False)
class Convolution(Layer):
    """A convolution over any number of spatial axes."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def apply(self, x: Tensor, part: Part, bias: Tensor | None = None) -> Tensor:
        """Convolve with a part of the weight."""
        if served_by_onednn(x):
            return self._convolve_packed(x, part, bias)
        result: Tensor = aten.convolution(x, self.part(part), bias, *self._geometry())
        return result

    def transpose(self, gradient: Tensor, part: Part, x: Tensor) -> Tensor:
        """Apply the transposed convolution."""
        if served_by_onednn(gradient) and self._turns_round():
            return self._convolve_packed(gradient, _Turned(part), None)
        weight = self.part(part)
        channels = weight.shape[1] * self.groups
        like = x if x.shape[1] == channels else x.new_empty((len(x), channels, *x.shape[2:]))
        result: Tensor = aten.convolution_backward(
            gradient, like, weight, None, *self._geometry(), (True, False, False)
        )[0]
        return result

    def transposes(self, gradient: Tensor, parts: tuple[Part, ...], x: Tensor) -> Sequence[Tensor]:
        """As one, where all channels are one group: oneDNN computes few channels at the price of sixteen."""
        if self.groups > 1:
            return super().transposes(gradient, parts, x)
        return self.transpose(gradient, _Stacked(parts), x).chunk(len(parts), dim=1)

    def _geometry(self) -> tuple[Any, ...]:
        """The arguments of torch's convolutions after the bias."""
        return self.stride, self.padding, self.dilation, False, (0,) * len(self.stride), self.groups

    def _turns_round(self) -> bool:
        """Whether the transpose is the convolution with the turned kernel: without strides and groups."""
        reaches = all(r >= p for r, p in zip(self._reach(), self.padding, strict=True))
        return self.groups == 1 and set(self.stride) == {1} and reaches

    def _reach(self) -> list[int]:
        return [d * (size - 1) for d, size in zip(self.dilation, self.weight.shape[2:], strict=True)]

    def _convolve_packed(self, x: Tensor, part: Part, bias: Tensor | None) -> Tensor:
        """Convolve by oneDNN with a kernel in its own layout, which it would else make at every call."""
        padding = list(self.padding)
        if isinstance(part, _Turned):
            padding = [r - p for r, p in zip(self._reach(), self.padding, strict=True)]
        geometry = (padding, self.stride, self.dilation, self.groups)

        def pack() -> Tensor:
            return _PACK[x.dim()](part(self.weight).to_mkldnn(), *geometry, list(x.shape))

        kernel = self.form(("packed", part), pack)
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, kernel, bias, *geometry, "none", [], "")
        return result


@dataclass(frozen=True)
class _Turned:
    """A part of a kernel, turned round in space and time, its input and output channels exchanged."""

    part: Part

    def __call__(self, weight: Tensor) -> Tensor:
        return self.part(weight).flip(*range(2, weight.dim())).transpose(0, 1).contiguous()


@dataclass(frozen=True)
class _Stacked:
    """Parts of a kernel one after the other along the input channels."""

    parts: tuple[Part, ...]

    def __call__(self, weight: Tensor) -> Tensor:
        return torch.cat([part(weight) for part in self.parts], dim=1)


_PACK: dict[int, Callable[..., Tensor]] = {
    4: torch._C._nn.mkldnn_reorder_conv2d_weight,
    5: torch._C._nn.mkldnn_reorder_conv3d_weight,
}


@dataclass(frozen=True, eq=False)
class Linear(Layer):
    """A fully connected layer."""

    def apply(self, x: Tensor, part: Part, bias: Tensor | None = None) -> Tensor:
        """Multiply by a part of the weight."""
        return torch.nn.functional.linear(x, self.part(part), bias)

    def transpose(self, gradient: Tensor, part: Part, x: Tensor) -> Tensor:
        """Multiply by the transpose of a part."""
        return gradient @ self.part(part)


@dataclass(frozen=True, eq=False)
class Scaling:
    """A factor and a shift for every channel: a batch norm that has no layer before it to join."""

    factor: Tensor
    shift: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        """Scale and shift."""
        return inputs[0] * self._view(self.factor, inputs[0]) + self._view(self.shift, inputs[0])

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Scale."""
        return (gradient * self._view(self.factor, inputs[0]),)

    def size(self, size: Tensor) -> Tensor:
        """The size of the sums in the output, from that of the input (`Layer.size`)."""
        return size * self._view(self.factor, size).abs() + self._view(self.shift, size).abs()

    @staticmethod
    def _view(values: Tensor, x: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (x.dim() - 2))


@dataclass(frozen=True, eq=False)
class Relu:
    """The rectifier, active where its input is positive by more than rounding.

    Attributes
    ----------
    slope
        What it lets through below 0: LeakyReLU's slope, 0 up to 1.
    ceiling
        Its highest output: ReLU6's 6. It is not active where its input reaches it.
    in_place
        Whether it overwrites its input; only one without slope and ceiling may.
    """

    slope: float = 0.0
    ceiling: float = math.inf
    in_place: bool = False

    @property
    def plain(self) -> bool:
        """Whether it is the rectifier of the textbooks, max(0, x)."""
        return self.slope == 0 and self.ceiling == math.inf

    def forward(self, *inputs: Tensor) -> Tensor:
        """Rectify."""
        if self.plain:
            return inputs[0].relu_() if self.in_place else inputs[0].relu()
        if self.slope:
            return torch.nn.functional.leaky_relu(inputs[0], self.slope)
        return inputs[0].clamp(0, self.ceiling)

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Pass the gradient where the rectifier is active, in place, and the slope's share elsewhere."""
        leaked = gradient * self.slope if self.slope else None
        passed = where_positive(gradient, inputs[0], rounding[0])
        if self.ceiling < math.inf:
            passed = where_positive(passed, self.ceiling - inputs[0], rounding[0])
        # (1 - slope) of what is active, and the slope's share of everything.
        return (passed if leaked is None else passed.mul_(1 - self.slope).add_(leaked),)


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Max pooling, plain or adaptive, over any of the axes but the first.

    Of what counts as highest, the first in (time, height, width) order wins: in the first frame whose maximum
    counts as the highest, in the first row of that frame whose maximum counts as its highest.
    `windows` are those along each axis. `dropped` are axes of one window each, in
    order and counted from the last (-1), that the output does without.
    """

    windows: tuple[Windows, ...]
    with_indices: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None
    backward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    """A library's pooling and its pullback (gradient, input, indices), where there is one."""
    dropped: tuple[int, ...] = ()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Pool."""
        return maxima(inputs[0], self.windows)[-1].squeeze(self.dropped)

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Give the gradient to the winner, which is found again: to keep it would take a map of indices."""
        for axis in self.dropped:
            gradient = gradient.unsqueeze(axis + inputs[0].dim())
        return (to_first(gradient, inputs[0], self.windows, self._kept(rounding[0])),)

    def size(self, size: Tensor) -> Tensor:
        """The size of the sums in the output, from that of the input (`Layer.size`): the same in a window."""
        return self._kept(size).squeeze(self.dropped)

    def _kept(self, size: Tensor) -> Tensor:
        return size.amax(tuple(range(-len(self.windows), 0)), keepdim=True)


@dataclass(frozen=True, eq=False)
class Average:
    """Average pooling, means and sums over axes: linear, with fixed coefficients that are not negative."""

    function: Callable[[Tensor], Tensor]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Average."""
        return self.function(inputs[0])

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Spread the gradient over what was averaged."""
        return _transpose_of(self.function, gradient, inputs)


@dataclass(frozen=True, eq=False)
class Routing:
    """Operations that only move values: views, slices, parts, padding with zeros, concatenation.

    `keeps_axes` says whether the axes of time, height and width are still where they were.
    """

    function: Callable[..., Tensor]
    keeps_axes: bool = True

    def forward(self, *inputs: Tensor) -> Tensor:
        """Move the values."""
        return self.function(*inputs)

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Move the gradient back to where its value came from."""
        return _transpose_of(self.function, gradient, inputs)


@dataclass(frozen=True, eq=False)
class Addition:
    """The sum of two tensors of the same shape: a residual connection."""

    def forward(self, *inputs: Tensor) -> Tensor:
        """Add."""
        return inputs[0] + inputs[1]

    def pullback(
        self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Give the gradient to both, each its own, since either may be overwritten."""
        return gradient, gradient.clone()


def _transpose_of(
    function: Callable[..., Tensor], gradient: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Transpose a linear function of the inputs; their values do not matter, only their shapes."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        found = torch.autograd.grad(function(*leaves), leaves, gradient)
    # A sum's is one number that stands for many; what is given to a rule may be overwritten.
    return tuple(share.clone() if 0 in share.stride() else share for share in found)
