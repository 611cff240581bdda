"""Decodes videos with FFmpeg from the first frame to the last, and opens no file but the one given.

Header frame counts lie in both directions and seeking lands on the wrong frame in damaged files, so frames
are counted by decoding, and a range is read by decoding up to it. All of it happens in a process of its own
for every video (`storage.videos.decoder`): one that crashes or hangs the decoder, or eats the memory, is
undecodable and does no other harm. What the machine is to blame for, a disk that fails or a decoder that is
killed or stopped from outside, is an OSError and says nothing of the video: it may be tried again.
"""

import atexit
import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.environment import inherited
from storage.videos import decoder
from storage.videos.decoder import (
    CONTAINERS,
    CPU_SECONDS_A_FRAME,
    FACTS,
    FRAME,
    HEAD,
    MAX_PIXELS,
    REFUSAL,
    STARTED,
    UNREAD,
)

__all__ = ["CONTAINERS", "UndecodableVideo", "VideoFacts", "count_frames", "header_frames", "read_frames"]

ASSUMED_FPS = 25.0
FPS_RANGE = (0.1, 1000.0)
# A decoder that gives no bytes for so long waits for a disk or a network, or was stopped; on the CPU, a video
# that hangs it meets CPU_SECONDS_A_FRAME before. So it is not the video's fault.
SILENCE_SECONDS = 300
_PIPE_BYTES = 2**20
_TEXT_BYTES = 65_536
# Sent from outside, by a person or by a kernel that runs out of memory. No video takes more of it than
# MEMORY_BYTES: there an allocation fails, which is told or aborts; and for CPU time the signal is SIGXCPU.
_FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM)


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
        If the file is no video in one of `CONTAINERS`, yields no frame, or brings the decoder down.
    OSError
        If the file can't be read now: it is missing, or its disk fails; if its disk or its decoder stands
        still (TimeoutError); if its decoder was killed from outside, twice (ChildProcessError).
    """
    name = os.fspath(path)
    *_, found = _decoded(name, task="count")
    assert isinstance(found, dict)
    low, high = FPS_RANGE
    known = low <= found["header_fps"] <= high
    fps = float(found["header_fps"]) if known else ASSUMED_FPS
    counts = {key: int(found[key]) for key in ("n_frames", "header_frames", "width", "height")}
    return VideoFacts(**counts, fps=fps, note=_note(found, fps_known=known))


def header_frames(path: str | os.PathLike[str]) -> int:
    """Return how many frames a video's header claims, without decoding: quick, and no more than a claim.

    Raises
    ------
    UndecodableVideo, OSError
        As `count_frames`.
    """
    *_, found = _decoded(os.fspath(path), task="header")
    assert isinstance(found, dict)
    return int(found["header_frames"])


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
    OSError
        As `count_frames`.
    """
    if start < 0 or (stop is not None and stop < start):
        raise ValueError(f"frames {start} to {stop} are no range; give 0 <= start <= stop")
    name = os.fspath(path)
    for found in _decoded(name, task="frames", start=start, stop=stop):
        if isinstance(found, np.ndarray):
            yield found
        elif stop is not None and found["decoded"] < stop:
            raise UndecodableVideo(name, f"ends after {found['decoded']} frames, {stop} were asked for")


def _note(found: dict[str, Any], *, fps_known: bool) -> str:
    n_frames, notes = found["n_frames"], []
    if found["header_frames"] != n_frames:
        notes.append(f"header says {found['header_frames']} frames, {n_frames} decode")
    if not fps_known:
        rate = f"a frame rate of {found['header_fps']:g}" if found["header_fps"] > 0 else "no frame rate"
        notes.append(f"{rate} in the header, {ASSUMED_FPS:g} assumed")
    if n_frames == 1:
        notes.append("one frame only, nothing can move")
    return "; ".join(notes)


Part = npt.NDArray[np.uint8] | dict[str, Any]


class _Ended(Exception):
    """A decoder that ended before it had finished; the code is its exit code, None if unknown."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class _Silence(Exception):
    """A decoding process that has been silent for too long."""


def _await(descriptor: int) -> None:
    """Wait until there is something to read, or the end."""
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    if not waiting.poll(SILENCE_SECONDS * 1000):
        raise _Silence


def _decoded(name: str, *, task: str, start: int = 0, stop: int | None = None) -> Iterator[Part]:
    """Yield the frames asked for, if any, then what is known of the video."""
    _check_file(name)
    # An absolute path: FFmpeg takes what stands before a colon for a protocol.
    request = {"path": os.path.abspath(name), "task": task, "stop": stop}
    for last_try in (False, True):
        try:
            for part in _answers(name, {**request, "start": start}):
                yield part
                start += 1
            return
        except _Ended as ended:
            if ended.code == -signal.SIGXCPU:
                reason = f"hangs the decoder: one frame took more than {CPU_SECONDS_A_FRAME} s of a CPU"
                raise UndecodableVideo(name, reason) from None
            if ended.code is not None and ended.code not in _FROM_OUTSIDE:
                told = signal.Signals(-ended.code).name if ended.code < 0 else f"exit code {ended.code}"
                raise UndecodableVideo(name, f"crashes the decoder ({told})") from None
            if last_try:
                needed = f"{decoder.MEMORY_BYTES // 2**20:,} MiB at most"
                raise ChildProcessError(
                    f"{name}: its decoder was killed from outside, twice; for want of memory ({needed})?"
                    " Use fewer workers then"
                ) from None


def _check_file(name: str) -> None:
    # What the system can't read now may be read later: only the file's content makes it undecodable.
    descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise UndecodableVideo(name, "is not a regular file")
    if status.st_size == 0:
        raise UndecodableVideo(name, "is empty")


def _answers(name: str, request: dict[str, Any]) -> Iterator[Part]:
    try:
        with contextlib.closing(_start(json.dumps(request, ensure_ascii=False).encode())) as job:
            while True:
                kind, *numbers = HEAD.unpack(job.read(np.empty(HEAD.size, np.uint8)).data)
                if kind == FRAME:
                    height, width = numbers
                    # Whoever has taken over the decoder may say anything, but not fill the memory here.
                    if not 0 < height * width <= MAX_PIXELS:
                        raise _Ended(None)
                    yield job.read(np.empty((height, width, 3), np.uint8))
                elif kind in (FACTS, REFUSAL, UNREAD):
                    break
            content = json.loads(bytes(job.read(np.empty(min(numbers[0], _TEXT_BYTES), np.uint8))))
            if kind == REFUSAL:
                raise UndecodableVideo(name, content["reason"])
            if kind == UNREAD:
                raise OSError(content["errno"], os.strerror(content["errno"]), name)
            yield content
    except _Silence:
        raise TimeoutError(
            f"{name}: no bytes of it for {SILENCE_SECONDS} s; is its disk there, is its decoder stopped?"
        ) from None


class _Job:
    """One video in its decoder."""

    def __init__(self, pid: int, answer: int, end: int) -> None:
        self.pid, self.answer, self.end = pid, answer, end

    def read(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Fill an array with the next bytes of the answer, or say how the decoder ended."""
        rest = data.reshape(-1).data
        while rest:
            try:
                _await(self.answer)
            except _Silence:
                self.kill()
                raise
            n_read = os.readv(self.answer, [rest])
            if n_read == 0:
                _await(self.end)
                code = os.read(self.end, STARTED.size)
                raise _Ended(STARTED.unpack(code)[0] if code else None)
            rest = rest[n_read:]
        return data

    def kill(self) -> None:
        """End the decoder."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Give up the rest of the answer, which ends the decoder if it is still at work."""
        os.close(self.answer)
        os.close(self.end)


class _Server:
    """The process that forks a decoder for each video."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-P", decoder.__file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=inherited(os.environ) | decoder.ENVIRONMENT,
                # Ctrl-C in a terminal is for the process that owns this one.
                process_group=0,
            )

    def start(self, request: bytes) -> _Job:
        """Start a decoder; raises ConnectionError if this process is gone."""
        answer, answered = os.pipe()
        end, ended = os.pipe()
        try:
            with contextlib.suppress(OSError, AttributeError):
                fcntl.fcntl(answered, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
            socket.send_fds(self.control, [request], [answered, ended])
            _await(self.control.fileno())
            started = self.control.recv(STARTED.size)
            if len(started) < STARTED.size:
                raise ConnectionResetError("the decoding process is gone")
        except BaseException:
            os.close(answer)
            os.close(end)
            # What it says later would be taken for the answer to the next request.
            self.close()
            raise
        finally:
            os.close(answered)
            os.close(ended)
        return _Job(STARTED.unpack(started)[0], answer, end)

    def usable(self) -> bool:
        """Whether there is a process to ask, and one of this process's own."""
        return self.owner == os.getpid() and self.process.returncode is None

    def close(self) -> None:
        """End the process, also one that is stopped; decoders at work go on."""
        self.control.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_lock = threading.Lock()
_servers: list[_Server] = []


def _start(request: bytes) -> _Job:
    with _lock:
        if _servers and _servers[0].usable():
            with contextlib.suppress(ConnectionError):
                return _servers[0].start(request)
        _close_server()
        _servers.append(_Server())
        return _servers[0].start(request)


@atexit.register
def _close_server() -> None:
    while _servers:
        _servers.pop().close()
