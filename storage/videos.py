"""Decodes videos with OpenCV's FFmpeg, from the first frame to the last, and nothing but the file named.

Header frame counts lie in both directions and seeking lands on the wrong frame in damaged files, so
frames are counted by decoding, and a range is read by decoding up to it.
"""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

CONTAINERS = ("avi", "mov", "mp4", "matroska", "webm", "mpeg", "mpegts", "mpegvideo", "gif")
MAX_PIXELS = 8192 * 8192
ASSUMED_FPS = 25.0
READ_TIMEOUT_MS = 30_000

# FFmpeg would follow concat:, subfile: and http names, and scripts and playlists called .avi. OpenCV
# takes these options from the environment only, whenever it opens a file.
_FFMPEG_ENVIRONMENT = {
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": f"protocol_whitelist;file|format_whitelist;{','.join(CONTAINERS)}",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
}


class UndecodableVideo(ValueError):
    """A video that gives no usable frame, or fewer than were counted.

    Attributes
    ----------
    path : str
        The file.
    reason : str
        One line for a table of exclusions, without the path.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        """Give file and reason in one line."""
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class VideoFacts:
    """What decoding a video to its end has shown.

    Attributes
    ----------
    n_frames : int
        Frames that decode, 1 or more.
    header_frames : int
        Frames that the file claims to have; may be wrong, 0 or negative.
    fps : float
        Frames per second; 25 where the file does not say (the note does).
    width, height : int
        Size of the upright first frame, in pixels.
    note : str
        What is odd about the file, empty when nothing is.
    """

    n_frames: int
    header_frames: int
    fps: float
    width: int
    height: int
    note: str


def count_frames(path: str | os.PathLike[str]) -> VideoFacts:
    """Decode a video to its end and count.

    Parameters
    ----------
    path : path
        A local file.

    Returns
    -------
    VideoFacts
        Decoded and claimed number of frames, frame rate and size.

    Raises
    ------
    UndecodableVideo
        If the file is missing, is no video in one of `CONTAINERS`, or yields no frame.
    """
    name = os.fspath(path)
    with _opened(name) as capture:
        if not capture.grab():
            raise UndecodableVideo(name, "opens, but no frame decodes")
        height, width = _retrieved(capture, name, 0).shape[:2]
        n_frames = 1
        while capture.grab():
            # A frame that decodes but does not convert would fail every later stage.
            _retrieved(capture, name, n_frames)
            n_frames += 1
        header_frames = _whole(capture.get(cv2.CAP_PROP_FRAME_COUNT))
        header_fps = float(capture.get(cv2.CAP_PROP_FPS))
    fps = header_fps if math.isfinite(header_fps) and header_fps > 0 else ASSUMED_FPS
    note = _note(n_frames, header_frames, fps_known=fps == header_fps)
    return VideoFacts(n_frames, header_frames, fps, width, height, note)


def header_frames(path: str | os.PathLike[str]) -> int:
    """Return how many frames a video's header claims, without decoding: quick, and no more than a claim.

    Raises
    ------
    UndecodableVideo
        If the file is missing or is no video in one of `CONTAINERS`.
    """
    with _opened(os.fspath(path)) as capture:
        return _whole(capture.get(cv2.CAP_PROP_FRAME_COUNT))


def read_frames(
    path: str | os.PathLike[str], *, start: int = 0, stop: int | None = None
) -> Iterator[npt.NDArray[np.uint8]]:
    """Decode the frames start..stop of a video, in order.

    Parameters
    ----------
    path : path
        A local file.
    start, stop : int
        First frame and the one after the last, counted in decoded frames; by default the whole video.

    Yields
    ------
    uint8, (y, x, 3)
        RGB, upright, in the video's own size.

    Raises
    ------
    ValueError
        If the range is not 0 <= start <= stop.
    UndecodableVideo
        If the file does not decode, or ends before `stop`.
    """
    if start < 0 or (stop is not None and stop < start):
        raise ValueError(f"frames {start} to {stop} are no range; give 0 <= start <= stop")
    name = os.fspath(path)
    with _opened(name) as capture:
        index = 0
        while (stop is None or index < stop) and capture.grab():
            if index >= start:
                yield _rgb(_retrieved(capture, name, index))
            index += 1
    if index == 0 and stop != 0:
        raise UndecodableVideo(name, "opens, but no frame decodes")
    if stop is not None and index < stop:
        raise UndecodableVideo(name, f"ends after {index} frames, {stop} were asked for")


@contextmanager
def _opened(name: str) -> Iterator[cv2.VideoCapture]:
    _check_file(name)
    _guard_ffmpeg()
    settings = {
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: READ_TIMEOUT_MS,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: READ_TIMEOUT_MS,
        cv2.CAP_PROP_HW_ACCELERATION: cv2.VIDEO_ACCELERATION_NONE,
        # Several threads conceal damage differently from run to run, and workers bring their own.
        cv2.CAP_PROP_N_THREADS: 1,
    }
    # An absolute path: FFmpeg takes what stands before a colon for a protocol.
    capture = cv2.VideoCapture(
        os.path.abspath(name), cv2.CAP_FFMPEG, [n for s in settings.items() for n in s]
    )
    try:
        if not capture.isOpened():
            raise UndecodableVideo(name, f"is not a readable video; allowed are {', '.join(CONTAINERS)}")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)
        _check_size(capture, name)
        yield capture
    finally:
        capture.release()


def _check_file(name: str) -> None:
    # What the system can't read now may be read later: only the file's content makes it undecodable.
    status = os.stat(name)
    if not stat.S_ISREG(status.st_mode):
        raise UndecodableVideo(name, "is not a regular file")
    if status.st_size == 0:
        raise UndecodableVideo(name, "is empty")


def _guard_ffmpeg() -> None:
    for variable, value in _FFMPEG_ENVIRONMENT.items():
        if os.environ.get(variable) != value:
            os.environ[variable] = value


def _check_size(capture: cv2.VideoCapture, name: str) -> None:
    width, height = (_whole(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    if width * height > MAX_PIXELS:
        raise UndecodableVideo(name, f"claims frames of {width}x{height}, more than {MAX_PIXELS} pixels")


def _retrieved(capture: cv2.VideoCapture, name: str, index: int) -> npt.NDArray[np.uint8]:
    decoded, frame = capture.retrieve()
    if not decoded or frame is None or frame.ndim != 3 or frame.shape[2] != 3:
        raise UndecodableVideo(name, f"frame {index} does not convert to colour")
    return np.asarray(frame, dtype=np.uint8)


def _rgb(frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), dtype=np.uint8)


def _whole(value: float) -> int:
    """Round a property to an int; -1 for what is no number or out of range."""
    return round(value) if math.isfinite(value) and abs(value) < 2**53 else -1


def _note(n_frames: int, header_frames: int, *, fps_known: bool) -> str:
    notes = []
    if header_frames != n_frames:
        notes.append(f"header says {header_frames} frames, {n_frames} decode")
    if not fps_known:
        notes.append(f"no frame rate in the header, {ASSUMED_FPS:g} assumed")
    return "; ".join(notes)
