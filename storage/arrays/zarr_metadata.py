"""What a zarr group may say of itself before any of its bytes is decoded.

A store lies where others may write. zarr does what its metadata says, whatever codec that names: an array of
zarr's second format may be "filtered" by pickle, which runs code, even inside a group of the third.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

CODECS = ("bytes", "crc32c", "sharding_indexed", "vlen-utf8", "zstd")
DTYPES = (
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64", "string"),
)
# A clip, or a column of the clips; a clip of 64 frames of 224 x 224 pixels takes 20 MB.
MAX_CHUNK_BYTES = 2**28
# Of the columns together, which are read when a run is opened.
MAX_COLUMN_BYTES = 2**28
MAX_CLIPS = 2**21
MAX_ARRAYS = 200


class UnsafeGroup(ValueError):
    """A zarr group that is not as this project writes them; the message is one line."""


def check_arrays(arrays: object, where: str, axes: Mapping[str, int] | None = None) -> None:
    """Refuse arrays that this project would not have written.

    Parameters
    ----------
    arrays : mapping of str to mapping
        The metadata of every array of a group, as zarr.json has it.
    where : str
        The group, for the message.
    axes : mapping of str to int, optional
        The axes that the run's description allows, with their sizes: a group is as good as who wrote it.

    Raises
    ------
    UnsafeGroup
        If one has another format, codec or dtype, is cut along another axis than the first, has more than two
        million entries on that, has another axis, or is decoded in pieces of more than 256 MiB.
    """
    if not isinstance(arrays, Mapping) or not 1 <= len(arrays) <= MAX_ARRAYS:
        raise UnsafeGroup(f"{where} does not say which arrays it holds: it is damaged or not of this project")
    columns = 0
    for name, array in arrays.items():
        try:
            fault = _fault(array)
            if axes and not fault:
                of_array = zip(array["dimension_names"], array["shape"], strict=True)
                other = [(axis, size) for axis, size in of_array if axes.get(axis) != size]
                for axis, size in other[:1]:
                    fault = f"has {size:,} on the axis {axis!r} where the run has {axes.get(axis, 0):,}"
            columns += 0 if fault or len(array["shape"]) > 1 else _bytes(array["shape"], array["data_type"])
            if columns > MAX_COLUMN_BYTES:
                fault = f"is one of columns of more than {MAX_COLUMN_BYTES:,} bytes"
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            fault = "has metadata that is not zarr's"
        if fault:
            raise UnsafeGroup(
                f"the array {name!r} of {where} {fault}: this project does not write that, "
                "and it may be made to do harm"
            )


def _fault(array: Mapping[str, Any]) -> str:
    if array["zarr_format"] != 3 or array["node_type"] != "array":
        return f"is in zarr format {array['zarr_format']!r} ({array['node_type']!r})"
    if array["data_type"] not in DTYPES:
        return f"holds {array['data_type']!r}, where {', '.join(DTYPES)} are allowed"
    unknown = [name for name in _codec_names(array["codecs"]) if name not in CODECS]
    if unknown:
        return f"is coded by {unknown[0]!r}, where {', '.join(CODECS)} are allowed"
    shape = array["shape"]
    pieces = [array["chunk_grid"]["configuration"]["chunk_shape"]]
    pieces += [c["configuration"]["chunk_shape"] for c in array["codecs"] if c["name"] == "sharding_indexed"]
    sizes = [size for piece in (shape, *pieces) for size in piece]
    if not all(type(size) is int and size >= 0 for size in sizes) or not 1 <= len(shape) <= 6:
        return "has a shape that is none"
    # Only clips are written apart: every other axis is whole in each piece.
    if any(piece[1:] != shape[1:] for piece in pieces):
        return f"has pieces of {pieces[-1]} of {shape}"
    if max(shape[0], *(piece[0] for piece in pieces)) > MAX_CLIPS:
        return f"has {shape[0]:,} entries in pieces of {pieces[0][0]:,}, more than {MAX_CLIPS:,}"
    # Sharded arrays are read by the inner piece, and columns whole, written or not.
    piece = pieces[-1] if len(shape) > 1 else shape
    if _bytes(piece, array["data_type"]) > MAX_CHUNK_BYTES:
        return f"has pieces of {tuple(piece)}, more than {MAX_CHUNK_BYTES:,} bytes"
    return ""


def _codec_names(codecs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for codec in codecs:
        yield str(codec["name"])
        inner = codec.get("configuration") or {}
        yield from _codec_names([*inner.get("codecs", ()), *inner.get("index_codecs", ())])


def _bytes(shape: Sequence[int], dtype: str) -> int:
    return math.prod(shape) * (8 if dtype == "string" else np.dtype(dtype).itemsize)
