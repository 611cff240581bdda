"""Localisation: how well a map finds voxels of which the truth is known, beside maps that know nothing.

The controls are area-matched: each takes as many voxels as the map it stands beside, those that are first
in an order of its own (nearest to the centre, brightest, fastest in the flow, most changed, ..).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from selrel.scores.metric import share

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

# Maps that know nothing of the model, from the plainest on; each takes the area of the map beside it.
CONTROLS = ("centre", "luma", "contrast", "change", "flow", "object_flow")


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
    flow: npt.NDArray[np.floating],
    object_flow: npt.NDArray[np.floating],
    luma: npt.NDArray[np.uint8],
    *,
    seed: int = 0,
) -> Mapping[str, npt.NDArray[np.intp]]:
    """Order the voxels of a clip as explanations that never saw the model would.

    Parameters
    ----------
    flow : float array, (time, y, x, 2)
        Estimated flow, px/frame; unknown (NaN) comes last.
    object_flow : float array, (time, y, x, 2)
        The same without the camera's motion, from `selrel.clips.camera.object_flow`.
    luma : uint8 array, (time, y, x)
        The clip in grey.
    seed : int
        Of the order of equals.

    Returns
    -------
    mapping of str to int array, (voxel,)
        By the names of `CONTROLS`. ``centre``: nearest to the frame's centre. ``luma``: the brightest.
        ``contrast``: farthest in brightness from the frame's median. ``flow`` and ``object_flow``: the
        longest flow. ``change``: the largest difference in time of the picture itself, without any
        explanation.
    """
    _, height, width = luma.shape
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(y - (height - 1) / 2, x - (width - 1) / 2)
    grey = luma.astype(np.float32)
    padded = np.concatenate([grey[:1], grey, grey[-1:]])
    strength = {
        "centre": np.broadcast_to(-distance, luma.shape),
        "luma": grey,
        "contrast": np.abs(grey - np.median(grey, axis=(1, 2), keepdims=True)),
        "flow": _length(flow),
        "object_flow": _length(object_flow),
        "change": np.abs(padded[2:] - padded[:-2]),
    }
    chance = np.random.default_rng(seed).random(luma.size)
    return {name: np.lexsort((chance, -strength[name].ravel())) for name in CONTROLS}


def _length(flow: npt.NDArray[np.floating]) -> Floats:
    lengths: Floats = np.nan_to_num(np.linalg.norm(flow.astype(np.float32), axis=-1), nan=-1.0)
    return lengths
