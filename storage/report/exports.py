"""Files of moving pictures and of arrays, as bytes: WebM, GIF, MP4 and NPZ."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Frames = NDArray[np.uint8]


def webm(frames: Frames, *, fps: float) -> bytes:
    """Encode frames as VP9 in WebM, which browsers play.

    Parameters
    ----------
    frames : uint8, (time, y, x, 3)
        RGB, both sides even.
    fps : float
        Frames per second.

    Returns
    -------
    bytes
        The file.

    Raises
    ------
    OSError
        If this OpenCV can't write it.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "clip.webm"
        height, width = frames.shape[1:3]
        # The wheel has no H.264, and no browser plays its MPEG-4.
        code = cv2.VideoWriter.fourcc(*"VP90")
        with _silence():
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (width, height))
        if not writer.isOpened():
            raise OSError(
                "this OpenCV can't write VP9: install the version in constraints.txt, or choose gif"
            )
        for frame in frames:
            writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        writer.release()
        return path.read_bytes()


def gif(frames: Frames, *, fps: float) -> bytes:
    """Encode frames as an endless GIF; parameters as `webm`.

    All frames share one palette, so that a colour means the same in each.
    """
    pictures = [Image.fromarray(frame) for frame in frames]
    # The default method spares few colours for a legend, which is small.
    palette = Image.fromarray(np.concatenate(list(frames))).quantize(
        256, method=Image.Quantize.MAXCOVERAGE, kmeans=3
    )
    shown = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    buffer = io.BytesIO()
    # A GIF counts in hundredths of a second.
    duration = max(20, 10 * round(100 / fps))
    shown[0].save(buffer, "GIF", save_all=True, append_images=shown[1:], duration=duration, loop=0)
    return buffer.getvalue()


def mp4(frames: Frames, *, fps: float) -> bytes:
    """Encode frames as H.264 in MP4, for slides and for players that know no WebM; parameters as `webm`."""
    buffer = io.BytesIO()
    height, width = frames.shape[1:3]
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "16"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()


def npz(arrays: Mapping[str, NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """Pack arrays into a compressed NPZ that `numpy.load` reads without pickle.

    Parameters
    ----------
    arrays : mapping of str to array
        Numbers or booleans, by name.
    about : mapping
        What they are, as plain JSON values; becomes the array ``about``, one string of JSON.

    Returns
    -------
    bytes
        The file.
    """
    buffer = io.BytesIO()
    text = np.array(json.dumps(about, sort_keys=True, ensure_ascii=False))
    np.savez_compressed(buffer, allow_pickle=False, about=text, **arrays)
    return buffer.getvalue()


@contextmanager
def _silence() -> Iterator[None]:
    """Keep OpenCV from saying, for every WebM, that a tag it does not need is not supported."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
