"""A store that does not answer is asked again: on a real S3 server that is stopped for a while."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from storage.arrays import cubes
from storage.arrays.blocks import read_block, write_block
from storage.stores import patience
from storage.stores.root import Root, UnusableRoot
from tests.servers import BUCKET, free_port, s3_client, s3_server

SIZES = {"length": 2, "height": 4, "width": 4, "block_clips": 4}


def away(served, port, seconds, work):
    """Do work while the server is away for some seconds; what it gives."""
    results = []
    with s3_server(served, port=port):
        work("before")
    thread = threading.Thread(target=lambda: results.append(work("while away")), daemon=True)
    thread.start()
    time.sleep(seconds)
    assert not results, "there is no server, so nothing can have been done"
    with s3_server(served, port=port):
        thread.join(timeout=120)
        return results


@pytest.mark.parametrize("seconds", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_every_request_waits_for_the_server(tmp_path, seconds):
    port, served = free_port(), tmp_path / "served"
    frames = np.arange(4 * 2 * 4 * 4 * 3, dtype=np.uint8).reshape(4, 2, 4, 4, 3)
    with s3_server(served, port=port) as server:
        pass
    with s3_client(server):
        root = Root(f"s3://{BUCKET}/root")

        def work(when):
            if when == "before":
                cubes.create_frames(root, "a.zarr", {"fps": np.full(4, 25.0)}, **SIZES)
                return None
            write_block(root, "a.zarr", 0, {"frames": frames})
            assert root.exists("a.zarr/zarr.json") and root.size("a.zarr/zarr.json")
            assert "frames" in root.listdir("a.zarr")
            return read_block(root, "a.zarr", 0, 4)["frames"]

        (found,) = away(served, port, seconds, work)
    np.testing.assert_array_equal(found, frames)


def test_what_no_waiting_mends_is_told_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=lambda _: pytest.fail("waited")))
    with s3_server(tmp_path / "served") as server:
        with s3_client(server), pytest.raises(FileNotFoundError):
            Root(f"s3://{BUCKET}/root").read_bytes("absent")
        with s3_client(server, AWS_SECRET_ACCESS_KEY="wrong"), pytest.raises(UnusableRoot):
            Root(f"s3://{BUCKET}/root").check_writable()


def test_it_waits_for_minutes_and_not_for_ever(monkeypatch):
    pauses = []
    monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=pauses.append))

    def gone():
        raise ConnectionRefusedError("no server")

    with pytest.raises(ConnectionRefusedError):
        patience.patiently(gone)
    assert 120 <= sum(pauses) <= 300
