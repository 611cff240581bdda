"""The process that decodes untrusted videos: a fork for each, under limits, so that one costs only itself.

`storage.videos.reader` starts this file as a program and keeps it. A request comes over a socket with the
write ends of two pipes: the fork that decodes the video answers into the first, and how that fork ended
goes into the second. The fork reads the file for FFmpeg, which takes a failed read for the video's end.
FFmpeg is told to open nothing itself, and to read nothing but `CONTAINERS`; should it be talked into more,
the fork may hold one more open file than it has, which is the video, and write none.

PyAV decodes and converts. OpenCV's own reading passes over a conversion that fails, as it does for every
interlaced frame, and gives black or the frame before.
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
from typing import Any, BinaryIO, NoReturn

import av

# PyAV imports this for the first video with subtitles, when no file may be opened any more.
import av.subtitles.codeccontext
import cv2
import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream

CONTAINERS = ("avi", "mov", "mp4", "matroska", "webm", "mpeg", "mpegts", "mpegvideo", "dv", "gif")
MAX_PIXELS = 8192 * 8192
# Decoded in one go, such as 2.4 hours of 1920x1080 at 30 frames a second: a few bytes can claim much more.
MAX_PIXELS_A_VIDEO = 2**39
MAX_FRAMES = 1_000_000
MEMORY_BYTES = 2 * 2**30
# Of a CPU, not of a clock: on a busy machine a sound video must not look like one that hangs.
CPU_SECONDS_A_FRAME = 30
PULSE_SECONDS = 1.0

# FFmpeg would follow concat:, subfile: and http names, and scripts and playlists called .avi. It needs no
# protocol for the video, which is read for it.
LIMITS = {"protocol_whitelist": "none", "format_whitelist": ",".join(CONTAINERS)}

ENVIRONMENT = {
    # PyAV gives each frame memory of its own. Handed back to the system every time, it would cost more than
    # decoding: up to here, the C library keeps it.
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "MALLOC_TRIM_THRESHOLD_": str(2**26),
    # Threads of a BLAS would not survive the fork.
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}

# How FFmpeg converts to BGR: alike on every x86 processor since 2006.
CONVERSION = Interpolation.BICUBIC
# What a screen can't show is mapped to what it can; every other tag of these kinds is left alone.
WIDE_GAMUTS = (
    ColorPrimaries.FILM,
    ColorPrimaries.BT2020,
    ColorPrimaries.SMPTE428,
    ColorPrimaries.SMPTE431,
    ColorPrimaries.SMPTE432,
)
HIGH_DYNAMIC_RANGES = (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)
# By the turn to the left that a file asks for, in degrees.
TURNS = {
    90: cv2.ROTATE_90_COUNTERCLOCKWISE,
    -90: cv2.ROTATE_90_CLOCKWISE,
    180: cv2.ROTATE_180,
    -180: cv2.ROTATE_180,
}
# A GIF of one pixel.
PIXEL = bytes.fromhex("47494638396101000100800000ffffff0000002c00000000010001000002024401003b")

# What stands before every part of an answer: its kind and two numbers, height and width of a frame, or
# the length of a JSON text.
HEAD = struct.Struct("<c2I")
FRAME, PROGRESS, FACTS, REFUSAL, UNREAD = b"F", b"P", b"D", b"E", b"U"
STARTED = struct.Struct("<i")
REQUEST_BYTES = 65_536


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
    wake, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
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


def _found(request: dict[str, Any], pipe: BinaryIO) -> dict[str, Any]:
    with _file(request["path"]) as file:
        known_rate = not _lacks_rate(file)
        with _opened(file) as (container, stream):
            if request["task"] == "header":
                return {"header_frames": _claimed_frames(container, stream)}
            frames = _frames(container, stream, pipe, start=request["start"])
            if request["task"] == "frames":
                return {"decoded": _sent(frames, pipe, request["stop"])}
            n_frames, first = 0, None
            # Converted too: a frame that decodes but does not convert would fail every later stage.
            for frame in frames:
                first = frame if first is None else first
                n_frames += 1
            assert first is not None
            return {
                "n_frames": n_frames,
                "height": first.shape[0],
                "width": first.shape[1],
                "header_frames": _claimed_frames(container, stream),
                "header_fps": float(stream.guessed_rate or 0) if known_rate else 0.0,
            }


class _File:
    """A video as FFmpeg reads it. Errors are kept: raised, they would go through C, which can't clean up."""

    def __init__(self, content: BinaryIO) -> None:
        self.content = content
        self.error: OSError | MemoryError | None = None

    def read(self, size: int) -> bytes:
        """Read up to so many bytes; none at the end, and where reading fails."""
        try:
            return self.content.read(size) or b""
        except (OSError, MemoryError) as error:
            self.error = error
            return b""

    def tell(self) -> int:
        """The offset of the next read."""
        return self.seek(0, os.SEEK_CUR)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset; -1 where that fails."""
        try:
            return self.content.seek(offset, whence)
        except OSError as error:
            # A damaged video may ask for an offset before the start.
            if error.errno != errno.EINVAL:
                self.error = error
            return -1


@contextmanager
def _file(path: str) -> Iterator[_File]:
    """Open a file; if reading it failed, raise that error instead of what FFmpeg made of it."""
    try:
        file = _File(io.FileIO(path))
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
    """Whether an AVI states no frame rate: FFmpeg then assumes 25 without saying so."""
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
def _opened(file: _File) -> Iterator[tuple[InputContainer, VideoStream]]:
    try:
        container = av.open(file, "r", container_options=LIMITS, metadata_errors="replace")
    except MemoryError:
        raise
    except av.FFmpegError as error:
        raise Refusal(f"is not a readable video; allowed are {', '.join(CONTAINERS)}") from error
    with container:
        # A film's poster is a stream as well.
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        if not streams:
            raise Refusal("holds no video")
        # The stubs know no stream without a decoder.
        if not streams[0].codec_context:
            raise Refusal("is in a codec that this FFmpeg does not decode; encode it anew")
        # Several threads conceal damage differently from run to run, and workers bring their own.
        streams[0].codec_context.thread_count = 1
        _check_size(streams[0].codec_context.width, streams[0].codec_context.height)
        yield container, streams[0]


def _claimed_frames(container: InputContainer, stream: VideoStream) -> int:
    """How many frames the header states, or its duration implies; -1 if it says neither, or nonsense."""
    if stream.frames:
        return stream.frames
    seconds = container.duration / av.time_base if container.duration else None
    if seconds is None and stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    frames = -1.0 if seconds is None else seconds * float(stream.guessed_rate or 0)
    return math.floor(frames + 0.5) if abs(frames) < 2**53 else -1


def _frames(
    container: InputContainer, stream: VideoStream, pipe: BinaryIO, *, start: int = 0
) -> Iterator[npt.NDArray[np.uint8] | None]:
    """Every frame as BGR, upright; None for those before `start`, which are decoded and not converted."""
    index = pixels = 0
    pulse = _Pulse(pipe)
    converter = VideoReformatter()
    for picture in _pictures(container, stream, pulse):
        if index >= MAX_FRAMES or pixels > MAX_PIXELS_A_VIDEO:
            raise Refusal(
                f"does not end within {MAX_FRAMES:,} frames or {MAX_PIXELS_A_VIDEO:,} pixels; cut it"
            )
        frame = _converted(picture, converter, index) if index >= start else None
        pixels += 0 if frame is None else frame.shape[0] * frame.shape[1]
        yield frame
        index += 1
    if index == 0:
        raise Refusal("opens, but no frame decodes")


def _pictures(container: InputContainer, stream: VideoStream, pulse: _Pulse) -> Iterator[VideoFrame]:
    """What decodes, up to the end or to the first damage: later frames would be out of step.

    A film cut out of a broadcast begins with what can't be decoded yet; that is passed over.
    """
    begun = False
    pulse.beat()
    for packet in _packets(container, stream):
        try:
            pictures = stream.codec_context.decode(packet)
        except MemoryError:
            raise
        except av.FFmpegError:
            if begun:
                return
            continue
        for picture in pictures:
            begun = True
            yield picture
            pulse.beat()


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream] | None]:
    """The stream's packets; at the end, one that makes the decoder hand out what it has left."""
    try:
        yield from container.demux(stream)
    except MemoryError:
        raise
    except av.FFmpegError:
        yield None


class _Pulse:
    """Reports about once a second that the work goes on, and raises its limit of CPU time."""

    def __init__(self, pipe: BinaryIO) -> None:
        self.pipe, self.next = pipe, 0.0

    def beat(self) -> None:
        """Called before each frame is decoded."""
        now = time.monotonic()
        if now >= self.next:
            self.next = now + PULSE_SECONDS
            _allow_cpu()
            self.pipe.write(HEAD.pack(PROGRESS, 0, 0))
            self.pipe.flush()


def _converted(picture: VideoFrame, converter: VideoReformatter, index: int) -> npt.NDArray[np.uint8]:
    _check_size(picture.width, picture.height)
    try:
        # One field at a time where it is interlaced, each with the colours that belong to it.
        shown = converter.reformat(
            picture,
            format="bgr24",
            interpolation=CONVERSION,
            dst_color_primaries=ColorPrimaries.BT709 if picture.color_primaries in WIDE_GAMUTS else None,
            dst_color_trc=ColorTrc.BT709 if picture.color_trc in HIGH_DYNAMIC_RANGES else None,
            threads=1,
        )
    except MemoryError:
        raise
    except (av.FFmpegError, ValueError) as error:
        kind = f"{picture.format.name}, colour matrix {picture.colorspace}"
        raise Refusal(f"frame {index} does not convert to RGB ({kind}); encode the video anew") from error
    frame = shown.to_ndarray()
    turn = TURNS.get(picture.rotation)
    return np.asarray(frame if turn is None else cv2.rotate(frame, turn), dtype=np.uint8)


def _sent(frames: Iterator[npt.NDArray[np.uint8] | None], pipe: BinaryIO, stop: int | None) -> int:
    """Send the frames up to `stop` as RGB, and count how many were decoded up to there."""
    index = 0
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


def _warm_up() -> None:
    """Let libraries set up here what every fork would set up again, or has no open file left to load."""
    with _opened(_File(io.BytesIO(PIXEL))) as (container, stream):
        _sent(_frames(container, stream, io.BytesIO()), io.BytesIO(), None)
    gc.freeze()


if __name__ == "__main__":
    # Out of memory, this process is to go, and not the worker that holds a model.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjustment:
        adjustment.write("1000")
    _warm_up()
    serve(socket.socket(fileno=int(sys.argv[1])))
