"""Counts over nested maps: the baseline, then the selective maps of ascending sigma, each in the last.

Since a mask only shrinks as sigma grows, one small number a voxel, its *reach*, says which of the maps
hold it, and one pass over the voxels counts for all sigmas at once.
"""

from typing import Any

import numpy as np
import numpy.typing as npt


def reach(relevance: npt.NDArray[Any], levels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Count the maps in which a voxel is relevant.

    Parameters
    ----------
    relevance : float array
        Signed baseline relevance.
    levels : uint8 array of the same shape
        How many sigmas select the voxel (`selrel.selective.levels`), at most 254.

    Returns
    -------
    uint8 array of the same shape
        0 where nothing is relevant, else 1 + levels: the voxel is relevant in map i (0: the baseline,
        i: the i-th sigma) when its reach is above i.
    """
    return (levels + np.uint8(1)) * (relevance > 0)


def tally(
    reached: npt.NDArray[np.uint8], n_maps: int, *, weights: npt.NDArray[Any] | None = None
) -> npt.NDArray[Any]:
    """Count the voxels of every map, or sum their weights.

    Parameters
    ----------
    reached : uint8 array, (voxel,)
        From `reach`; none is above ``n_maps``.
    n_maps : int
        Number of maps, the baseline included.
    weights : float array, (voxel,), optional
        Summed in float64 instead of counting.

    Returns
    -------
    intp (counts) or float64 (sums) array, (n_maps,)
        Over the voxels whose reach is above 0, 1, .. n_maps - 1.
    """
    exact = np.bincount(reached, weights, minlength=n_maps + 1)
    return exact[:0:-1].cumsum()[::-1]
