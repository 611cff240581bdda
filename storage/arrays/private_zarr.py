"""Everything that this project uses of zarr beyond its documented interface, and why.

A store lies where others may write. zarr expands a chunk to whatever size its bytes claim (a few kB of zstd
may hold many GB), and follows links. `bounded` has chunks expanded by `BoundedZstd`, never beyond the size
that the array's metadata gives; `CheckedStore` reads only regular files. Both override methods that zarr
calls inside itself, so `tests/test_private_zarr.py` names the version that was checked, and what to check
in another one.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.codecs import ZstdCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype
from zarr.registry import register_codec
from zarr.storage import LocalStore

from storage.arrays.zarr_metadata import MAX_CHUNK_BYTES, UnsafeGroup

__all__ = ["MARGIN_BYTES", "TEXT_BYTES", "BoundedZstd", "Buffer", "CheckedStore", "bounded"]

Read = Callable[[str, int, int | None], bytes]

# Two file names and what precedes them; text has no size in the metadata.
TEXT_BYTES = 1024
# A count of texts, a checksum.
MARGIN_BYTES = 64
_MAGIC = bytes.fromhex("28b52ffd")
# zarr has one configuration a process: without the lock, another thread would restore it too early.
_lock = threading.Lock()


class BoundedZstd(ZstdCodec):
    """zstd (RFC 8878); raises UnsafeGroup for a chunk that claims to hold more than the array has there."""

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        data = chunk_bytes.as_numpy_array()
        item_bytes = int(getattr(chunk_spec.dtype, "item_size", TEXT_BYTES))
        limit = min(math.prod(chunk_spec.shape) * item_bytes, MAX_CHUNK_BYTES) + MARGIN_BYTES
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
    """Decode every array that is opened inside by `BoundedZstd`; the array keeps that codec."""
    name = f"{BoundedZstd.__module__}.{BoundedZstd.__qualname__}"
    with _lock, zarr.config.set({"codecs.zstd": name}):
        yield


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


class CheckedStore(LocalStore):
    """A zarr store on a disk that reads as a root does: only regular files of the run or data set.

    Parameters
    ----------
    directory : str
        Where the group lies.
    read : callable
        `storage.stores.root.Root.read_part`, which every byte comes through.
    path : str
        Path of the group for `read`.
    read_only : bool
        Whether writing is refused.
    """

    def __init__(self, directory: str, read: Read, path: str, *, read_only: bool) -> None:
        super().__init__(directory, read_only=read_only)
        self._read, self._path = read, path

    def with_read_only(self, read_only: bool = False) -> Self:
        """Return the same store with other rights."""
        return type(self)(str(self.root), self._read, self._path, read_only=read_only)

    def get_sync(
        self,
        key: str,
        *,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read an object, or part of it; None if it is absent."""
        start: int = 0
        stop: int | None = None
        match byte_range:
            case RangeByteRequest():
                start, stop = byte_range.start, byte_range.end
            case OffsetByteRequest():
                start = byte_range.offset
            case SuffixByteRequest():
                start = -byte_range.suffix
        try:
            data = self._read(f"{self._path}/{key}", start, stop)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read as `get_sync` does."""
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Read parts of objects."""
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]
