"""Convolutions over any number of axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from selrel.engine.operations import Call
from selrel.engine.operations.layer import Layer, Part
from selrel.engine.private_torch import Geometry, convolve_packed, pack_kernel

aten = torch.ops.aten

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def served_by_onednn(x: Tensor) -> bool:
    """Whether oneDNN convolves it: fastest with the channels last in memory."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return x.device.type == "cpu" and x.dtype == torch.float32 and x.dim() in _CHANNELS_LAST and available


def channels_last(x: Tensor) -> Tensor:
    """Return the same values with the channels last in memory, where that is faster."""
    return x.contiguous(memory_format=_CHANNELS_LAST[x.dim()]) if served_by_onednn(x) else x


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
            return self._convolve_packed(x, part, bias, self.padding)
        result: Tensor = aten.convolution(x, self.part(part), bias, *self._arguments())
        return result

    def transpose(self, gradient: Tensor, part: Part, x: Tensor) -> Tensor:
        """Apply the transposed convolution."""
        reach = (d * (size - 1) for d, size in zip(self.dilation, self.weight.shape[2:], strict=True))
        padding = tuple(r - p for r, p in zip(reach, self.padding, strict=True))
        # Without strides and groups, the transpose is the convolution with the turned kernel.
        if served_by_onednn(gradient) and self.groups == 1 and set(self.stride) == {1} and min(padding) >= 0:
            return self._convolve_packed(gradient, _Turned(part), None, padding)
        weight = self.part(part)
        channels = weight.shape[1] * self.groups
        like = x if x.shape[1] == channels else x.new_empty((len(x), channels, *x.shape[2:]))
        result: Tensor = aten.convolution_backward(
            gradient, like, weight, None, *self._arguments(), (True, False, False)
        )[0]
        return result

    def transposes(self, gradient: Tensor, parts: tuple[Part, ...], x: Tensor) -> Sequence[Tensor]:
        """As one, where all channels are one group: oneDNN computes few channels at the price of sixteen."""
        if self.groups > 1:
            return super().transposes(gradient, parts, x)
        return self.transpose(gradient, _Stacked(parts), x).chunk(len(parts), dim=1)

    def _arguments(self) -> tuple[object, ...]:
        """The arguments of torch's convolutions after the bias."""
        return self.stride, self.padding, self.dilation, False, (0,) * len(self.stride), self.groups

    def _convolve_packed(
        self, x: Tensor, part: Part, bias: Tensor | None, padding: tuple[int, ...]
    ) -> Tensor:
        """Convolve by oneDNN with a kernel in its own layout, which it would else make at every call."""
        geometry: Geometry = (padding, self.stride, self.dilation, self.groups)
        kernel = self.form(("packed", part), lambda: pack_kernel(part(self.weight), geometry, x.shape))
        return convolve_packed(x, kernel, bias, geometry)


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


def _convolution(call: Call) -> Convolution:
    weight: Tensor = call.argument(1, "weight")
    axes = weight.dim() - 2
    dilation = call.by_axis(5, "dilation", 1, axes)
    named = call.argument(4, "padding", 0)
    if named == "same":
        both = [d * (size - 1) for d, size in zip(dilation, weight.shape[2:], strict=True)]
        if any(total % 2 for total in both):
            raise call.refusal('padding="same" is lopsided for its even kernel, so pad before it')
        padding = tuple(total // 2 for total in both)
    else:
        padding = (0,) * axes if named == "valid" else call.by_axis(4, "padding", 0, axes)
    return Convolution(
        weight=weight,
        bias=call.argument(2, "bias"),
        stride=call.by_axis(3, "stride", 1, axes),
        padding=padding,
        dilation=dilation,
        groups=call.argument(6, "groups", 1),
    )


TRANSLATIONS = {
    aten.conv1d.default: _convolution,
    aten.conv2d.default: _convolution,
    aten.conv3d.default: _convolution,
    aten.conv1d.padding: _convolution,
    aten.conv2d.padding: _convolution,
    aten.conv3d.padding: _convolution,
}
