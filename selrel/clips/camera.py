"""The camera's motion: what most of a frame does, told apart from what moves before the camera.

Optical flow says how every pixel moves, also because the camera pans, shakes, turns or zooms. The dominant
motion of a frame pair is fitted to the flow as an affine map and taken off; what is left is *object motion*.
None of the papers has it; Hiley et al. 2020, section 4.3.1, name its lack as why they report no recall.
"""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Flow = npt.NDArray[np.floating[Any]]
Camera = npt.NDArray[np.float32]

# The flow is sampled at every so many pixels; neighbours say nearly the same.
_STEP = 4
# Flow this near to the camera's, in px/frame, follows it. Farneback's own error is about a tenth.
_TOLERANCE = 0.25
_ROUNDS, _CONFIDENCE, _REFINEMENTS = 500, 0.999, 10


def camera_motion(flow: Flow) -> Camera:
    """Fit the dominant motion of each frame pair.

    Parameters
    ----------
    flow : float array, (time, y, x, 2)
        Pixels per frame, of whole frames: the border is mostly background. NaN where unknown.

    Returns
    -------
    float32 array, (time, 2, 3)
        Affine maps: ``camera[t, c] @ (x, y, 1)`` is component c (x, y) of the camera's flow at pixel (x, y),
        in pixels per frame. NaN where the flow is unknown; 0 where no three points agree, as on frames of
        fewer than 7 pixels along an axis, where all that are looked at lie on one line.

    Notes
    -----
    RANSAC over the flow (Fischler and Bolles 1981), refined by least squares on what agrees. It finds what
    most of the frame does, so an object that fills most of the frame is taken for the camera, and one that
    moves with it (a rider who is followed) has no motion. The random choices are OpenCV's own and the same
    every time.
    """
    return np.array([_fitted(pair) for pair in flow], np.float32).reshape(-1, 2, 3)


def moved_origin(camera: Camera, *, top: int, left: int) -> Camera:
    """Write the same motion for pixels that are counted from another one, such as a crop's first.

    Parameters
    ----------
    camera : float32 array, (..., 2, 3)
        As `camera_motion` gives it.
    top, left : int
        Row and column of the new origin.
    """
    moved = camera.copy()
    moved[..., 2] += camera[..., 0] * left + camera[..., 1] * top
    return moved


def camera_flow(camera: Camera, height: int, width: int) -> npt.NDArray[np.float32]:
    """Compute the camera's flow at every pixel: float32 (..., y, x, 2) of maps (..., 2, 3)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    points = np.stack([x, y, np.ones_like(x)], axis=-1)
    flow: npt.NDArray[np.float32] = np.einsum("yxk,...ck->...yxc", points, camera)
    return flow


def object_flow(flow: Flow, camera: Camera) -> npt.NDArray[np.float32]:
    """Take the camera's motion off the flow.

    Parameters
    ----------
    flow : float array, (..., y, x, 2)
        Pixels per frame; NaN where unknown.
    camera : float32 array, (..., 2, 3)
        Of the same frames and origin.

    Returns
    -------
    float32 array, (..., y, x, 2)
        What moves by itself; NaN where the flow or the camera is unknown.
    """
    return flow.astype(np.float32, copy=False) - camera_flow(camera, *flow.shape[-3:-1])


def _fitted(flow: Flow) -> npt.NDArray[np.float64]:
    """One frame pair's affine map, (2, 3)."""
    if np.isnan(flow).any():
        return np.full((2, 3), np.nan)
    height, width = flow.shape[:2]
    y, x = np.mgrid[_STEP // 2 : height : _STEP, _STEP // 2 : width : _STEP]
    still = np.eye(2, 3)
    if min(y.shape) < 2:
        # Points on one line fix no affine map: OpenCV refuses fewer than three, and of three makes NaN.
        return still - still
    points = np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32)
    found, _ = cv2.estimateAffine2D(
        points,
        points + flow[y.ravel(), x.ravel()].astype(np.float32),
        method=cv2.RANSAC,
        ransacReprojThreshold=_TOLERANCE,
        maxIters=_ROUNDS,
        confidence=_CONFIDENCE,
        refineIters=_REFINEMENTS,
    )
    return still - still if found is None else found - still
