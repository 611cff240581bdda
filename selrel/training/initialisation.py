"""Gives a network new weights that suit the clips it will see."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from selrel.clips.profiles import Profile
from selrel.training.augmentation import centre
from selrel.training.modes import in_mode
from selrel.training.samples import Samples, check_not_empty, inputs

_CLIPS_TO_SUIT = 32


def initialise(model: nn.Module, samples: Samples, *, profile: Profile, seed: int) -> None:
    """Give every convolution and linear layer new weights that suit the clips, in place.

    Each unit's output, before its ReLU, gets mean 0 and deviation 1 over some clips. Without that, after
    ten layers of a plain network all clips look alike, and training stands still for many epochs.

    Parameters
    ----------
    model : torch.nn.Module
        Convolutions and linear layers that follow each other.
    samples : Samples
        The clips to learn from; 32 of them are drawn.
    profile : Profile
        How frames become inputs.
    seed : int
        Same seed, same weights.

    Raises
    ------
    ValueError
        If there is no sample.

    References
    ----------
    Directions: He et al. 2015, *Delving deep into rectifiers*. Scales and biases: Krahenbuhl et al. 2016,
    *Data-dependent initializations of convolutional neural networks*, section 3.1. The last layer's
    outputs get deviation 0.1 and no bias, so that training starts from nearly equal odds.
    """
    check_not_empty(samples)
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv3d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        _set_bias(layer, torch.tensor(0.0))
    drawn = np.random.default_rng(seed).permutation(len(samples.labels))[:_CLIPS_TO_SUIT]
    clips = [centre(samples.read(int(number), 0), profile.view) for number in drawn]
    last = _suited(model, layers, inputs(clips, profile, model))
    last.weight.data.mul_(0.1)
    _set_bias(last, torch.tensor(0.0))


def _suited(
    model: nn.Module, layers: Sequence[nn.Conv3d | nn.Linear], clips: Tensor
) -> nn.Conv3d | nn.Linear:
    """Scale all layers in one forward pass, and give the one that came last."""
    passed: list[nn.Conv3d | nn.Linear] = []

    def suit(layer: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv3d | nn.Linear)
        passed.append(layer)
        # Scale a layer so that each unit's output has mean 0 and deviation 1, and give that output.
        deviation, mean = torch.std_mean(outputs.transpose(0, 1).flatten(1), dim=1, correction=0)
        # A unit that never changes has no scale to find.
        deviation = torch.where(deviation > 0, deviation, 1.0)
        mean = mean if layer.bias is not None else torch.zeros_like(mean)
        layer.weight.data.div_(deviation.view(-1, *[1] * (layer.weight.ndim - 1)))
        _set_bias(layer, -mean / deviation)
        others = [1] * (outputs.ndim - 2)
        return (outputs - mean.view(-1, *others)) / deviation.view(-1, *others)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(suit).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(in_mode(model, training=False))
        model(clips)
    return passed[-1]


def _set_bias(layer: nn.Conv3d | nn.Linear, values: Tensor) -> None:
    if layer.bias is not None:
        layer.bias.data.copy_(values)
