"""The process that decodes untrusted videos: a fork for each, under limits, so that one costs only itself.

`storage.videos` starts this file as a program and keeps it. A request comes over a socket with the write
ends of two pipes: the fork that decodes the video answers into the first, and how that fork ended goes into
the second. The fork reads the file for FFmpeg, which takes a failed read for the video's end. FFmpeg is told
to open nothing but local files in `CONTAINERS`; should it be talked into more, the fork may hold one more
open file than it has, which is the video, and write none.
"""

from __future__ import annotations

import errno
import gc
import io
import itertools
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NoReturn, cast

import cv2
import numpy as np
import numpy.typing as npt

CONTAINERS = ("avi", "mov", "mp4", "matroska", "webm", "mpeg", "mpegts", "mpegvideo", "gif")
MAX_PIXELS = 8192 * 8192
# Decoded in one go, such as 2.4 hours of 1920x1080 at 30 frames a second: a few bytes can claim much more.
MAX_PIXELS_A_VIDEO = 2**39
MAX_FRAMES = 1_000_000
MEMORY_BYTES = 2 * 2**30
# Of a CPU, not of a clock: on a busy machine a sound video must not look like one that hangs.
CPU_SECONDS_A_FRAME = 30
PULSE_SECONDS = 1.0

# FFmpeg would follow concat:, subfile: and http names, and scripts and playlists called .avi. OpenCV
# takes these options from the environment only.
ENVIRONMENT = {
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": f"protocol_whitelist;file|format_whitelist;{','.join(CONTAINERS)}",
    "OPENCV_FFMPEG_LOGLEVEL": "-8",
    "OPENCV_LOG_LEVEL": "SILENT",
    # Threads of a BLAS would not survive the fork.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}

# What stands before every part of an answer: its kind and two numbers, height and width of a frame, or
# the length of a JSON text.
HEAD = struct.Struct("<c2I")
FRAME, PROGRESS, FACTS, REFUSAL, UNREAD = b"F", b"P", b"D", b"E", b"U"
STARTED = struct.Struct("<i")
REQUEST_BYTES = 65_536
READ_BYTES = 2**20


class Refusal(Exception):
    """Why a video is not decoded, in one line."""


class Unread(Exception):
    """The system did not give the video's bytes; `number` is its errno."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.number = error.errno or errno.EIO


def serve(control: socket.socket) -> None:
    """Fork a decoder for every request until the other end is closed."""
    ends: dict[int, int] = {}
    wake = _wake_on_children()
    waiting: list[Any] = [control, wake]
    while True:
        readable, _, _ = select.select(waiting, [], [])
        if wake in readable:
            os.read(wake, 4096)
            _tell_ends(ends)
        if control in readable:
            request, pipes, _, _ = socket.recv_fds(control, REQUEST_BYTES, 2)
            if not request:
                return
            answer, end = pipes
            pid = os.fork()
            if pid == 0:
                control.close()
                _decode_alone(request, answer)
            os.close(answer)
            ends[pid] = end
            with suppress(BrokenPipeError):
                control.sendall(STARTED.pack(pid))


def _wake_on_children() -> int:
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    return wake


def _tell_ends(ends: dict[int, int]) -> None:
    """Write the exit code of every fork that is over, negative for a signal."""
    while ends:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        end = ends.pop(pid)
        with suppress(BrokenPipeError):
            os.write(end, STARTED.pack(os.waitstatus_to_exitcode(status)))
        os.close(end)


def _decode_alone(request: bytes, answer: int) -> NoReturn:
    """Answer one request in a process of its own, and end it."""
    code = 1
    try:
        _confine()
        _allow_cpu()
        with open(answer, "wb") as pipe:
            _answer(json.loads(request), pipe)
        code = 0
    except BrokenPipeError:
        # Nobody wants the rest.
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)


def _confine() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    free = os.dup(0)
    os.close(free)
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_NOFILE: free + 1,
    }
    for limit, value in limits.items():
        # One that is lower already stays.
        with suppress(ValueError, OSError):
            resource.setrlimit(limit, (value, value))


def _answer(request: dict[str, Any], pipe: BinaryIO) -> None:
    try:
        _tell(pipe, FACTS, _found(request, pipe))
    except Unread as unread:
        _tell(pipe, UNREAD, {"errno": unread.number})
    except Refusal as refusal:
        _tell(pipe, REFUSAL, {"reason": str(refusal)})
    except MemoryError:
        _tell(pipe, REFUSAL, {"reason": f"needs more than {MEMORY_BYTES // 2**20:,} MiB to decode"})
    except cv2.error as error:
        _tell(pipe, REFUSAL, {"reason": f"fails in OpenCV: {' '.join(str(error.err).split())[:120]}"})


def _found(request: dict[str, Any], pipe: BinaryIO) -> dict[str, Any]:
    with _file(request["path"]) as file:
        known_rate = not _lacks_rate(file)
        with _opened(file) as capture:
            if request["task"] == "header":
                return {"header_frames": _whole(capture.get(cv2.CAP_PROP_FRAME_COUNT))}
            if request["task"] == "count":
                counted = _counted(capture, pipe)
                return counted if known_rate else {**counted, "header_fps": 0.0}
            return {"decoded": _sent(capture, pipe, request["start"], request["stop"])}


class _File(io.BufferedIOBase):
    """A video as FFmpeg reads it. Errors are kept: raised, they would go through C, which can't clean up."""

    def __init__(self, path: str) -> None:
        self.content = io.FileIO(path)
        self.error: OSError | MemoryError | None = None

    def read(self, size: int | None = READ_BYTES, /) -> bytes:
        """Read up to so many bytes; none at the end, and where reading fails."""
        try:
            return self.content.read(min(size or 0, READ_BYTES))
        except (OSError, MemoryError) as error:
            self.error = error
            return b""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place; -1 where that fails."""
        try:
            return self.content.seek(offset, whence)
        except OSError as error:
            # A place before the start is one that a damaged video names.
            if error.errno != errno.EINVAL:
                self.error = error
            return -1


@contextmanager
def _file(path: str) -> Iterator[_File]:
    """Open a file, and raise what went wrong with reading it instead of what was made of that."""
    try:
        file = _File(path)
    except OSError as error:
        raise Unread(error) from error
    with file.content:
        try:
            yield file
        finally:
            if isinstance(file.error, OSError):
                raise Unread(file.error)
            if file.error:
                raise file.error


def _lacks_rate(file: _File) -> bool:
    """Whether an AVI states no frame rate: FFmpeg takes 25 then, and does not say so."""
    start = file.read(4096)
    file.seek(0)
    main, video = start.find(b"avih"), start.find(b"vids", start.find(b"strh"))
    if start[:4] != b"RIFF" or start[8:12] != b"AVI " or min(main, video) < 0:
        return False
    frame_us = start[main + 8 : main + 12]
    scale, rate = start[video + 20 : video + 24], start[video + 24 : video + 28]
    return not (any(frame_us) or (any(scale) and any(rate)))


def _tell(pipe: BinaryIO, kind: bytes, content: dict[str, Any]) -> None:
    text = json.dumps(content).encode()
    pipe.write(HEAD.pack(kind, len(text), 0) + text)
    pipe.flush()


@contextmanager
def _opened(file: _File) -> Iterator[cv2.VideoCapture]:
    capture = _capture(file)
    try:
        if not capture.isOpened():
            raise Refusal(f"is not a readable video; allowed are {', '.join(CONTAINERS)}")
        capture.set(cv2.CAP_PROP_ORIENTATION_AUTO, 1)
        capture.set(cv2.CAP_PROP_CONVERT_RGB, 1)
        width, height = (
            _whole(capture.get(p)) for p in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        _check_size(width, height)
        yield capture
    finally:
        capture.release()


def _capture(file: _File) -> cv2.VideoCapture:
    settings = {
        # No time limits of OpenCV's: after one, a video would seem to end where a slow disk stood still.
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC: 0,
        cv2.CAP_PROP_READ_TIMEOUT_MSEC: 0,
        cv2.CAP_PROP_HW_ACCELERATION: cv2.VIDEO_ACCELERATION_NONE,
        # Several threads conceal damage differently from run to run, and workers bring their own.
        cv2.CAP_PROP_N_THREADS: 1,
    }
    return cv2.VideoCapture(cast(Any, file), cv2.CAP_FFMPEG, [n for s in settings.items() for n in s])


def _frames(
    capture: cv2.VideoCapture, pipe: BinaryIO, *, start: int = 0
) -> Iterator[npt.NDArray[np.uint8] | None]:
    """Every frame as BGR; None for those before `start`, which are decoded and not converted."""
    index = pixels = 0
    pulse = _Pulse(pipe)
    while pulse.beat() and capture.grab():
        if index >= MAX_FRAMES or pixels > MAX_PIXELS_A_VIDEO:
            raise Refusal(
                f"does not end within {MAX_FRAMES:,} frames or {MAX_PIXELS_A_VIDEO:,} pixels; cut it"
            )
        frame = _retrieved(capture, index) if index >= start else None
        pixels += 0 if frame is None else frame.shape[0] * frame.shape[1]
        yield frame
        index += 1
    if index == 0:
        raise Refusal("opens, but no frame decodes")


class _Pulse:
    """Tells about once a second that the work goes on, and allows it more of the CPU."""

    def __init__(self, pipe: BinaryIO) -> None:
        self.pipe, self.next = pipe, 0.0

    def beat(self) -> bool:
        """Always true, so that it can stand in a condition."""
        now = time.monotonic()
        if now >= self.next:
            self.next = now + PULSE_SECONDS
            _allow_cpu()
            self.pipe.write(HEAD.pack(PROGRESS, 0, 0))
            self.pipe.flush()
        return True


def _retrieved(capture: cv2.VideoCapture, index: int) -> npt.NDArray[np.uint8]:
    decoded, frame = capture.retrieve()
    if not decoded or frame is None or frame.ndim != 3 or frame.shape[2] != 3:
        raise Refusal(f"frame {index} does not convert to colour")
    _check_size(frame.shape[1], frame.shape[0])
    return np.asarray(frame, dtype=np.uint8)


def _counted(capture: cv2.VideoCapture, pipe: BinaryIO) -> dict[str, Any]:
    n_frames, first = 0, None
    # Converted too: a frame that decodes but does not convert would fail every later stage.
    for frame in _frames(capture, pipe):
        if first is None:
            first = frame
        n_frames += 1
    assert first is not None
    return {
        "n_frames": n_frames,
        "header_frames": _whole(capture.get(cv2.CAP_PROP_FRAME_COUNT)),
        "header_fps": _number(capture.get(cv2.CAP_PROP_FPS)),
        "height": first.shape[0],
        "width": first.shape[1],
    }


def _sent(capture: cv2.VideoCapture, pipe: BinaryIO, start: int, stop: int | None) -> int:
    """Send the frames start..stop as RGB, and count how many were decoded up to there."""
    index = 0
    frames = _frames(capture, pipe, start=start)
    for frame in itertools.islice(frames, stop):
        index += 1
        if frame is not None:
            pipe.write(HEAD.pack(FRAME, *frame.shape[:2]))
            pipe.write(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).data)
            pipe.flush()
    return index


def _allow_cpu() -> None:
    """Let the next step have its seconds; the kernel ends this process when they are used up."""
    limit = math.ceil(time.process_time()) + CPU_SECONDS_A_FRAME
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise Refusal(f"claims frames of {width}x{height}, more than {MAX_PIXELS} pixels")


def _whole(value: float) -> int:
    """Round a property to an int; -1 for what is no number or out of range."""
    return round(value) if math.isfinite(value) and abs(value) < 2**53 else -1


def _number(value: float) -> float:
    return value if math.isfinite(value) else 0.0


def _warm_up() -> None:
    """Let FFmpeg set up here what every fork would set up again."""
    with _file(__file__) as file:
        _capture(file).release()
    gc.freeze()


def _offer_to_the_oom_killer() -> None:
    # Out of memory, this process is to go, and not the worker that holds a model.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")


if __name__ == "__main__":
    _offer_to_the_oom_killer()
    _warm_up()
    serve(socket.socket(fileno=int(sys.argv[1])))
