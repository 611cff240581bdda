"""The bounded fan-out, on a real local cluster. Functions are nested so that they travel by value."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from distributed import Client

from flows.serving.cluster import cluster
from tasks.running.fanout import run_blocks
from tests.dask_processes import dask_processes


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with cluster(2, threads_per_worker=1) as client:
        yield client


def count_calls(directory: Path) -> Counter[int]:
    """How often each block was run: a call leaves a file `<block>-<unique>`."""
    return Counter(int(path.name.split("-")[0]) for path in directory.iterdir())


def note_call(directory: str, block: int) -> int:
    import pathlib
    import uuid

    (pathlib.Path(directory) / f"{block}-{uuid.uuid4().hex}").touch()
    return sum(1 for path in pathlib.Path(directory).iterdir() if path.name.startswith(f"{block}-"))


@pytest.fixture
def noted(tmp_path: Path) -> partial[int]:
    """`note_call` as something that a worker, which does not know this file, can run."""
    import types

    by_value = types.FunctionType(note_call.__code__, {"__builtins__": __builtins__, "__name__": "__main__"})
    return partial(by_value, str(tmp_path))


def test_every_block_once(client: Client, noted: partial[int], tmp_path: Path) -> None:
    def square(block: int) -> int:
        noted(block)
        return block * block

    results: dict[int, int] = {}
    report = run_blocks(client, square, range(25), on_done=results.__setitem__)
    assert results == {block: block * block for block in range(25)}
    assert (report.done, report.failed) == (25, {})
    assert count_calls(tmp_path) == Counter(range(25))


def test_no_blocks(client: Client) -> None:
    assert run_blocks(client, str, []).done == 0


def test_window_is_bounded_and_blocks_are_consumed_lazily(client: Client) -> None:
    taken: list[int] = []
    ahead: list[int] = []

    def blocks() -> Iterator[int]:
        for block in range(40):
            taken.append(block)
            yield block

    def done(block: int, result: int) -> None:
        ahead.append(len(taken) - len(ahead))

    run_blocks(client, lambda block: block, blocks(), window_per_worker=3, on_done=done)
    assert len(ahead) == 40
    # 2 workers x 3: before the last answer arrives, so many blocks are out, and never more.
    assert max(ahead) == 6


def test_a_block_that_raises_twice_then_works(client: Client, noted: partial[int], tmp_path: Path) -> None:
    def flaky(block: int) -> int:
        if noted(block) < 3 and block == 4:
            raise OSError("bucket away\nsecond line")
        return block

    retries: list[tuple[int, str]] = []
    report = run_blocks(client, flaky, range(8), on_retry=lambda *retry: retries.append(retry))
    assert (report.done, report.failed) == (8, {})
    assert retries == [(4, "OSError: bucket away")] * 2
    assert count_calls(tmp_path) == Counter(range(8)) + Counter({4: 2})


def test_a_block_that_always_raises_is_reported(client: Client, noted: partial[int], tmp_path: Path) -> None:
    def bad(block: int) -> int:
        noted(block)
        if block == 2:
            raise ValueError("no such clip: 2")
        return block

    done: list[int] = []
    report = run_blocks(client, bad, range(6), attempts=2, on_done=lambda block, _: done.append(block))
    assert sorted(done) == [0, 1, 3, 4, 5]
    assert (report.done, report.failed) == (5, {2: "ValueError: no such clip: 2"})
    assert count_calls(tmp_path)[2] == 2


def test_a_block_that_kills_its_worker_is_blamed_alone(
    client: Client, noted: partial[int], tmp_path: Path
) -> None:
    def poison(block: int) -> int:
        noted(block)
        time.sleep(0.05)  # long enough for neighbours to wait on the same worker
        if block == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    done: list[int] = []
    report = run_blocks(client, poison, range(20), on_done=lambda block, _: done.append(block))
    assert sorted(done) == [block for block in range(20) if block != 3]
    assert list(report.failed) == [3]
    assert "worker process died" in report.failed[3]
    assert count_calls(tmp_path)[3] == 3


def test_two_poisons_and_a_single_attempt(client: Client, noted: partial[int], tmp_path: Path) -> None:
    def poison(block: int) -> int:
        noted(block)
        if block in (0, 1):
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    report = run_blocks(client, poison, range(6), attempts=1)
    assert report.done == 4
    assert sorted(report.failed) == [0, 1]


def test_a_callback_that_raises_cancels_the_rest(client: Client, noted: partial[int], tmp_path: Path) -> None:
    def slow(block: int) -> int:
        noted(block)
        time.sleep(0.1)
        return block

    def stop(block: int, result: int) -> None:
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        run_blocks(client, slow, range(50), on_done=stop)
    time.sleep(0.5)
    started = sum(count_calls(tmp_path).values())
    assert started <= 4
    assert not client.processing() or not any(client.processing().values())
    assert run_blocks(client, lambda block: block, range(3)).done == 3


def test_an_iterator_that_raises_cancels_the_rest(client: Client) -> None:
    def blocks() -> Iterator[int]:
        yield 0
        raise LookupError("the list ended early")

    with pytest.raises(LookupError, match="ended early"):
        run_blocks(client, lambda block: time.sleep(0.2), blocks())
    assert not client.futures


def test_nothing_stays_with_the_scheduler(client: Client) -> None:
    report = run_blocks(client, lambda block: "x" * 1000, range(30))
    assert report.done == 30
    deadline = time.monotonic() + 5
    while client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks)):
        assert time.monotonic() < deadline, "finished blocks are still held"
        time.sleep(0.05)


def test_the_same_name_again_runs_again(client: Client, noted: partial[int], tmp_path: Path) -> None:
    for _ in range(2):
        run_blocks(client, noted, range(3), name="explain-r1")
    assert count_calls(tmp_path) == Counter({0: 2, 1: 2, 2: 2})


def test_bad_settings_and_repeated_blocks(client: Client) -> None:
    with pytest.raises(ValueError, match="attempts is 0"):
        run_blocks(client, str, [1], attempts=0)
    with pytest.raises(ValueError, match="window per worker is 0"):
        run_blocks(client, str, [1], window_per_worker=0)
    with pytest.raises(ValueError, match="block 1 comes twice"):
        run_blocks(client, str, [1, 1])


def test_a_scheduler_that_dies_is_an_error_not_a_wait() -> None:
    with (
        dask_processes(workers=1) as (address, scheduler, _),
        cluster(scheduler=address) as client,
        pytest.raises(ConnectionError, match="the Dask scheduler is gone"),
    ):
        run_blocks(client, slow_echo(), range(10), on_done=lambda *_: scheduler.kill())


def test_workers_that_stay_away_are_an_error_not_a_wait() -> None:
    with (
        dask_processes(workers=1) as (address, _, workers),
        cluster(scheduler=address) as client,
        pytest.raises(ConnectionError, match="no Dask worker for 1 s"),
    ):
        run_blocks(client, slow_echo(), range(10), on_done=lambda *_: workers[0].kill(), no_worker_timeout=1)


def slow_echo() -> Callable[[int], int]:
    def slow(block: int) -> int:
        time.sleep(0.2)
        return block

    return slow
