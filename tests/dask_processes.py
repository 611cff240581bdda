"""A Dask scheduler and workers as separate processes, as a team would start them, for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distributed import Security

from tests.servers import free_port


@contextmanager
def dask_processes(
    *, workers: int = 1, certificates: Path | None = None, code: Path | None = None
) -> Iterator[tuple[str, subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """Start `dask scheduler` and `dask worker` on loopback; give the address and the processes.

    With a directory of `write_certificates`, all of them speak TLS. The workers import the project from
    `code`, a copy of this repository, where one is given.
    """
    address = f"{'tls' if certificates else 'tcp'}://127.0.0.1:{free_port()}"
    started: list[subprocess.Popen[bytes]] = []
    tls = tls_options(certificates) if certificates else ()
    try:
        scheduler = _start(started, "scheduler", "--host", address, "--no-dashboard", "--no-show", *tls)
        _wait_for(int(address.rpartition(":")[2]), scheduler)
        for _ in range(workers):
            start_worker(started, address, *tls, code=code)
        yield address, scheduler, started[1:]
    finally:
        _stop(started)


def write_certificates(directory: Path) -> dict[str, object]:
    """Write a certificate that vouches for itself, and give Dask's settings for a client that knows it."""
    security = Security.temporary()
    _certificate(directory).write_text(security.tls_client_cert)
    _key(directory).write_text(security.tls_client_key)
    certificate, key = str(_certificate(directory)), str(_key(directory))
    return {
        "distributed.comm.tls.ca-file": certificate,
        "distributed.comm.tls.client": {"cert": certificate, "key": key},
    }


def tls_options(directory: Path) -> tuple[str, ...]:
    """Options of `dask scheduler` and `dask worker` for that certificate."""
    certificate, key = str(_certificate(directory)), str(_key(directory))
    return ("--tls-ca-file", certificate, "--tls-cert", certificate, "--tls-key", key)


def _certificate(directory: Path) -> Path:
    return directory / "certificate.pem"


def _key(directory: Path) -> Path:
    return directory / "key.pem"


def start_worker(
    started: list[subprocess.Popen[bytes]], address: str, *tls: str, code: Path | None = None
) -> None:
    """Start one more worker of a scheduler, and add it to the processes."""
    options = ("--nthreads", "1", "--memory-limit", "0", "--no-nanny", "--no-dashboard")
    _start(started, "worker", address, "--host", "127.0.0.1", *options, *tls, code=code)


def _start(
    started: list[subprocess.Popen[bytes]], command: str, *options: str, code: Path | None = None
) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", f"distributed.cli.dask_{command}", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
        | ({"PYTHONPATH": str(code)} if code else {}),
        # `-m` puts the working directory before everything else on the import path.
        cwd=code,
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
