"""Expands no chunk of a zarr array further than the chunk is large.

A few kB of zstd may hold many GB, and a store lies where others may write. zarr lets the codec of a name be
chosen while an array is opened; the array keeps it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer
from zarr.registry import register_codec

from storage.arrays.zarr_metadata import MAX_CHUNK_BYTES, UnsafeGroup

# Two names of files and what stands before them; text has no size in the metadata.
TEXT_BYTES = 1024
# A count of texts, a checksum.
MARGIN_BYTES = 64
_MAGIC = bytes.fromhex("28b52ffd")
# Zarr's choice is the process's: another thread's end would end this one's.
_lock = threading.Lock()


class BoundedZstd(ZstdCodec):
    """zstd (RFC 8878); raises UnsafeGroup for a chunk that claims to hold more than the array has there."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        data = chunk_bytes.as_numpy_array()
        limit = min(math.prod(chunk_spec.shape) * _item_bytes(chunk_spec), MAX_CHUNK_BYTES) + MARGIN_BYTES
        size = _declared_bytes(data)
        if size is None or size > limit:
            claim = "an unknown number of" if size is None else f"{size:,}"
            raise UnsafeGroup(
                f"a zstd chunk says that it holds {claim} bytes where {limit:,} at most are allowed:"
                " it is damaged, or made to do harm"
            )
        # Room for the first frame only: numcodecs refuses whatever does not fit.
        return chunk_spec.prototype.buffer.from_bytes(self._zstd_codec.decode(data, np.empty(size, np.uint8)))


register_codec("zstd", BoundedZstd)


@contextmanager
def bounded() -> Iterator[None]:
    """Have the arrays that are opened meanwhile decoded by `BoundedZstd`."""
    name = f"{BoundedZstd.__module__}.{BoundedZstd.__qualname__}"
    with _lock, zarr.config.set({"codecs.zstd": name}):
        yield


def _item_bytes(spec: ArraySpec) -> int:
    return int(getattr(spec.dtype, "item_size", TEXT_BYTES))


def _declared_bytes(data: NDArray[Any]) -> int | None:
    """The content size that the header of the first frame states, if it does."""
    head = data[:18].tobytes()
    if head[:4] != _MAGIC or len(head) < 6:
        return None
    single_segment = head[4] >> 5 & 1
    n_bytes = (single_segment, 2, 4, 8)[head[4] >> 6]
    start = 5 + (1 - single_segment) + (0, 1, 2, 4)[head[4] & 3]
    # A field of two bytes goes on where that of one ends.
    return int.from_bytes(head[start : start + n_bytes], "little") + 256 * (n_bytes == 2) if n_bytes else None
