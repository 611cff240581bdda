"""The files beside a page: one script a clip, since a page on a disk may fetch nothing else."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt


def clip_file(clip: int) -> str:
    """Name of a clip's file."""
    return f"clip-{clip:06d}.js"


def clip_script(
    clip: int,
    *,
    frames: bytes,
    flow: bytes,
    layers: Mapping[str, Mapping[str, Any]],
) -> str:
    """Pack what a page shows of a clip into a script that calls ``selrelClip``.

    Parameters
    ----------
    clip : int
        Its number.
    frames, flow : bytes
        WebP, one frame beside the other.
    layers : mapping of method to mapping
        As `selrel.pictures.playback.layer` makes them.

    Returns
    -------
    str
        JavaScript without any text from outside but the methods' names. The same clip gives the same script.
    """
    n_frames, height, width = next(iter(layers.values()))["levels"].shape
    content = {
        "clip": clip,
        "frames": n_frames,
        "height": height,
        "width": width,
        "input": _picture(frames),
        "flow": _picture(flow),
        "layers": {
            method: {
                **{name: float(f"{layer[name]:.4g}") for name in ("own", "range")},
                "overTime": [[round(share, 5) for share in row] for row in layer["over_time"]],
                **{name: _deflated(layer[name]) for name in ("relevance", "levels", "edges")},
            }
            for method, layer in layers.items()
        },
    }
    return f"selrelClip({as_script(content)});\n"


def as_script(value: object) -> str:
    """Write a value as JSON in which a browser finds neither HTML nor the end of a script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    # ASCII only, so that U+2028 and its like are escaped already.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _deflated(values: npt.NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(values).tobytes(), 6)).decode("ascii")


def _picture(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode('ascii')}"
