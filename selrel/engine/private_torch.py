"""Everything that selrel uses of torch without a promise that it stays: checked by hand for one version.

A test fails when the pinned version of torch is another one than `CHECKED_WITH`, and says what to check.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CHECKED_WITH = "2.13.0"

aten = torch.ops.aten

# What `torch.export` makes of a batch norm in eval mode, and of a view of a result.
BATCH_NORM = aten._native_batch_norm_legit_no_training.default
UNSAFE_VIEW = aten._unsafe_view.default

Geometry = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]
"""Of a convolution: padding, stride, dilation and groups."""


def pack_kernel(kernel: Tensor, geometry: Geometry, shape: torch.Size) -> Tensor:
    """Return a kernel in the layout that oneDNN prefers for inputs of a shape."""
    functions: Any = torch._C._nn
    reorder = {4: functions.mkldnn_reorder_conv2d_weight, 5: functions.mkldnn_reorder_conv3d_weight}
    packed: Tensor = reorder[len(shape)](kernel.to_mkldnn(), *geometry, list(shape))
    return packed


def convolve_packed(x: Tensor, kernel: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
    """Convolve by oneDNN with a packed kernel."""
    result: Tensor = torch.ops.mkldnn._convolution_pointwise(x, kernel, bias, *geometry, "none", [], "")
    return result


def uncompiled(model: nn.Module) -> nn.Module | None:
    """Return the module that `torch.compile` was given; None if the model is not compiled."""
    # It takes a second, and only models of the user's own need it.
    from torch._dynamo import OptimizedModule

    return model._orig_mod if isinstance(model, OptimizedModule) else None
