"""Zarr groups that are made once from a template and then written in whole blocks of clips.

A block is one shard of every large array and one chunk of every small one, so each object in
the store has exactly one writer. The chunk inside a shard is one clip.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import zarr
from numpy.typing import DTypeLike, NDArray
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from storage.arrays.private_zarr import Buffer, bounded
from storage.arrays.zarr_metadata import UnsafeGroup, check_arrays
from storage.layout import content_hash
from storage.stores.receipts import REPAIR, Written, array_sha256, of_bytes
from storage.stores.root import Root
from storage.text import first_line

Attributes = Mapping[str, Any]

_WRITERS = 4
# The longest path on Linux, in bytes.
_LONGEST_NAME = 4096


class TemplateMismatch(ValueError):
    """A group that exists already, made from another template."""


class MissingBlock(FileNotFoundError):
    """Clips that were never written, or were lost."""


class DamagedBlock(ValueError):
    """Clips whose bytes do not decode, or whose checksum does not match."""


@dataclass(frozen=True)
class Variable:
    """An array that is written in blocks: its first axis is the clip.

    Parameters
    ----------
    dims : tuple of str
        Names of the axes.
    shape : tuple of int
        Sizes of the axes.
    dtype : dtype
        Of the stored values.
    fill : float or int
        What a clip that was never written reads as.
    attrs : mapping
        JSON attributes.
    one_clip_a_chunk : bool
        Whether a clip can be read by itself (large arrays), or only the block (small ones).
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: DTypeLike
    fill: float | int
    attrs: Attributes = field(default_factory=dict)
    one_clip_a_chunk: bool = True


@dataclass(frozen=True)
class Coordinate:
    """A small array that is written whole when the group is made; numbers or text."""

    dims: tuple[str, ...]
    values: NDArray[Any]
    attrs: Attributes = field(default_factory=dict)


def blocks(n_clips: int, block_clips: int) -> list[tuple[int, int]]:
    """Half-open clip ranges of all blocks, in order; the last one may be shorter.

    Raises
    ------
    ValueError
        If a block would hold no clip.
    """
    if block_clips < 1:
        raise ValueError(f"block_clips is {block_clips}: give 1 or more clips a block (64 is usual)")
    return [(start, min(start + block_clips, n_clips)) for start in range(0, n_clips, block_clips)]


def create_group(
    root: Root,
    path: str,
    variables: Mapping[str, Variable],
    coordinates: Mapping[str, Coordinate],
    block_clips: int,
    attrs: Attributes | None,
) -> Written:
    """Create a group from its template, so that every later write is a whole block.

    The same template gives the same bytes, so a group that is incomplete or damaged is mended by creating
    it again; blocks that are written already stay.

    Parameters
    ----------
    root, path
        Where the group lies.
    variables : mapping of str to Variable
        The arrays that are written in blocks.
    coordinates : mapping of str to Coordinate
        The arrays that are written here, at once.
    block_clips : int
        Clips of a block.
    attrs : mapping, optional
        JSON attributes of the group.

    Returns
    -------
    Written
        The files of the group that are not part of a block, for the receipt.

    Raises
    ------
    TemplateMismatch
        If the group is there already and was made otherwise.
    """
    blocks(1, block_clips)
    template = _template(variables, coordinates, block_clips, attrs)
    _check_template(root, path, template)
    objects: dict[str, Buffer] = {}
    group = zarr.create_group(MemoryStore(objects), zarr_format=3)
    for name, variable in variables.items():
        block = (block_clips, *variable.shape[1:])
        group.create_array(
            name,
            shape=variable.shape,
            dtype=variable.dtype,
            chunks=(1, *variable.shape[1:]) if variable.one_clip_a_chunk else block,
            shards=block if variable.one_clip_a_chunk else None,
            compressors=_compressor(),
            fill_value=variable.fill,
            dimension_names=variable.dims,
            attributes=dict(variable.attrs),
            overwrite=True,
        )
    for name, coordinate in coordinates.items():
        _create_coordinate(group, name, coordinate)
    named = " ".join(sorted(name for name, coordinate in coordinates.items() if coordinate.dims != (name,)))
    group.attrs.update({**(attrs or {}), **({"coordinates": named} if named else {}), "template": template})
    with warnings.catch_warnings():
        # xarray warns without it; the arrays of a group never change after this, so it can't go stale.
        warnings.simplefilter("ignore", ZarrUserWarning)
        zarr.consolidate_metadata(group.store)
    # The group's own description last: with it, the group is complete.
    ordered = sorted(objects, key=lambda key: (key == "zarr.json", key))
    return _write(root, ((f"{path}/{key}", objects[key].to_bytes()) for key in ordered))


def write_block(root: Root, path: str, start: int, arrays: Mapping[str, NDArray[Any]]) -> Written:
    """Write one whole block of one or more arrays.

    Parameters
    ----------
    root, path
        Where the group lies.
    start : int
        First clip of the block.
    arrays : mapping of str to array of shape (clips of the block, ...)
        Values by array name, in the array's own dtype.

    Returns
    -------
    Written
        The hash of each clip's content (`clip_hashes`), and those of the objects, for the receipt.

    Raises
    ------
    ValueError
        If the values do not cover exactly one block, or dtype or shape differ.
    FileNotFoundError
        If there is no such group.
    """
    group = _open(root, path, mode="r+")
    written = {name: _stored(group, name) for name in arrays}
    for name, values in arrays.items():
        array = written[name]
        n_clips, block_clips = array.shape[0], _clips_a_block(array)
        expected = (min(block_clips, n_clips - start), *array.shape[1:])
        if start % block_clips or not 0 <= start < n_clips:
            raise ValueError(
                f"{name}: clip {start} starts no block; blocks start at 0, {block_clips}, .. below {n_clips}"
            )
        if values.shape != expected or values.dtype != array.dtype:
            raise ValueError(
                f"{name}: a block of {values.dtype} {values.shape} does not fit;"
                f" the block at clip {start} is {array.dtype} {expected}"
            )

    def write(name: str) -> Written:
        array = written[name]
        values = arrays[name]
        # Written through the array itself, zarr would read the old object and merge it with the new
        # block, and fail where the old one is damaged.
        objects: dict[str, Buffer] = {}
        alone = zarr.create_array(
            MemoryStore(objects),
            shape=values.shape,
            dtype=array.dtype,
            chunks=array.chunks,
            shards=array.shards,
            compressors=array.compressors,
            fill_value=array.fill_value,
            # An object that is there is how a written block of zeros differs from a lost one.
            config={"write_empty_chunks": True},
        )
        alone[:] = values
        data = objects[array.metadata.encode_chunk_key((0,) * values.ndim)].to_bytes()
        return _write(root, [(_object(path, written[name], start), data)])

    # Writing waits for the disk or the server, so a few objects are written at once; not all, since each is
    # held in memory, encoded, until it is written.
    with ThreadPoolExecutor(_WRITERS) as pool:
        return reduce(operator.or_, pool.map(write, arrays), Written(clip_hashes(start, arrays)))


def clip_hashes(start: int, arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """Hash each clip of some arrays (clip, ...): the hash by the clip's number, counted from `start`."""
    return {
        str(start + at): content_hash({name: array_sha256(values[at]) for name, values in arrays.items()})
        for at in range(min(map(len, arrays.values())))
    }


def read_block(
    root: Root,
    path: str,
    start: int,
    stop: int,
    names: Sequence[str] | None = None,
    *,
    axes: Mapping[str, int] | None = None,
) -> dict[str, NDArray[Any]]:
    """Read clips, of a block or of any range, and never take lost ones for empty ones.

    Parameters
    ----------
    root, path
        Where the group lies.
    start, stop : int
        The clips, half open.
    names : sequence of str, optional
        The arrays; all that are written in blocks if absent.
    axes : mapping of str to int, optional
        The size that every axis must have, by its name: the group is only as good as who wrote it.

    Returns
    -------
    dict of str to array
        Values by array name, bit for bit as they were written.

    Raises
    ------
    MissingBlock
        If one of the clips' objects is not there.
    DamagedBlock
        If one of them does not decode to what was written.
    UnsafeGroup
        If an array has other axes; nothing is read then.
    """
    group = _open(root, path, mode="r", axes=axes)
    if names is None:
        coordinates = {"clip", *str(group.attrs.get("coordinates", "")).split()}
        dims = {str(name): array.metadata.dimension_names or ("",) for name, array in group.arrays()}  # type: ignore[union-attr]
        names = sorted(name for name in dims if name not in coordinates and dims[name][0] == "clip")
    return {name: _read(root, path, _stored(group, name), start, stop) for name in names}


def _write(root: Root, objects: Iterable[tuple[str, bytes]]) -> Written:
    written = Written()
    for path, data in objects:
        root.write_bytes(path, data)
        written |= of_bytes(path, data)
    return written


def _create_coordinate(group: zarr.Group, name: str, coordinate: Coordinate) -> None:
    text = coordinate.values.dtype.kind == "U"
    array = group.create_array(
        name,
        shape=coordinate.values.shape,
        # The fixed-length kind of text has no specification in zarr 3, this one has.
        dtype="string" if text else coordinate.values.dtype,
        chunks=coordinate.values.shape,
        compressors=_compressor(),
        dimension_names=coordinate.dims,
        attributes=dict(coordinate.attrs),
        overwrite=True,
        config={"write_empty_chunks": True},
    )
    array[:] = coordinate.values.astype(object) if text else coordinate.values


def _compressor() -> ZstdCodec:
    # Plain zstd lets flipped bits through silently.
    return ZstdCodec(level=1, checksum=True)


def _template(
    variables: Mapping[str, Variable],
    coordinates: Mapping[str, Coordinate],
    block_clips: int,
    attrs: Attributes | None,
) -> str:
    arrays = {
        name: [v.dims, v.shape, str(np.dtype(v.dtype)), str(v.fill), dict(v.attrs)]
        for name, v in variables.items()
    }
    axes = {
        name: [
            c.dims,
            c.values.tolist() if c.values.dtype.kind == "U" else array_sha256(c.values),
            dict(c.attrs),
        ]
        for name, c in coordinates.items()
    }
    return content_hash(
        {"arrays": arrays, "axes": axes, "block_clips": block_clips, "attrs": dict(attrs or {})}
    )


def _check_template(root: Root, path: str, template: str) -> None:
    try:
        content = root.read_json(f"{path}/zarr.json")
    except (FileNotFoundError, ValueError):
        return
    attributes = content.get("attributes") if isinstance(content, dict) else None
    found = attributes.get("template") if isinstance(attributes, dict) else None
    if found not in (None, template):
        raise TemplateMismatch(
            f"{root.join(path)} was made from other clips, sizes, block size or attributes"
            f" (template {found}, now {template}): use the same settings, or another root"
        )


def _open(root: Root, path: str, *, mode: str, axes: Mapping[str, int] | None = None) -> zarr.Group:
    try:
        store = root.zarr_store(path, read_only=mode == "r")
        with bounded():
            group = root.ask(lambda: zarr.open_group(store, mode=mode, zarr_format=3))  # type: ignore[arg-type]
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no zarr group at {root.join(path)}: has the stage that makes it run?"
        ) from None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UnsafeGroup(
            f"{root.join(path)} is no zarr group of this project ({first_line(error)})"
        ) from error
    found = group.metadata.consolidated_metadata
    arrays = {} if found is None else {name: array.to_dict() for name, array in found.metadata.items()}
    check_arrays(arrays, root.join(path), axes)
    return group


def _stored(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group.get(name)
    if not isinstance(array, zarr.Array):
        raise ValueError(
            f"no array {name!r} in {group.store}: there are {', '.join(sorted(group.array_keys()))}"
        )
    return array


def _clips_a_block(array: zarr.Array[Any]) -> int:
    return int((array.shards or array.chunks)[0])


def _read(root: Root, path: str, array: zarr.Array[Any], start: int, stop: int) -> NDArray[Any]:
    if not 0 <= start < stop <= array.shape[0]:
        raise ValueError(f"{array.name}: clips {start}:{stop} are not among 0:{array.shape[0]}")
    for first in range(start - start % _clips_a_block(array), stop, _clips_a_block(array)):
        _check_object(root, path, array, first)
    try:
        return root.ask(lambda: np.asarray(array[start:stop]))
    except (RuntimeError, ValueError, MemoryError) as error:
        raise _damaged(root, path, array, start, stop, first_line(error)) from error


def _check_object(root: Root, path: str, array: zarr.Array[Any], start: int) -> None:
    where = _object(path, array, start)
    size = root.size(where)
    if size is None:
        raise MissingBlock(f"{root.join(where)} is missing (clips from {start}): {REPAIR}")
    # zarr reads an empty shard as one that was never written, and S3 has no words for one that
    # is shorter than its index: 16 bytes a clip and a checksum.
    least = 16 * _clips_a_block(array) + 4 if array.shards else 1
    # zarr would read whatever there is. What does not compress grows by the headers of its frames.
    each = array.dtype.itemsize if array.dtype.kind in "biuf" else _LONGEST_NAME
    most = each * math.prod(array.shards or array.chunks) * 129 // 128 + 2**16
    if size > most:
        reason = f"{size:,} bytes, where {most:,} are the most"
        raise _damaged(root, path, array, start, start + _clips_a_block(array), reason)
    if size < least:
        raise _damaged(root, path, array, start, start + _clips_a_block(array), f"only {size} bytes")


def _object(path: str, array: zarr.Array[Any], start: int) -> str:
    chunk = (start // _clips_a_block(array), *(0 for _ in array.shape[1:]))
    return f"{path}/{array.name.lstrip('/')}/{array.metadata.encode_chunk_key(chunk)}"


def _damaged(
    root: Root, path: str, array: zarr.Array[Any], start: int, stop: int, reason: str
) -> DamagedBlock:
    return DamagedBlock(
        f"{root.join(path)}{array.name} is damaged in clips {start}:{min(stop, array.shape[0])} ({reason}):"
        f" {REPAIR}"
    )
