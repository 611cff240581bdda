"""Playback: what a page needs of a clip to show it, and its selective maps at any sigma, frame by frame.

Pictures that are already painted would fix the threshold, the frame and the colours. A few bits of relevance
and one level a voxel leave them open: a reader moves the threshold, and every mask is the exact one.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from selrel.pictures.images import flow_colours, relevance_scale, strip
from selrel.selective import SelectiveParameters, levels, temporal_edges

Image = npt.NDArray[np.uint8]
Layer = dict[str, Any]

# Steps of the stored range in each direction: an eye hardly tells more, and the files stay small.
STEPS = 63
EDGE_STEPS = 15
# Edges are shown up to so many standard deviations.
EDGE_LIMIT = 6.0
# Longest side of a shown frame; larger ones are thinned.
_SIDE = 128


def layer(
    relevance: npt.NDArray[np.float32],
    sigmas: Sequence[float],
    parameters: SelectiveParameters,
    *,
    scale: float,
) -> Layer:
    """Reduce one explanation of a clip to what a page paints.

    Parameters
    ----------
    relevance : float32, (time, y, x)
        Signed relevance of the valid frames.
    sigmas : sequence of float
        Thresholds, ascending; ``parameters.sigma`` is not read.
    parameters : SelectiveParameters
        All other choices of the selective step.
    scale : float
        The relevance that is painted in full colour in every clip, above 0.

    Returns
    -------
    dict
        ``own`` (this clip's own scale, `selrel.pictures.images.relevance_scale`); ``range`` (the relevance of
        ``STEPS``: the larger one of both scales, so that neither is cut off); ``relevance`` (int8,
        -STEPS..STEPS), ``levels`` (uint8; the mask of ``sigmas[i]`` is ``levels > i``)
        and ``edges`` (int8, ``EDGE_STEPS`` is ``EDGE_LIMIT`` standard deviations), all (time, y, x); and
        ``over_time``, a list for the baseline and each sigma: the positive relevance of each frame, as a
        share of the clip's.
    """
    cube = torch.from_numpy(np.array(relevance))
    reached = levels(cube, len(cube), sigmas, parameters).numpy()
    edges = temporal_edges(cube, border=parameters.border).numpy()
    # The standard deviation that the thresholds count in is that of the map in force.
    deviation = float(np.std(np.abs(edges) if parameters.edge == "magnitude" else edges, dtype=np.float64))
    own = relevance_scale(relevance)
    return {
        "own": own,
        "range": max(own, scale),
        "relevance": _quantised(thinned(relevance), max(own, scale), STEPS),
        "levels": thinned(reached),
        "edges": _quantised(thinned(edges), EDGE_LIMIT * deviation, EDGE_STEPS),
        "over_time": _over_time(relevance, reached, len(sigmas)),
    }


def frame_strip(frames: Image) -> Image:
    """Lay the frames of a clip, uint8 ``(time, y, x, 3)``, side by side: ``(y, time * x, 3)``, thinned."""
    step = _thinning(frames)
    height, width = (len(range(0, side, step)) for side in frames.shape[1:3])
    shown = [cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames]
    return strip(np.stack(shown).astype(np.uint8))


def flow_strip(flow: npt.NDArray[np.floating], *, scale: float) -> Image:
    """Colour the flow of a clip ``(time, y, x, 2)`` and lay the frames side by side, thinned."""
    return strip([flow_colours(frame, scale=scale) for frame in thinned(flow)])


def thinned(cube: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Take every n-th row and column ``(time, y, x, ...)``, so that no side is longer than 128."""
    step = _thinning(cube)
    return cube[:, ::step, ::step]


def _thinning(cube: npt.NDArray[Any]) -> int:
    return -(-int(max(cube.shape[1:3])) // _SIDE)


def _quantised(values: npt.NDArray[Any], full: float, n_steps: int) -> npt.NDArray[np.int8]:
    if full == 0:
        return np.zeros(values.shape, np.int8)
    return np.rint(np.clip(values / full, -1, 1) * n_steps).astype(np.int8)


def _over_time(
    relevance: npt.NDArray[np.float32], reached: npt.NDArray[np.uint8], n_sigmas: int
) -> list[list[float]]:
    positive = np.maximum(relevance, 0).astype(np.float64)
    total = positive.sum() or 1.0
    # Baseline: every voxel reaches level 0.
    return [(np.where(reached >= at, positive, 0).sum((1, 2)) / total).tolist() for at in range(n_sigmas + 1)]
