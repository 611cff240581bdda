"""Dask clusters: what they give their workers, where they listen, and what is left of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed import Client

from flows.serving.cluster import (
    THREAD_VARIABLES,
    OtherVersions,
    check_cluster,
    cluster,
    gpu_of_worker,
    in_process,
    local_size,
    visible_gpus,
)
from flows.serving.scratch import scratch_directory
from tasks.running.fanout import run_blocks
from tasks.versions import differences, versions
from tests.dask_processes import dask_processes, start_worker, tls_options, write_certificates
from tests.processes import family, is_loopback, listening_addresses, wait_until_gone

REPOSITORY = Path(__file__).parent.parent


def describe_worker() -> dict[str, Any]:
    import cv2
    import dask
    import torch

    variables = ["OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"]
    return {
        "pid": os.getpid(),
        "torch": torch.get_num_threads(),
        "cv2": cv2.getNumThreads(),
        "variables": {os.environ.get(name) for name in variables},
        "profiled": dask.config.get("distributed.worker.profile.enabled"),
    }


def test_local_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = {name: os.environ.get(name) for name in THREAD_VARIABLES}
    mine = {process.pid for process in family(os.getpid())}
    with cluster(2, threads_per_worker=1) as client:
        workers = client.scheduler_info()["workers"].values()
        assert [worker["nthreads"] for worker in workers] == [1, 1]
        assert {worker["memory_limit"] for worker in workers} == {0}

        described = client.run(by_value(describe_worker)).values()
        assert len({worker["pid"] for worker in described} - {os.getpid()}) == 2
        assert all(worker["torch"] == worker["cv2"] == 1 for worker in described)
        assert all(worker["variables"] == {"1"} for worker in described)
        assert not any(worker["profiled"] for worker in described)

        processes = family(os.getpid())
        # multiprocessing's resource tracker stays with its parent by design.
        started = [
            process
            for process in processes
            if process.pid not in mine and "resource_tracker" not in " ".join(process.cmdline())
        ]
        assert len(started) == 2
        addresses = listening_addresses(processes)
        assert len(addresses) >= 3
        assert all(map(is_loopback, addresses))
        assert len(list(tmp_path.glob("selrel-dask-*"))) == 1
    assert wait_until_gone(started, timeout=30) == []
    assert list(tmp_path.glob("selrel-*")) == []
    assert {name: os.environ.get(name) for name in THREAD_VARIABLES} == before


def test_a_cluster_in_this_process_listens_on_loopback_only() -> None:
    before = family(os.getpid())
    with in_process() as client:
        assert client.submit(abs, -42).result(timeout=30) == 42
        assert client.scheduler_info()["address"].startswith("tls://127.0.0.1:")
        assert set(family(os.getpid())) <= set(before)
        addresses = listening_addresses(before)
        # The scheduler, the worker, and the web server of each.
        assert len(addresses) >= 4
        assert all(map(is_loopback, addresses)), addresses


def test_threads_reach_a_worker_that_was_restarted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    with cluster(1, threads_per_worker=2) as client:
        ((address, first),) = client.run(by_value(describe_worker)).items()
        os.kill(first["pid"], signal.SIGKILL)
        gone = wait_until_gone([psutil.Process(first["pid"])], timeout=30)
        assert gone == []
        # The scheduler may not know yet, and the task would be given to the dead one.
        deadline = time.monotonic() + 60
        while not set(client.nthreads()) - {address}:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        again = client.submit(by_value(describe_worker), pure=False).result(timeout=60)
        assert again["pid"] != first["pid"]
        assert (again["torch"], again["cv2"], again["variables"]) == (2, 2, {"2"})
    assert os.environ["OMP_NUM_THREADS"] == "3"


@pytest.mark.slow
def test_a_worker_that_was_given_up_is_replaced() -> None:
    with cluster(2, threads_per_worker=1) as client:
        before = set(client.nthreads())
        nanny = next(iter(client.cluster.workers.values()))
        client.sync(nanny.close)
        deadline = time.monotonic() + 120
        while len(client.nthreads()) < 2 or set(client.nthreads()) == before:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert len(before & set(client.nthreads())) == 1


def test_another_process_without_the_certificate_is_refused() -> None:
    with cluster(1, threads_per_worker=1) as client:
        plain = client.scheduler_info()["address"].replace("tls://", "tcp://")
        with (
            pytest.raises(ConnectionError, match="no Dask scheduler answers"),
            cluster(scheduler=plain, timeout=2),
        ):
            pass


@pytest.mark.slow
def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdout=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"busy\n"
    processes = family(parent.pid)
    assert sum("spawn_main" in " ".join(process.cmdline()) for process in processes) == 2
    parent.kill()
    parent.wait(timeout=10)
    assert wait_until_gone(processes, timeout=10) == []


PARENT = """
    import time
    from flows.serving.cluster import cluster

    def spin(block):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            pass

    if __name__ == "__main__":
        with cluster(2, threads_per_worker=1) as client:
            futures = [client.submit(spin, block, pure=False) for block in range(4)]
            while sum(map(len, client.processing().values())) < 4:
                time.sleep(0.05)
            print("busy", flush=True)
            time.sleep(60)
"""


def test_an_abandoned_directory_is_swept_and_a_live_one_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    abandoned = tmp_path / "selrel-dask-abandoned"
    abandoned.mkdir()
    (abandoned / ".owner").touch()
    (tmp_path / "selrel-dask-just-being-made").mkdir()
    (tmp_path / "selrel-prefect-other").mkdir()
    with scratch_directory("dask") as first, scratch_directory("dask") as second:
        assert first != second
        assert first.is_dir()
        assert second.is_dir()
        assert not abandoned.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "selrel-dask-just-being-made",
        "selrel-prefect-other",
    ]


@pytest.mark.slow
def test_an_existing_scheduler() -> None:
    with dask_processes(workers=2) as (address, scheduler, workers):
        with cluster(scheduler=address) as client:
            assert client.submit(lambda: 21 * 2).result(timeout=30) == 42
        assert scheduler.poll() is None
        assert [worker.poll() for worker in workers] == [None, None]


@pytest.fixture
def certificates(tmp_path: Path) -> Iterator[Path]:
    """A directory with a certificate, which this process's Dask uses as well."""
    with dask.config.set(write_certificates(tmp_path)):
        yield tmp_path


@pytest.fixture
def other_code(tmp_path: Path) -> Path:
    """A copy of this repository's code that differs in a comment."""
    copy = tmp_path / "code"
    for room in ("selrel", "storage", "tasks", "flows"):
        shutil.copytree(REPOSITORY / room, copy / room, ignore=shutil.ignore_patterns("__pycache__"))
    with (copy / "selrel" / "clips.py").open("a") as file:
        file.write("# another version\n")
    return copy


def test_a_scheduler_and_workers_that_speak_tls(certificates: Path) -> None:
    with dask_processes(workers=2, certificates=certificates) as (address, scheduler, workers):
        with cluster(scheduler=address) as client:
            client.wait_for_workers(2, timeout=180)
            report = run_blocks(client, abs, range(-9, 0))
        assert (report.done, report.failed) == (9, {})
        assert address.startswith("tls://")
        assert [process.poll() for process in (scheduler, *workers)] == [None] * 3


@pytest.mark.slow
def test_workers_of_another_version_are_refused_by_name(certificates: Path, other_code: Path) -> None:
    with (
        dask_processes(certificates=certificates, code=other_code) as (address, _, _),
        pytest.raises(OtherVersions) as said,
        cluster(scheduler=address),
    ):
        pass
    here = versions()["selrel"]
    there = re.search(r"selrel (\S+) here and (\S+) there", str(said.value))
    assert there is not None
    assert there[1] == here
    assert there[2] != here and there[2].startswith(here.partition("+")[0])
    assert "\n" not in str(said.value)


@pytest.mark.slow
def test_a_worker_of_another_version_that_joins_later_is_sent_away(
    certificates: Path, other_code: Path
) -> None:
    with (
        dask_processes(certificates=certificates) as (address, _, workers),
        cluster(scheduler=address) as client,
    ):
        joined = [*workers]
        start_worker(joined, address, *tls_options(certificates), code=other_code)
        assert joined[-1].wait(timeout=180) is not None
        assert len(client.scheduler_info()["workers"]) == 1
        joined.pop()


def test_a_client_that_left_sends_no_worker_away(certificates: Path, other_code: Path) -> None:
    with dask_processes(certificates=certificates) as (address, _, workers):
        with cluster(scheduler=address):
            pass
        start_worker(workers, address, *tls_options(certificates), code=other_code)
        with Client(address) as client:
            client.wait_for_workers(2, timeout=180)
        assert [worker.poll() for worker in workers] == [None, None]


@pytest.mark.slow
def test_what_a_killed_client_left_is_removed(other_code: Path) -> None:
    """After an upgrade, workers of the new version may join although a client of the old one was killed."""
    with dask_processes(code=other_code) as (address, _, workers):
        old = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(OLD_CLIENT), address],
            stdout=subprocess.PIPE,
            cwd=other_code,
        )
        assert old.stdout is not None
        assert old.stdout.readline() == b"working\n"
        old.kill()
        old.communicate()
        workers[0].kill()
        workers[0].wait()
        joined = [*workers]
        start_worker(joined, address)
        assert joined[-1].wait(timeout=180) is not None, "it is sent away"
        with pytest.raises(ConnectionError, match="has no worker"), cluster(scheduler=address, timeout=1):
            pass
        start_worker(workers, address)
        with cluster(scheduler=address) as client:
            assert client.submit(abs, -42).result(timeout=30) == 42


OLD_CLIENT = """
    import sys, time
    sys.path.insert(0, "")
    from flows.serving.cluster import cluster

    with cluster(scheduler=sys.argv[1]):
        print("working", flush=True)
        time.sleep(120)
"""


def test_packages_that_differ_are_named() -> None:
    here = {"selrel": "1+a", "torch": "2.13", "numpy": "2"}
    assert differences(here, here) == ""
    assert differences(here, {"selrel": "1+a", "torch": "2.12"}) == (
        "torch 2.13 here and 2.12 there, numpy 2 here and none there"
    )


def test_a_worker_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With four GPUs, of which two may be used: two workers, one of them for each."""
    monkeypatch.setattr("flows.serving.cluster.torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    assert local_size()[0] == 2
    with cluster() as client:
        seen = client.run(by_value(gpu_of_this_process))
    assert sorted(seen.values()) == ["1", "3"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,1"


def gpu_of_this_process() -> Any:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("count", "chosen", "expected"),
    [
        (0, None, [None, None, None]),
        (1, None, ["0", "0", "0"]),
        (2, None, ["0", "1", "0"]),
        (4, None, ["0", "1", "2"]),
        (2, "3, 1", ["3", "1", "3"]),
        (1, "GPU-8f3c,9", ["GPU-8f3c", "GPU-8f3c", "GPU-8f3c"]),
        (0, "-1", [None, None, None]),
    ],
)
def test_which_gpu_a_worker_sees(count: int, chosen: str | None, expected: list[str | None]) -> None:
    visible = visible_gpus(count, chosen)
    assert [gpu_of_worker(worker, visible) for worker in range(3)] == expected


def test_a_scheduler_without_workers_is_an_error() -> None:
    with (
        dask_processes(workers=0) as (address, _, _),
        pytest.raises(ConnectionError, match="has no worker after 1 s"),
        cluster(scheduler=address, timeout=1),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": 0}, "workers is 0: give 1 or more"),
        ({"workers": 1, "threads_per_worker": -1}, "threads per worker is -1"),
        ({"scheduler": "10.0.0.1:8786"}, "give tls://HOST:PORT"),
        ({"scheduler": "http://localhost:8786"}, "give tls://HOST:PORT"),
        ({"scheduler": "tcp://127.0.0.1"}, "give tls://HOST:PORT"),
        ({"scheduler": "tcp://127.0.0.1:abc"}, "give tls://HOST:PORT"),
        ({"scheduler": "tcp://127.0.0.1:70000"}, "give tls://HOST:PORT"),
        (
            {"scheduler": "tls://127.0.0.1:9999"},
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT in the environment",
        ),
        ({"scheduler": "tcp://10.0.0.1:8786"}, "neither encrypted nor on this machine"),
        ({"scheduler": "tcp://localhost:8786", "workers": 2}, "can't be set on an existing scheduler"),
        (
            {"scheduler": "tcp://127.0.0.1:9", "timeout": 0.5},
            "no Dask scheduler answers at tcp://127.0.0.1:9",
        ),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises((ValueError, ConnectionError), match=message) as raised, cluster(**settings):  # type: ignore[arg-type]
        pass
    assert "\n" not in str(raised.value)


def test_a_certificate_that_is_no_file_is_named(certificates: Path) -> None:
    check_cluster(scheduler="tls://127.0.0.1:9999")
    (certificates / "certificate.pem").unlink()
    with pytest.raises(
        ValueError, match="set distributed.comm.tls.ca-file, distributed.comm.tls.client.cert"
    ):
        check_cluster(scheduler="tls://127.0.0.1:9999")


def by_value(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    """The function as something that a worker, which does not know this file, can run."""
    assert isinstance(function, types.FunctionType)
    return types.FunctionType(
        function.__code__, {"__builtins__": __builtins__, "os": os, "__name__": "__main__"}
    )
