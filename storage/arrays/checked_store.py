"""A zarr store of a disk that reads as a root does: regular files of the run or data set alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Self

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.buffer.core import default_buffer_prototype
from zarr.storage import LocalStore

Read = Callable[[str, int, int | None], bytes]


class CheckedStore(LocalStore):
    """Reads one group.

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
        start, stop = _ends(byte_range)
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


def _ends(part: ByteRequest | None) -> tuple[int, int | None]:
    if isinstance(part, RangeByteRequest):
        return part.start, part.end
    if isinstance(part, OffsetByteRequest):
        return part.offset, None
    if isinstance(part, SuffixByteRequest):
        return -part.suffix, None
    return 0, None
