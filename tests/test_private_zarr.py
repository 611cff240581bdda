"""The parts of zarr that it does not document: checked for one version, and still called as we expect."""

from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import zarr

from storage.arrays import private_zarr
from storage.arrays.private_zarr import BoundedZstd, CheckedStore, bounded
from storage.stores.root import Root

CHECKED = "3.1.6"
WHAT_TO_CHECK = (
    "storage/arrays/private_zarr.py overrides what zarr calls inside itself. In the new version, check "
    "that ZstdCodec still expands chunks by _decode_sync(chunk_bytes, chunk_spec) with _zstd_codec; that "
    "the setting codecs.zstd is read when an array is opened, and not later; that LocalStore reads by "
    "get, get_sync and get_partial_values alone; that zarr.core still has ArraySpec, Buffer, "
    "BufferPrototype and default_buffer_prototype. Then run tests/test_foreign_root.py and "
    "tests/test_cubes.py, and set CHECKED to the new version"
)


def test_zarr_is_the_version_that_was_checked():
    pinned = Path(__file__).parent.parent.joinpath("constraints.txt").read_text().splitlines()
    assert f"zarr=={CHECKED}" in pinned, WHAT_TO_CHECK
    assert version("zarr") == CHECKED, WHAT_TO_CHECK


@pytest.fixture
def array(tmp_path):
    """An array of four clips in two shards, compressed with zstd."""
    made = zarr.create_array(
        tmp_path / "a.zarr", name="x", shape=(4, 8), chunks=(1, 8), shards=(2, 8), dtype="uint8"
    )
    made[:] = np.arange(32, dtype="uint8").reshape(4, 8)
    return tmp_path


def test_an_array_that_is_opened_inside_stays_bounded(array, monkeypatch):
    expanded = []
    whole = BoundedZstd._decode_sync

    def counted(self, chunk_bytes, chunk_spec):
        expanded.append(chunk_spec.shape)
        return whole(self, chunk_bytes, chunk_spec)

    monkeypatch.setattr(BoundedZstd, "_decode_sync", counted)
    with bounded():
        opened = zarr.open_group(array / "a.zarr", mode="r")["x"]
    assert opened[1].tolist() == list(range(8, 16))
    assert expanded == [(1, 8)]
    assert zarr.open_group(array / "a.zarr", mode="r")["x"][2].tolist() == list(range(16, 24))
    assert expanded == [(1, 8)]


def test_every_byte_of_a_group_is_read_by_the_root(array, monkeypatch):
    read = []
    plain = Root.read_part

    def counted(self, path, start, stop):
        read.append(path)
        return plain(self, path, start, stop)

    monkeypatch.setattr(Root, "read_part", counted)
    monkeypatch.setattr(private_zarr.LocalStore, "get", lambda *_, **__: pytest.fail("read past the root"))
    store = Root(str(array)).zarr_store("a.zarr", read_only=True)
    assert isinstance(store, CheckedStore)
    assert zarr.open_group(store, mode="r")["x"][:].shape == (4, 8)
    assert {path for path in read if "/c/" in path} == {"a.zarr/x/c/0/0", "a.zarr/x/c/1/0"}
