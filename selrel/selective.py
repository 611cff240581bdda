"""Selective relevance: the part of an explanation that changes over time (Hiley et al. 2020, section 3).

The edge map of a clip's relevance is a 3x3x3 Sobel filter along time. A voxel is selected where the
edge is more than n standard deviations of the clip's edge map. Padded frames take no part: neither in
the filter, nor in the standard deviation, nor in the mask.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

Edge = Literal["magnitude", "rising", "falling"]
Border = Literal["replicate", "zero"]
Scaling = Literal["none", "max"]

SIGMAS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)


def check_sigmas(sigmas: Sequence[float]) -> None:
    """Refuse, by ValueError, sigmas that are not numbers above 0, none at all, or more than 254."""
    if not 0 < len(sigmas) <= 254:
        raise ValueError(f"{len(sigmas)} sigmas given; use 1 to 254 of them, such as 1 2 3")
    for sigma in sigmas:
        if not 0 < sigma < math.inf:
            raise ValueError(f"sigma is {sigma}; use a number of standard deviations above 0, such as 2")


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} {value!r} is unknown; use one of {', '.join(allowed)}")


@dataclass(frozen=True)
class SelectiveParameters:
    """Every choice that the paper leaves open.

    Parameters
    ----------
    edge : "magnitude", "rising" or "falling"
        Edge map: the size of the change in time, or the change signed so that a rise (a fall) is
        positive. The standard deviation is that of this map.
    sigma : float
        How many standard deviations an edge must exceed.
    border : "replicate" or "zero"
        What comes before the first and after the last valid frame. Height and width are always
        replicated.
    floor : float
        Edges up to this part of the clip's largest absolute relevance never count; with a replicated
        border a static clip's standard deviation is rounding noise, and so are the edges above it.
    scaling : "none" or "max"
        What is done to the relevance before the filter; "max" divides a clip by its largest absolute
        relevance, which changes units and no mask. (Scaling by minimum and maximum would move zero.)

    Raises
    ------
    ValueError
        If a value is not one of those.
    """

    edge: Edge = "magnitude"
    sigma: float = 2.0
    border: Border = "replicate"
    floor: float = 1e-6
    scaling: Scaling = "none"

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        _check_choice("edge", self.edge, get_args(Edge))
        _check_choice("border", self.border, get_args(Border))
        _check_choice("scaling", self.scaling, get_args(Scaling))
        check_sigmas([self.sigma])
        if not isinstance(self.floor, Real) or not 0 <= self.floor < 1:
            raise ValueError(f"floor is {self.floor!r}; use a part of the largest relevance, 0 up to below 1")


PRESETS = {
    "default": SelectiveParameters(),
    "paper": SelectiveParameters(edge="magnitude", sigma=2.0, border="zero"),
}


def temporal_edges(relevance: Tensor, *, border: Border = "replicate") -> Tensor:
    """Filter relevance with a Sobel operator along time.

    Parameters
    ----------
    relevance : float tensor, (time, y, x) or (clip, time, y, x)
        Signed relevance of valid frames only.
    border : "replicate" or "zero"
        What comes before the first and after the last frame.

    Returns
    -------
    tensor of the same shape and dtype
        Signed change per frame: (-1, 0, 1)/2 in time, smoothed by (1, 2, 1)/4 in height and in width
        (replicated borders). Positive where relevance rises.

    References
    ----------
    Hiley et al. 2020 (arXiv 2003.14285), section 3.
    """
    clips = relevance if relevance.ndim == 4 else relevance[None]
    if border == "replicate":
        padded = functional.pad(clips, (0, 0, 0, 0, 1, 1), mode="replicate")
    else:
        padded = functional.pad(clips, (0, 0, 0, 0, 1, 1))
    # The difference first: of two almost equal values it is exact.
    edges = (padded[:, 2:] - padded[:, :-2]) / 2
    edges = functional.pad(edges, (1, 1, 1, 1), mode="replicate")
    for axis in (-2, -1):
        n = edges.shape[axis] - 2
        sides = edges.narrow(axis, 0, n) + edges.narrow(axis, 2, n)
        edges = (sides + 2 * edges.narrow(axis, 1, n)) / 4
    return edges if relevance.ndim == 4 else edges[0]


def levels(
    relevance: Tensor, n_valid: int, sigmas: Sequence[float], parameters: SelectiveParameters
) -> Tensor:
    """Count, voxel by voxel, how many of the sigmas select it.

    Parameters
    ----------
    relevance : float tensor, (time, y, x)
        Signed relevance of one clip, finite in its valid frames.
    n_valid : int
        Frames before the padding, 1..time.
    sigmas : sequence of float
        Numbers of standard deviations, ascending. ``parameters.sigma`` is not read.
    parameters : SelectiveParameters
        All other choices.

    Returns
    -------
    uint8 tensor, (time, y, x)
        0..len(sigmas). ``levels > i`` is the mask of ``sigmas[i]``, since masks are nested; 0 in padded
        frames.

    Raises
    ------
    ValueError
        If n_valid does not fit, or the sigmas are not above 0 and ascending.
    """
    if relevance.ndim != 3:
        raise ValueError(f"relevance has shape {tuple(relevance.shape)}; one clip is (time, y, x)")
    if not 1 <= n_valid <= len(relevance):
        raise ValueError(f"n_valid is {n_valid}; a clip of {len(relevance)} frames has 1 to {len(relevance)}")
    check_sigmas(sigmas)
    if list(sigmas) != sorted(sigmas):
        raise ValueError(f"sigmas {list(sigmas)} are not ascending; sort them")
    valid = relevance[:n_valid]
    largest = valid.abs().max()
    if parameters.scaling == "max":
        valid = valid / torch.where(largest > 0, largest, 1)
        largest = valid.abs().max()
    edges = _edge_map(valid, parameters)
    deviation = edges.double().std(correction=0)
    steps = torch.tensor(sigmas, dtype=torch.float64, device=edges.device) * deviation
    thresholds = steps.clamp(min=parameters.floor * largest.double()).to(edges.dtype)
    result = torch.zeros(relevance.shape, dtype=torch.uint8, device=relevance.device)
    result[:n_valid] = torch.bucketize(edges, thresholds, out_int32=True).to(torch.uint8)
    return result


def selective_mask(
    relevance: Tensor, n_valid: int | Sequence[int] | Tensor, parameters: SelectiveParameters
) -> Tensor:
    """Select the voxels whose relevance changes over time.

    Parameters
    ----------
    relevance : float tensor, (time, y, x) or (clip, time, y, x)
        Signed relevance.
    n_valid : int, or one int per clip
        Frames before the padding.
    parameters : SelectiveParameters
        Its sigma and all other choices; every clip has a standard deviation of its own.

    Returns
    -------
    bool tensor of the shape of ``relevance``
        Selective relevance is the relevance where this holds, and 0 elsewhere. False in padded frames.

    Raises
    ------
    ValueError
        If n_valid does not fit.

    References
    ----------
    Hiley et al. 2020 (arXiv 2003.14285), section 3.
    """
    numbers = torch.as_tensor(n_valid).flatten().tolist()
    if relevance.ndim == 3 and len(numbers) == 1:
        return levels(relevance, numbers[0], [parameters.sigma], parameters) > 0
    if relevance.ndim != 4 or len(numbers) not in (1, len(relevance)):
        raise ValueError(
            f"{len(numbers)} numbers of valid frames for relevance of shape {tuple(relevance.shape)}; "
            "give one a clip, or one for all"
        )
    mask = torch.zeros_like(relevance, dtype=torch.bool)
    for clip, n in enumerate(numbers if len(numbers) > 1 else numbers * len(relevance)):
        mask[clip] = selective_mask(relevance[clip], n, parameters)
    return mask


def sweep(
    relevance: Tensor, n_valid: int, sigmas: Sequence[float], parameters: SelectiveParameters
) -> Tensor:
    """Compute the selective masks of many sigmas from one edge map.

    Parameters
    ----------
    relevance : float tensor, (time, y, x)
        Signed relevance of one clip.
    n_valid : int
        Frames before the padding.
    sigmas : sequence of float
        Numbers of standard deviations, in any order. ``parameters.sigma`` is not read.
    parameters : SelectiveParameters
        All other choices.

    Returns
    -------
    bool tensor, (sigma, time, y, x)
        Each mask as `selective_mask` makes it for that sigma.

    Raises
    ------
    ValueError
        If a sigma is not above 0, or n_valid does not fit.
    """
    ascending = sorted(set(sigmas))
    reached = levels(relevance, n_valid, ascending, parameters)
    return torch.stack([reached > ascending.index(sigma) for sigma in sigmas])


def _edge_map(relevance: Tensor, parameters: SelectiveParameters) -> Tensor:
    edges = temporal_edges(relevance, border=parameters.border)
    if parameters.edge == "magnitude":
        return edges.abs()
    return edges if parameters.edge == "rising" else -edges
