"""Changes of a clip in time: what is left of a model's decision when the motion stops, or is out of order.

A frozen clip holds no motion, a shuffled one motion without order, a reversed one the opposite motion. No
model was trained on such clips, so none of the three says everything by itself.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[Any]


def frozen(frames: Frames, name: str) -> Frames:
    """The middle frame throughout: what a photograph says."""
    return np.repeat(frames[len(frames) // 2][None], len(frames), axis=0)


def shuffled(frames: Frames, name: str) -> Frames:
    """The frames in an order that only the clip's name decides, the same on every machine."""
    drawn = [hashlib.sha256(f"{name} {i}".encode()).digest() for i in range(len(frames))]
    return frames[sorted(range(len(frames)), key=drawn.__getitem__)]


def reversed_in_time(frames: Frames, name: str) -> Frames:
    """The last frame first."""
    return frames[::-1]


CHANGES: dict[str, Callable[[Frames, str], Frames]] = {
    "frozen": frozen,
    "shuffled": shuffled,
    "reversed": reversed_in_time,
}


def change_clip(frames: Frames, change: str, name: str, n_valid: int | None = None) -> Frames:
    """Change the frames of a clip.

    Parameters
    ----------
    frames : array (time, ...)
        A clip; what follows its valid frames repeats them from the first one on.
    change : str
        One of `CHANGES`.
    name : str
        The clip's own, such as its video and first frame: the seed of a random order.
    n_valid : int, optional
        How many frames are valid; by default all.

    Returns
    -------
    Array of the same shape: the valid frames, changed, and repeated from the first one on.

    Raises
    ------
    ValueError
        If the change is unknown, or the number of valid frames is not that of a clip.
    """
    if change not in CHANGES:
        raise ValueError(f"change {change!r} is unknown; use one of {', '.join(CHANGES)}")
    n = len(frames) if n_valid is None else n_valid
    if not 1 <= n <= len(frames):
        raise ValueError(f"{n} valid frames in a clip of {len(frames)}; give 1 to {len(frames)}")
    return CHANGES[change](frames[:n], name)[np.arange(len(frames)) % n]
