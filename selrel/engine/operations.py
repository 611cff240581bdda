"""What the engine knows of each operation: its forward pass and the transpose of its derivative.

Nothing here knows an explanation method; the methods in `selrel.explain` build their rules from
these. Every operation keeps the batch as the first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

aten = torch.ops.aten

# oneDNN is slow in transposing convolutions to fewer channels than a register holds.
_NARROW = 16


def served_by_onednn(x: Tensor) -> bool:
    """Whether oneDNN convolves it: fastest with the channels last in memory."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return x.device.type == "cpu" and x.dtype == torch.float32 and available


def channels_last(x: Tensor) -> Tensor:
    """The same values with the channels last in memory, where that is faster."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    if served_by_onednn(x) and x.dim() in layouts:
        return x.contiguous(memory_format=layouts[x.dim()])
    return x


class Operation(Protocol):
    """One node's arithmetic.

    `forward` returns the output and whatever the pullback needs beyond input and output (only max
    pooling needs something: where each maximum was). `pullback` returns the gradient with respect
    to each input, given the gradient with respect to the output.
    """

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Return the output and the saved state."""
        ...

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Return the gradient of every input."""
        ...


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution over any number of spatial axes."""

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int

    def forward(self, *inputs: Tensor) -> tuple[Tensor, None]:
        """Convolve, with the bias."""
        return self.convolve(inputs[0], self.weight, self.bias), None

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Convolve `x` with another weight of the same geometry."""
        return self._convolve(x, weight, bias, self.padding)

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None, padding: Sequence[int]) -> Tensor:
        result: Tensor
        if served_by_onednn(x):
            # By name, because torch prefers a slower kernel of its own for a single small clip.
            result = aten.mkldnn_convolution(
                x, weight, bias, padding, self.stride, self.dilation, self.groups
            )
            return result
        zeros = (0,) * len(self.stride)
        result = aten.convolution(
            x, weight, bias, self.stride, padding, self.dilation, False, zeros, self.groups
        )
        return result

    def transpose(self, gradient: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Apply the transposed convolution; `x` gives only the shape of the result.

        A weight with more input channels than `x`, as several stacked, gives as many channels.
        """
        if served_by_onednn(gradient) and self._is_narrow(weight):
            return self._transpose_by_flipping(gradient, weight)
        zeros = (0,) * len(self.stride)
        result: Tensor = aten.convolution_backward(
            gradient,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            zeros,
            self.groups,
            (True, False, False),
        )[0]
        return result

    def _is_narrow(self, weight: Tensor) -> bool:
        """Whether the transpose is best computed as a convolution: towards pixels, without strides."""
        plain = self.groups == 1 and set(self.stride) == {1} and weight.shape[1] <= _NARROW
        return plain and all(r >= p for r, p in zip(self._reach(weight), self.padding, strict=True))

    def _reach(self, weight: Tensor) -> list[int]:
        return [d * (size - 1) for d, size in zip(self.dilation, weight.shape[2:], strict=True)]

    def _transpose_by_flipping(self, gradient: Tensor, weight: Tensor) -> Tensor:
        axes = range(2, weight.dim())
        padding = [r - p for r, p in zip(self._reach(weight), self.padding, strict=True)]
        return self._convolve(gradient, weight.flip(*axes).transpose(0, 1), None, padding)

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Transpose the convolution."""
        return (self.transpose(gradient, self.weight, inputs[0]),)

    @cached_property
    def positive(self) -> Tensor:
        """The positive part of the weight."""
        return self.weight.clamp(min=0)

    @cached_property
    def negative(self) -> Tensor:
        """The negative part of the weight."""
        return self.weight.clamp(max=0)

    def by_output(self, values: Tensor) -> Tensor:
        """A value for each output channel, shaped to be combined with the output."""
        return values.view(-1, *(1,) * len(self.stride))

    def bias_view(self) -> Tensor:
        """The bias, shaped to be added to the output."""
        return self.weight.new_zeros(()) if self.bias is None else self.by_output(self.bias)


@dataclass(frozen=True, eq=False)
class Linear:
    """A fully connected layer; the same interface as `Convolution`, so that a rule serves both."""

    weight: Tensor
    bias: Tensor | None

    def forward(self, *inputs: Tensor) -> tuple[Tensor, None]:
        """Multiply, with the bias."""
        return self.convolve(inputs[0], self.weight, self.bias), None

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply `x` by another weight of the same shape."""
        return torch.nn.functional.linear(x, weight, bias)

    def transpose(self, gradient: Tensor, weight: Tensor, x: Tensor) -> Tensor:
        """Multiply by the transposed weight."""
        return gradient @ weight

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Multiply by the transposed weight."""
        return (gradient @ self.weight,)

    @cached_property
    def positive(self) -> Tensor:
        """The positive part of the weight."""
        return self.weight.clamp(min=0)

    @cached_property
    def negative(self) -> Tensor:
        """The negative part of the weight."""
        return self.weight.clamp(max=0)

    def by_output(self, values: Tensor) -> Tensor:
        """A value for each output, shaped to be combined with the output."""
        return values

    def bias_view(self) -> Tensor:
        """The bias, shaped to be added to the output."""
        return self.weight.new_zeros(()) if self.bias is None else self.bias


@dataclass(frozen=True, eq=False)
class Scaling:
    """A factor and a shift for every channel: a batch norm that has no layer before it to join."""

    factor: Tensor
    shift: Tensor

    def forward(self, *inputs: Tensor) -> tuple[Tensor, None]:
        """Scale and shift."""
        return inputs[0] * self._view(self.factor, inputs[0]) + self._view(self.shift, inputs[0]), None

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Scale."""
        return (gradient * self._view(self.factor, inputs[0]),)

    @staticmethod
    def _view(values: Tensor, x: Tensor) -> Tensor:
        return values.view(-1, *(1,) * (x.dim() - 2))


@dataclass(frozen=True, eq=False)
class Relu:
    """The rectifier. Its pullback needs its output, which the graph hands over as `saved`."""

    in_place: bool = False

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Rectify; the output is what the pullback needs."""
        output = inputs[0].relu_() if self.in_place else inputs[0].relu()
        return output, output

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Pass the gradient where the output is positive."""
        return (aten.threshold_backward(gradient, saved, 0),)


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Max pooling, plain or adaptive. Ties go to the first voxel in (time, height, width) order.

    `with_indices` and `backward` are the pair of torch operators; `arguments` are their geometry.
    """

    with_indices: Callable[..., tuple[Tensor, Tensor]]
    backward: Callable[..., Tensor]
    arguments: tuple[Any, ...]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Pool, and keep where each maximum was."""
        return self.with_indices(inputs[0], *self.arguments)

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Give the gradient to the winner."""
        return (self.backward(gradient, inputs[0], *self.arguments, saved),)


@dataclass(frozen=True, eq=False)
class Average:
    """Average pooling and means: linear, without parameters, with non-negative coefficients."""

    function: Callable[[Tensor], Tensor]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, None]:
        """Average."""
        return self.function(inputs[0]), None

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Spread the gradient over what was averaged."""
        return _transpose_of(self.function, gradient, inputs)


@dataclass(frozen=True, eq=False)
class Routing:
    """Operations that only move values: views, slices, padding with zeros, concatenation."""

    function: Callable[..., Tensor]

    def forward(self, *inputs: Tensor) -> tuple[Tensor, None]:
        """Move the values."""
        return self.function(*inputs), None

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Move the gradient back to where its value came from."""
        return _transpose_of(self.function, gradient, inputs)


@dataclass(frozen=True, eq=False)
class Addition:
    """The sum of two tensors of the same shape: a residual connection."""

    def forward(self, *inputs: Tensor) -> tuple[Tensor, None]:
        """Add."""
        return inputs[0] + inputs[1], None

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], saved: Any) -> tuple[Tensor, ...]:
        """Give the gradient to both."""
        return gradient, gradient


def _transpose_of(
    function: Callable[..., Tensor], gradient: Tensor, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """Transpose a linear function of the inputs; their values do not matter, only their shapes."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in inputs]
        return torch.autograd.grad(function(*leaves), leaves, gradient)
