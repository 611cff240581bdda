"""Models whose layers are randomised from the output down, for the sanity check of explanations.

An explanation that stays what it was when weights become random does not explain them.
"""

import copy
from collections.abc import Iterator

import torch
from torch import nn


def cascade(model: nn.Module, *, seed: int = 0) -> Iterator[tuple[str, nn.Module]]:
    """Randomise a model's layers one after another, the last first.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is.
    seed : int
        Same seed, same weights.

    Yields
    ------
    name : str
        The layer that has become random now.
    model : torch.nn.Module
        A copy in which that layer, and all after it, are random: weights are drawn from a normal
        distribution of the layer's own mean and deviation, biases change places.

    References
    ----------
    Adebayo et al. 2018, *Sanity checks for saliency maps*, section 3: cascading randomisation.
    """
    result = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    layers = [(n, m) for n, m in result.named_modules() if isinstance(m, nn.Conv3d | nn.Linear)]
    for name, layer in reversed(layers):
        with torch.no_grad():
            drawn = torch.randn(layer.weight.shape, generator=generator)
            layer.weight.copy_(layer.weight.mean() + drawn * layer.weight.std())
            if layer.bias is not None:
                layer.bias.copy_(layer.bias[torch.randperm(len(layer.bias), generator=generator)])
        yield name, copy.deepcopy(result)
