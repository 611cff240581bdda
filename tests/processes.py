"""What is asked of processes in tests: their listening sockets, and whether they are gone."""

from __future__ import annotations

import contextlib
import ipaddress
import time
from collections.abc import Iterable

import psutil


def family(pid: int) -> list[psutil.Process]:
    """The process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def listening_addresses(processes: Iterable[psutil.Process]) -> list[str]:
    """The IP addresses on which any of the processes listens."""
    addresses = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            addresses += [
                connection.laddr.ip
                for connection in process.net_connections(kind="inet")
                if connection.status == psutil.CONN_LISTEN
            ]
    return addresses


def is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address).is_loopback


def wait_until_gone(processes: Iterable[psutil.Process], *, timeout: float) -> list[psutil.Process]:
    """Those of the processes that still run after `timeout` seconds; a zombie does not run."""
    deadline = time.monotonic() + timeout
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [process for process in left if _runs(process)]
        time.sleep(0.05)
    return left


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
