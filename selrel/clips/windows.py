"""Cuts a video into clips: consecutive windows, the last one loop padded."""

import operator
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", bound=np.generic)


def windows(n_frames: int, *, length: int = 16) -> list[tuple[int, int]]:
    """Cut a video of ``n_frames`` into consecutive windows that do not overlap.

    Parameters
    ----------
    n_frames : int
        Number of decoded frames; 0 gives no window.
    length : int
        Frames in one clip.

    Returns
    -------
    list of (start, n_valid)
        First frame of each window and the number of frames it holds before padding, 1..length.
        There are ceil(n_frames / length) of them, and together they cover every frame once.

    Raises
    ------
    ValueError
        If ``n_frames`` is negative or ``length`` is below 1.

    References
    ----------
    Hiley et al. 2020 (arXiv 2003.14285), section 4.2.
    """
    n_frames, length = operator.index(n_frames), operator.index(length)
    if n_frames < 0:
        raise ValueError(f"a video has {n_frames} frames; give the decoded number of frames, 0 or more")
    _check_length(length)
    return [(start, min(length, n_frames - start)) for start in range(0, n_frames, length)]


def loop_pad(frames: npt.NDArray[Scalar], length: int) -> npt.NDArray[Scalar]:
    """Fill a short window up to ``length`` by repeating it from its own start.

    Parameters
    ----------
    frames : array, (time, ...)
        The 1..length valid frames of one window, any dtype.
    length : int
        Frames in the result.

    Returns
    -------
    array, (length, ...)
        Frame t is ``frames[t % len(frames)]``, same dtype, always a new array.

    Raises
    ------
    ValueError
        If the window is empty or longer than ``length``.

    References
    ----------
    Hiley et al. 2020 (arXiv 2003.14285), section 4.2.
    """
    _check_length(length)
    n_valid = len(frames)
    if not 1 <= n_valid <= length:
        raise ValueError(f"a window of {n_valid} frames cannot be padded to {length}; cut it with windows()")
    return frames[np.arange(length) % n_valid]


def _check_length(length: int) -> None:
    if length < 1:
        raise ValueError(f"clip length {length} is too short; use 1 or more (the papers' C3D takes 16)")
