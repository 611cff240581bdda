"""Localisation: how well a map finds voxels of which the truth is known, beside maps that know nothing.

The controls are area-matched: each takes as many voxels as the map it stands beside, those that are first
in an order of its own (nearest to the centre, fastest in the flow, most changed in the picture).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from selrel.scores.precision import share

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]


def ratios(chosen: float, true: float, hits: float) -> dict[str, float | None]:
    """Divide counts of one map, or of a sum of maps.

    Parameters
    ----------
    chosen, true, hits : float
        Voxels that the map holds, that are true, and both.

    Returns
    -------
    dict
        ``precision``, ``recall`` and ``iou`` (intersection over union), 0..1; None where nothing divides.
    """
    return {
        "precision": share(hits, chosen),
        "recall": share(hits, true),
        "iou": share(hits, chosen + true - hits),
    }


def swept(mask: Bools) -> Bools:
    """Where an object is in the frame, the one before or the one after: all that its motion can change.

    Parameters
    ----------
    mask : bool array, (time, y, x)
        Where the object is seen.
    """
    result = mask.copy()
    result[1:] |= mask[:-1]
    result[:-1] |= mask[1:]
    return result


def hits_by_area(order: npt.NDArray[np.intp], truth: Bools) -> npt.NDArray[np.int64]:
    """Count the true voxels among the first 0, 1, 2, .. of an order.

    Parameters
    ----------
    order : int array, (voxel,)
        The voxels' numbers, the first choice first.
    truth : bool array, any shape of as many voxels
        The true voxels.

    Returns
    -------
    int64 array, (voxel + 1,)
        ``hits[k]`` is what a control of k voxels hits.
    """
    return np.concatenate([[0], truth.ravel()[order].cumsum(dtype=np.int64)])


def control_orders(
    flow: npt.NDArray[np.floating], luma: npt.NDArray[np.uint8], *, seed: int = 0
) -> Mapping[str, npt.NDArray[np.intp]]:
    """Order the voxels of a clip as explanations that never saw the model would.

    Parameters
    ----------
    flow : float array, (time, y, x, 2)
        Estimated flow; unknown (NaN) comes last.
    luma : uint8 array, (time, y, x)
        The clip in grey.
    seed : int
        Of the order of equals.

    Returns
    -------
    mapping of str to int array, (voxel,)
        ``centre``: nearest to the frame's centre. ``flow``: the longest flow. ``change``: the largest
        temporal edge of the picture itself, the selective step without any explanation.
    """
    time, height, width = luma.shape
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    length = np.nan_to_num(np.linalg.norm(flow.astype(np.float32), axis=-1), nan=-1.0)
    padded = np.concatenate([luma[:1], luma, luma[-1:]]).astype(np.float32)
    change = np.abs(padded[2:] - padded[:-2])
    chance = np.random.default_rng(seed).random(luma.size)
    return {
        "centre": np.lexsort((chance, np.broadcast_to(distance, luma.shape).ravel())),
        "flow": np.lexsort((chance, -length.ravel())),
        "change": np.lexsort((chance, -change.ravel())),
    }
