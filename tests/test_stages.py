"""A stage on a real local cluster: what is done is found, damage is redone, killers are left out."""

from __future__ import annotations

import logging
import os
import signal
import time
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from distributed import Client

from flows.serving.cluster import cluster
from storage.datasets.fingerprints import ChangedVideo
from storage.layout import DatasetPaths
from storage.stores.receipts import Written, file_hashes, pending, write_receipt
from storage.stores.root import Root
from tasks.running.blocks import Quarantined, StageFailed, once, run_stage

RANGES = [(0, 4), (4, 8), (8, 10)]


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster(2, threads_per_worker=1) as client:
        yield client


@pytest.fixture
def root(client: Client, tmp_path: Path) -> Root:
    return Root(str(tmp_path))


@pytest.fixture
def paths(root: Root) -> DatasetPaths:
    return root.dataset("0123")


def content(block: int) -> str:
    return f"datasets/0123/content/{block}"


def write(root: Root, block: int) -> Written:
    root.write_bytes(content(block), bytes([block]))
    return file_hashes(root, [content(block)])


def deadly(root: Root, path: str) -> Root:
    """The same root, but reading one of its files kills the worker. Nested, to travel by value."""

    class Deadly(Root):
        def sha256(self, asked: str, *, size_bytes: int | None = None) -> tuple[str, int]:
            if asked == path:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().sha256(asked, size_bytes=size_bytes)

    return Deadly(root.url)


def stage(
    root: Root,
    paths: DatasetPaths,
    *,
    killer: int = -1,
    bad: int = -1,
    blocks: list[int] | None = None,
    reread: Root | None = None,
) -> list[Quarantined]:
    """Run a stage whose blocks write a file each; give what is left out. Nested, to travel by value."""

    def work(root: Root, block: int) -> Written:
        if block == killer:
            os.kill(os.getpid(), signal.SIGKILL)
        if block == bad:
            raise ValueError("no such clip")
        from storage.stores.receipts import file_hashes

        path = f"datasets/0123/content/{block}"
        root.write_bytes(path, bytes([block]))
        return file_hashes(root, [path])

    return run_stage("decode", reread or root, paths, partial(work, root), RANGES, blocks=blocks)


def written(root: Root) -> dict[int, int]:
    return {b: Path(root.join(content(b))).stat().st_mtime_ns for b in range(3) if root.exists(content(b))}


def test_what_is_done_is_found_and_counted(
    root: Root, paths: DatasetPaths, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="selrel")
    assert stage(root, paths, blocks=[0, 2]) == []
    before = written(root)
    assert stage(root, paths) == []
    assert {block: written(root)[block] for block in before} == before
    assert pending(root, paths, "decode", range(3)) == []
    assert "decode: 6 of 10 clips done" in caplog.messages


@pytest.mark.parametrize("damage", [b"other", None])
def test_a_damaged_block_is_redone_and_no_other(
    root: Root, paths: DatasetPaths, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    stage(root, paths)
    before = written(root)
    root.delete(content(1)) if damage is None else root.write_bytes(content(1), damage)
    stage(root, paths)
    after = written(root)
    assert (after[0], after[2]) == (before[0], before[2])
    assert root.read_bytes(content(1)) == b"\x01"
    assert [message for message in caplog.messages if "block 1 is done again" in message]


@pytest.mark.slow
def test_a_block_that_kills_its_workers_is_left_out_and_the_others_are_done(
    client: Client, root: Root, paths: DatasetPaths
) -> None:
    client.wait_for_workers(2, timeout=120)
    began = time.monotonic()
    (lost,) = stage(root, paths, killer=1)
    whole = time.monotonic() - began
    effort = root.read_json(paths.effort("decode"))
    assert 1.5 * whole < effort["worker_seconds"] < 2 * whole, (
        "the one that is dead at the end had its time too"
    )
    assert {name: lost[name] for name in ("stage", "block", "start", "stop")} == {
        "stage": "decode",
        "block": 1,
        "start": 4,
        "stop": 8,
    }
    assert lost["reason"].startswith("decode: its worker process died")
    assert pending(root, paths, "decode", range(3)) == [1]
    # It is tried again by the next run.
    assert stage(root, paths) == []


@pytest.mark.slow
def test_a_block_that_kills_workers_when_it_is_read_again_is_redone(
    root: Root, paths: DatasetPaths, caplog: pytest.LogCaptureFixture
) -> None:
    stage(root, paths)
    before = written(root)
    assert stage(root, paths, reread=deadly(root, content(1))) == []
    after = written(root)
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] > before[1]
    assert [message for message in caplog.messages if "block 1" in message] == [
        "decode: when block 1 was read again its worker process died (killed, out of memory, or crashed), "
        "3 times: it is done again"
    ]


@pytest.mark.slow
def test_a_block_that_kills_workers_whatever_is_done_to_it_is_left_out(
    root: Root, paths: DatasetPaths
) -> None:
    stage(root, paths)
    (lost,) = stage(root, paths, reread=deadly(root, content(1)), killer=1)
    assert lost["block"] == 1
    assert pending(root, paths, "decode", range(3)) == [1]


@pytest.mark.slow
def test_where_all_blocks_kill_workers_when_read_again_nothing_is_thrown_away(
    root: Root, paths: DatasetPaths
) -> None:
    stage(root, paths, blocks=[0, 1])
    # Both vouch for one file.
    for block in (0, 1):
        write_receipt(root, paths, "decode", block, file_hashes(root, [content(0)]))
    with pytest.raises(StageFailed, match="2 of 2 blocks failed .*worker process died"):
        stage(root, paths, reread=deadly(root, content(0)))
    assert pending(root, paths, "decode", range(3)) == [2]


def test_what_was_made_of_inputs_that_have_gone_is_withdrawn(
    root: Root, paths: DatasetPaths, caplog: pytest.LogCaptureFixture
) -> None:
    stage(root, paths)
    before = written(root)
    assert stage(root, paths, blocks=[1]) == []
    assert pending(root, paths, "decode", range(3)) == [0, 2]
    assert written(root) == {1: before[1]}
    warnings = {record.getMessage() for record in caplog.records if record.levelno == logging.WARNING}
    assert {message for message in warnings if message.startswith("decode: ")} == {
        "decode: dropped, since what they were made from is gone: block 0, 2"
    }
    # Once the inputs are there again.
    assert stage(root, paths) == []
    assert pending(root, paths, "decode", range(3)) == []


def test_a_block_that_raises_stops_the_run_after_the_others(root: Root, paths: DatasetPaths) -> None:
    with pytest.raises(StageFailed, match=r"1 of 3 blocks failed \(block 2: ValueError: no such clip\)"):
        stage(root, paths, bad=2)
    assert pending(root, paths, "decode", range(3)) == [2]


@pytest.mark.slow
def test_a_stage_of_killers_only_fails(root: Root, paths: DatasetPaths) -> None:
    with pytest.raises(StageFailed, match="1 of 1 blocks failed .*worker process died"):
        stage(root, paths, killer=0, blocks=[0])


def test_a_piece_of_its_own_is_done_once_and_again_where_it_is_damaged(
    root: Root, paths: DatasetPaths
) -> None:
    done = []

    def work() -> Written:
        done.append(1)
        return write(root, 0)

    for _ in range(2):
        once(root, paths, "frames", work)
    assert len(done) == 1
    root.write_bytes(content(0), b"damaged")
    once(root, paths, "frames", work)
    assert len(done) == 2


def test_a_video_that_changed_ends_the_stage_at_once_with_one_line(
    client: Client, root: Root, paths: DatasetPaths
) -> None:
    """Trying again mends nothing, and what the other blocks make belongs to a data set that is gone."""

    def work(block: int) -> Written:
        root.write_bytes(f"tries/{block}-{uuid.uuid4().hex}", b"")
        if block == 0:
            raise ChangedVideo("/data/v.avi has changed since this was planned; start the same command again")
        while not root.exists("over"):
            time.sleep(0.02)
        return write(root, block)

    ranges = [(block, block + 1) for block in range(40)]
    with pytest.raises(StageFailed) as error:
        run_stage("decode", root, paths, work, ranges)
    root.write_bytes("over", b"")
    assert str(error.value) == (
        "decode: /data/v.avi has changed since this was planned; start the same command again"
    )
    tries = [name.partition("-")[0] for name in root.listdir("tries")]
    assert tries.count("0") == 1 and len(tries) < 10
