"""Starts a training from the weights of another one: everything but the last layer is taken over."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from selrel.clips.profiles import ColourOrder
from selrel.models import recognise
from selrel.models.c3d import C3D, CONVOLUTIONS, LINEARS, SPORTS1M_CLASSES

# Deviation of the new layer's weights, as Tran et al. 2015 and Caffe's C3D start theirs.
HEAD_DEVIATION = 0.01

_HEADS = ("fc8", "classifier.6", "cls_head.fc_cls")
_BEFORE_HEAD = ("fc7", "classifier.3", "backbone.fc7")


def fine_tuned(
    state: Mapping[str, Tensor],
    n_outputs: int,
    *,
    colour_order: ColourOrder,
    dropout: float = 0.5,
    seed: int = 0,
) -> C3D:
    """Make a C3D that has the weights of another one, but a last layer of its own.

    Parameters
    ----------
    state : mapping of str to Tensor
        Weights in any published format of C3D, of any width, with the last layer or without it, as
        those trained on Sports-1M are published. Never written to.
    n_outputs : int
        Classes of the new last layer.
    colour_order : "RGB" or "BGR"
        What the clips will come in; weights that were trained on the other order are turned round.
    dropout : float
        As `C3D` takes it.
    seed : int
        Of the last layer's weights.

    Returns
    -------
    C3D
        The model, on the CPU.

    Raises
    ------
    ValueError
        If the weights are of another architecture, or keys are missing, unexpected or misshapen.
    """
    found = recognise(_with_head(state))
    model = found.model
    if not isinstance(model, C3D):
        raise ValueError(
            f"the initial weights are of family {found.family}; give those of a C3D, such as Sports-1M's"
        )
    old = dict(model.named_children())
    widths = [_rows(old[name]) for name in CONVOLUTIONS]
    fresh = C3D(widths, [_rows(old[name]) for name in LINEARS[:2]], n_outputs, dropout=dropout)
    kept = {key: value for key, value in model.state_dict().items() if not key.startswith("fc8.")}
    if found.profile.colour_order != colour_order:
        kept["conv1.weight"] = kept["conv1.weight"].flip(1)
    fresh.load_state_dict({**fresh.state_dict(), **kept})
    _start(fresh.get_submodule("fc8"), seed)
    return fresh


def _with_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights that were published without their last layer one of zeros, so that they are known."""
    if any(key.endswith((f"{head}.weight", f"{head}.bias")) for key in state for head in _HEADS):
        return dict(state)
    features = [value.shape[0] for key, value in state.items() if _is_before_head(key) and value.ndim]
    if not features:
        return dict(state)
    return {
        **state,
        "fc8.weight": torch.zeros(SPORTS1M_CLASSES, features[0]),
        "fc8.bias": torch.zeros(SPORTS1M_CLASSES),
    }


def _is_before_head(key: str) -> bool:
    return key.removeprefix("module.") in {f"{name}.weight" for name in _BEFORE_HEAD}


def _rows(layer: nn.Module) -> int:
    assert isinstance(layer, nn.Conv3d | nn.Linear)
    return layer.weight.shape[0]


def _start(head: nn.Module, seed: int) -> None:
    assert isinstance(head, nn.Linear)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=HEAD_DEVIATION, generator=generator)
    nn.init.zeros_(head.bias)
