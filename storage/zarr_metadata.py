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
MAX_CHUNK_BYTES = 2**30
MAX_ARRAYS = 1000


class UnsafeGroup(ValueError):
    """A zarr group that is not as this project writes them; the message is one line."""


def check_arrays(arrays: object, where: str) -> None:
    """Refuse arrays that this project would not have written.

    Parameters
    ----------
    arrays : mapping of str to mapping
        The metadata of every array of a group, as zarr.json has it.
    where : str
        The group, for the message.

    Raises
    ------
    UnsafeGroup
        If one has another format, codec or dtype, or is decoded in pieces of more than 1 GiB.
    """
    if not isinstance(arrays, Mapping) or not 1 <= len(arrays) <= MAX_ARRAYS:
        raise UnsafeGroup(f"{where} does not say which arrays it holds: it is damaged or not of this project")
    for name, array in arrays.items():
        try:
            fault = _fault(array)
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
    pieces = [array["chunk_grid"]["configuration"]["chunk_shape"]]
    pieces += [c["configuration"]["chunk_shape"] for c in array["codecs"] if c["name"] == "sharding_indexed"]
    # Sharded arrays are read by the inner piece, and small arrays whole, written or not.
    shape = pieces[-1] if len(array["shape"]) > 2 else array["shape"]
    if min(shape) < 0 or _bytes(shape, array["data_type"]) > MAX_CHUNK_BYTES:
        return f"has pieces of {tuple(shape)}, more than {MAX_CHUNK_BYTES:,} bytes"
    return ""


def _codec_names(codecs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for codec in codecs:
        yield str(codec["name"])
        inner = codec.get("configuration") or {}
        yield from _codec_names([*inner.get("codecs", ()), *inner.get("index_codecs", ())])


def _bytes(shape: Sequence[int], dtype: str) -> int:
    return math.prod(shape) * (8 if dtype == "string" else np.dtype(dtype).itemsize)
