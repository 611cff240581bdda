"""The private Prefect server: a flow runs on it, nobody else can use it, and nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect import flow, task
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_KEY, PREFECT_API_URL, PREFECT_HOME, get_current_settings

from flows.serving import local_server, prefect_settings
from flows.serving.local_server import temporary_server
from flows.serving.scratch import scratch_directory
from flows.serving.standalone import standalone
from tests.processes import family, is_loopback, listening_addresses, wait_until_gone


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Temporary files go where the test can see them; the cache stays that of the test run."""
    directory = tmp_path / "tmp"
    directory.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    yield directory
    assert list(directory.glob("selrel-*")) == []


@task
def double(value: int) -> int:
    artifact = create_progress_artifact(0.0, key="blocks")
    assert isinstance(artifact, UUID)
    update_progress_artifact(artifact, 100.0)
    return 2 * value


@flow(name="doubling")
def doubling(value: int) -> int:
    return double(value)


def test_a_flow_runs_on_it_and_nothing_stays(own_directories: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_KEY", "a-key-of-somewhere-else")
    outside = (PREFECT_API_URL.value(), PREFECT_HOME.value())
    mine = {process.pid for process in family(os.getpid())}
    meanwhile: list[str] = []
    with (
        pytest.raises(KeyError, match="ours"),
        temporary_server(meanwhile=lambda: meanwhile.append("imports")) as url,
    ):
        assert meanwhile == ["imports"]
        assert PREFECT_API_URL.value() == url
        assert PREFECT_API_KEY.value() is None
        assert PREFECT_HOME.value().is_relative_to(own_directories)
        assert get_current_settings().results.local_storage_path.is_relative_to(own_directories)
        assert doubling(21) == 42
        with get_client(sync_client=True) as client:
            assert [run.state_name for run in client.read_flow_runs()] == ["Completed"]
        assert httpx.post(f"{url}/flow_runs/filter", json={}).status_code == 401

        processes = [process for process in family(os.getpid()) if process.pid not in mine]
        addresses = listening_addresses(processes)
        assert addresses
        assert all(map(is_loopback, addresses))
        assert not any("selrel:" in part for process in processes for part in process.cmdline())
        raise KeyError("ours")
    assert (PREFECT_API_URL.value(), PREFECT_HOME.value()) == outside
    assert wait_until_gone(processes, timeout=5) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health")


def test_what_is_wrong_meanwhile_stops_it() -> None:
    def refuse() -> None:
        raise ValueError("no such checkpoint")

    with pytest.raises(ValueError, match="no such checkpoint"), temporary_server(meanwhile=refuse):
        pass


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"PREFECT_SERVER_DATABASE_CONNECTION_URL": "sqlite+aiosqlite:////proc/no/such/prefect.db"}
    environment = prefect_settings.environment_of_a_server
    monkeypatch.setattr(
        prefect_settings, "environment_of_a_server", lambda *args: environment(*args) | broken
    )
    monkeypatch.setattr(local_server, "_template_path", lambda: Path("/no/such/template"))
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/no/such/cache")
    with (
        pytest.raises(
            RuntimeError, match=r"stopped while starting; its log ends with:\n(.*\n)*.*unable to open"
        ),
        temporary_server(),
    ):
        pass


def test_a_server_that_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match=r"did not start within 0.01 s"), temporary_server(timeout=0.01):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP])
def test_a_flow_does_not_wait_for_a_server_that_is_lost_or_hangs(sent: signal.Signals) -> None:
    @standalone(name="losing")
    def losing() -> float:
        (server,) = (part for part in family(os.getpid()) if local_server.__file__ in part.cmdline())
        server.send_signal(sent)
        return time.monotonic()

    lost = losing()
    took = time.monotonic() - lost
    print(f"ended after {took:.1f} s")
    # Prefect itself waits a minute for an answer.
    assert took < 40


@pytest.mark.slow
@pytest.mark.parametrize("received", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_its_parent(received: signal.Signals, own_directories: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(own_directories)},
        start_new_session=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"up\n"
    processes = family(parent.pid)
    # The parent, its server, two workers and multiprocessing's resource tracker.
    assert len(processes) == 5
    assert all(map(is_loopback, listening_addresses(processes)))
    if received == signal.SIGINT:  # Ctrl-C reaches the whole group
        os.killpg(parent.pid, received)
    else:
        parent.send_signal(received)
    errors = parent.communicate(timeout=60)[1].decode()
    assert wait_until_gone(processes, timeout=10) == []
    if received == signal.SIGINT:
        assert list(own_directories.glob("selrel-*")) == []
        assert errors.count("Traceback") == 1, "only the process that was interrupted says so"
    with scratch_directory("dask"):
        pass  # sweeps what a killed cluster could not


PARENT = """
    import time
    from flows.serving.cluster import cluster
    from flows.serving.local_server import temporary_server

    if __name__ == "__main__":
        with temporary_server(), cluster(2, threads_per_worker=1):
            print("up", flush=True)
            time.sleep(60)
"""


@pytest.mark.slow
def test_the_schema_is_made_once_and_a_damaged_copy_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    with temporary_server():
        [template] = (cache / "selrel").iterdir()
    first = template.read_bytes()
    template.write_bytes(first[: len(first) // 2])
    with temporary_server():
        assert doubling(2) == 4
    assert len(template.read_bytes()) == len(first)
    made = template.stat().st_mtime_ns
    with temporary_server():
        assert doubling(3) == 6
    assert template.stat().st_mtime_ns == made
    assert [path.name for path in (cache / "selrel").iterdir()] == [template.name]
