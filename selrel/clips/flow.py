"""Optical flow, and which voxels of a clip move: the ground truth that explanations are scored on."""

from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

Rule = Literal["tau", "frame_std"]

# Where `moved` is less, nothing moves. Of 14 still pictures in 11 codecs and qualities it is at most 0.006,
# of 124 videos of UCF-101 at least 0.13 in the liveliest clip, and so it is at a quarter of their speed.
STILL_SHARE = 0.02


def grey(frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Turn RGB frames into grey ones.

    Parameters
    ----------
    frames : uint8 array, (time, y, x, 3)
        RGB frames, resized but not cropped when they are meant for `farneback`.

    Returns
    -------
    uint8 array, (time, y, x)
        Luma of ITU-R BT.601, as OpenCV rounds it.
    """
    result = np.empty(frames.shape[:3], np.uint8)
    for frame, target in zip(frames, result, strict=True):
        cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY, dst=target)
    return result


def farneback(grey_frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Estimate the dense optical flow between consecutive frames.

    Parameters
    ----------
    grey_frames : uint8 array, (time, y, x)
        Grey frames after the resize and before the crop, so that the crop's border is not the flow's.

    Returns
    -------
    float32 array, (time - 1, y, x, 2)
        Flow in pixels per frame, components (x, y); ``flow[t]`` leads from frame t to frame t + 1.
        No frame or a single one gives none.

    Raises
    ------
    ValueError
        If the frames are not uint8 (time, y, x).

    References
    ----------
    Farneback 2003, *Two-frame motion estimation based on polynomial expansion*; the algorithm that
    Hiley et al. 2020 (arXiv 2003.14285), section 4.3, call a pixel's motion.
    """
    if grey_frames.ndim != 3 or grey_frames.dtype != np.uint8:
        raise ValueError(
            f"frames are {grey_frames.dtype} {grey_frames.shape}; flow needs grey uint8 frames "
            "(time, y, x), make them with grey()"
        )
    n_pairs = max(len(grey_frames) - 1, 0)
    flow = np.zeros((n_pairs, *grey_frames.shape[1:], 2), np.float32)
    for t in range(n_pairs):
        cv2.calcOpticalFlowFarneback(
            grey_frames[t],
            grey_frames[t + 1],
            flow[t],
            pyr_scale=0.5,
            levels=3,
            winsize=15,
            iterations=3,
            poly_n=5,
            poly_sigma=1.2,
            flags=0,
        )
    return flow


def known(flow: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """Tell where the flow is known, i.e. not NaN: bool (..., y, x) of a flow (..., y, x, 2)."""
    unknown: npt.NDArray[np.bool_] = np.isnan(flow).any(axis=-1)
    return ~unknown


def moving(flow: npt.NDArray[Any], *, rule: Rule = "tau", tau: float = 0.5) -> npt.NDArray[np.bool_]:
    """Tell which voxels move.

    Parameters
    ----------
    flow : float array, (..., time, y, x, 2)
        Pixels per frame, any float type; NaN where unknown. A frame is known whole or not at all.
    rule : "tau" or "frame_std"
        ``tau``: a voxel moves when its flow is longer than ``tau``. ``frame_std``, the rule in the
        authors' published code: it moves when its length, min-maxed over the frame to 0..255, is more
        than the standard deviation of the frame's lengths on that scale.
    tau : float
        Pixels per frame; only the rule ``tau`` reads it.

    Returns
    -------
    bool array, (..., time, y, x)
        False where the flow is unknown.

    Raises
    ------
    ValueError
        If the rule is unknown, or tau is negative or not finite.
    """
    check_rule(rule, tau)
    horizontal, vertical = np.moveaxis(flow.astype(np.float32, copy=False), -1, 0)
    length: npt.NDArray[np.float32] = np.sqrt(horizontal * horizontal + vertical * vertical)
    if rule == "tau":
        return length > tau
    # Min-max scaling by 255 / (max - min) cancels on both sides of the comparison.
    frame = (-2, -1)
    deviation: npt.NDArray[np.float64] = length.std(axis=frame, dtype=np.float64, keepdims=True)
    above_least: npt.NDArray[np.float32] = length - length.min(axis=frame, keepdims=True)
    return above_least > deviation


def moved(flow: npt.NDArray[Any]) -> float:
    """Give the share of a clip's pixels over which something moves in the course of the clip.

    That is where the flow of all frames adds up to more than 1 px, or, for what goes back and forth, where
    the lengths of those above 0.5 px do to more than 2 px. What a codec adds to a still picture comes and
    goes, and adds up to little; slow motion, with no frame's flow above 0.5 px, adds up.

    Parameters
    ----------
    flow : float array, (time, y, x, 2)
        Pixels per frame; NaN where unknown. A frame is known whole or not at all.

    Returns
    -------
    float
        0..1; NaN where no frame's flow is known.
    """
    frames = flow[known(flow).all(axis=(1, 2))].astype(np.float32, copy=False)
    if not len(frames):
        return float("nan")
    length, way = np.hypot(*np.moveaxis(frames, -1, 0)), np.hypot(*np.moveaxis(frames.sum(axis=0), -1, 0))
    back_and_forth = np.where(length > 0.5, length, 0).sum(axis=0)
    return float(((way > 1) | (back_and_forth > 2)).mean())


def check_rule(rule: str, tau: float) -> None:
    """Refuse, by ValueError, a rule that `moving` does not know or a tau that it cannot use."""
    if rule not in get_args(Rule):
        raise ValueError(f"motion rule {rule!r} is unknown; use one of {', '.join(get_args(Rule))}")
    if not 0 <= tau < np.inf:
        raise ValueError(f"tau is {tau}; use a flow in pixels per frame, 0 or more, such as 0.5")
