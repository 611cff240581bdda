"""A Dask scheduler and workers as separate processes, as a team would start them, for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.servers import free_port


@contextmanager
def dask_processes(
    *, workers: int = 1
) -> Iterator[tuple[str, subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """Start `dask scheduler` and `dask worker` on loopback; give the address and the processes."""
    address = f"tcp://127.0.0.1:{free_port()}"
    started: list[subprocess.Popen[bytes]] = []
    try:
        scheduler = _start(started, "scheduler", "--host", address, "--no-dashboard", "--no-show")
        _wait_for(int(address.rpartition(":")[2]), scheduler)
        options = (
            "--host",
            "127.0.0.1",
            "--nthreads",
            "1",
            "--memory-limit",
            "0",
            "--no-nanny",
            "--no-dashboard",
        )
        for _ in range(workers):
            _start(started, "worker", address, *options)
        yield address, scheduler, started[1:]
    finally:
        _stop(started)


def _start(started: list[subprocess.Popen[bytes]], command: str, *options: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{command}", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"},
    )
    started.append(process)
    return process


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert process.poll() is None, "the Dask scheduler stopped while starting"
            assert time.monotonic() < deadline, "the Dask scheduler does not listen"
            time.sleep(0.05)


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + 10
    for process in processes:
        try:
            process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
