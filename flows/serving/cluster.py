"""Dask clusters for the fan-out: local worker processes, or an existing scheduler."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import dask
import torch
from distributed import Client, LocalCluster, Nanny, Security, Status, Worker, WorkerPlugin
from tornado.ioloop import PeriodicCallback

from flows.serving.interrupts import uninterrupted
from flows.serving.prefect_settings import environment_of_a_worker, import_prefect
from flows.serving.scratch import scratch_directory, semaphores_of
from storage.environment import changed_environment
from tasks.versions import differences, versions

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_MAX_THREADS",
)
# Where a worker leaves word for the process that started it.
_STARTED_FROM = "SELREL_STARTED_FROM"
_UNGUARDED = "unguarded"
_GUARD = (
    "the script that starts this run is run again by each of its workers: put the call below the line "
    '`if __name__ == "__main__":`'
)
# Names by which a script finds out whether it is run by a worker.
_LOOKS = {"__name__", "current_process", "parent_process"}
_GPUS = "CUDA_VISIBLE_DEVICES"
_LOOK_S = 5.0
_GRACE_S = 0.5
_CERTIFICATES = ("distributed.comm.tls.ca-file", "distributed.comm.tls.client.cert")
# What is only for a dashboard, and goes on without one; the profiler slows a worker down by up to a tenth.
_UNWATCHED: dict[str, object] = {
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "10s",
}


class ThreadLimit(WorkerPlugin):
    """Give the arithmetic of a worker a fixed number of threads.

    The environment variables reach OpenMP and BLAS, not OpenCV's own pool.

    Parameters
    ----------
    threads : int
        Threads of torch and of OpenCV in each worker process.
    """

    name = "selrel-thread-limit"

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def setup(self, worker: Worker) -> None:
        """Set the limits in the worker's process; called by Dask, again after a restart."""
        import_prefect()
        import cv2
        import torch

        torch.set_num_threads(self.threads)
        cv2.setNumThreads(self.threads)


class SameVersions(WorkerPlugin):
    """Send away a worker that joins later with other code or packages: its blocks would be other results.

    Parameters
    ----------
    wanted : dict of str to str
        The client's `tasks.versions.versions`.
    """

    name = "selrel-same-versions"

    def __init__(self, wanted: dict[str, str]) -> None:
        self.wanted = wanted

    async def setup(self, worker: Worker) -> None:
        """Close the worker if it differs; called by Dask, before its first block."""
        if found := differences(self.wanted, versions()):
            logging.getLogger("distributed.worker").error("selrel: this worker is sent away: %s", found)
            await worker.close(reason="selrel-other-versions")


class OtherVersions(RuntimeError):
    """Workers with other code or packages than the client."""


def check_versions(client: Client, address: str) -> None:
    """Compare this process's code and packages with those of every worker.

    Raises
    ------
    OtherVersions
        If a worker differs, or lacks the project; the message names both versions.
    """
    try:
        found: dict[str, dict[str, str]] = client.run(versions)
    except ImportError as error:
        raise OtherVersions(
            f"a worker of {address} can't import this project ({error}): install selrel "
            f"{versions()['selrel']} there, into the environment that `dask worker` runs in"
        ) from error
    for worker, there in found.items():
        if differing := differences(versions(), there):
            raise OtherVersions(
                f"the worker {worker} differs: {differing}; install the same version on both, and start the "
                "worker again"
            )


@contextmanager
def cluster(
    workers: int | None = None,
    *,
    threads_per_worker: int | None = None,
    scheduler: str | None = None,
    insecure: bool = False,
    timeout: float = 60.0,
) -> Iterator[Client]:
    """Open a Dask client on a private local cluster, or on an existing scheduler.

    The local cluster is one process a worker, each running one block at a time, spawned (never forked),
    listening on loopback only, with certificates of its own (another user of this machine can't submit code),
    without a dashboard and without Dask's memory limits, which would pause or kill a worker in the middle of
    a block. Its workers exit by themselves when this process dies, however it dies. As with any spawned
    process, a script that uses it needs ``if __name__ == "__main__":``.

    Parameters
    ----------
    workers : int, optional
        Worker processes of the local cluster; by default one for each GPU, or, where there is none, for each
        CPU that this process may use. Each sees one GPU only.
    threads_per_worker : int, optional
        Threads of torch, OpenCV and BLAS inside each worker; by default the CPUs divided by the workers.
    scheduler : str, optional
        Address of an existing scheduler, such as ``tls://host:8786``; no cluster is started then, and
        `workers` and `threads_per_worker` must be None. Certificates come from Dask's own configuration
        (``distributed.comm.tls``).
    insecure : bool
        Accept an unencrypted `scheduler` on another machine.
    timeout : float
        Seconds to wait for the scheduler and its first worker.

    Yields
    ------
    distributed.Client
        Connected, with at least one worker.

    Raises
    ------
    ValueError
        If a number is below 1, or `scheduler` is malformed, unencrypted and not on loopback, or given
        together with settings of a local cluster.
    ConnectionError
        If no scheduler or no worker answers in time.
    OtherVersions
        If a worker of an existing scheduler has other code or packages.
    """
    check_cluster(workers, threads_per_worker=threads_per_worker, scheduler=scheduler, insecure=insecure)
    if scheduler is not None:
        with _existing_cluster(scheduler, timeout) as client:
            yield client
        return
    processes, threads = local_size(workers)
    threads = threads_per_worker or threads
    with (
        scratch_directory("dask") as directory,
        uninterrupted(_starting_cluster(processes, threads, timeout, directory)) as client,
    ):
        deadline = time.monotonic() + timeout
        while True:
            try:
                client.wait_for_workers(processes, timeout=1)
                break
            except TimeoutError:
                if (directory / _UNGUARDED).exists():
                    raise RuntimeError(_GUARD) from None
                if time.monotonic() > deadline:
                    raise
        client.register_plugin(ThreadLimit(threads))
        yield client


def local_size(workers: int | None = None) -> tuple[int, int]:
    """Worker processes of a local cluster, and the threads of each: one process a GPU, or else a CPU."""
    processes = workers or torch.cuda.device_count() or _cpus()
    return processes, max(1, _cpus() // processes)


def gpu_of_worker(worker: int, visible: Sequence[str]) -> str | None:
    """What a worker's ``CUDA_VISIBLE_DEVICES`` says: its own GPU, in turn; None where there is none."""
    return visible[worker % len(visible)] if visible else None


def visible_gpus(count: int, chosen: str | None) -> list[str]:
    """Names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them.

    Parameters
    ----------
    count : int
        How many CUDA finds.
    chosen : str or None
        This process's own ``CUDA_VISIBLE_DEVICES``.
    """
    names = [name.strip() for name in chosen.split(",")] if chosen else [str(gpu) for gpu in range(count)]
    return names[:count]


@contextmanager
def in_process() -> Iterator[Client]:
    """Open a Dask client whose one worker is a thread of this process: for a trial, not for a run."""
    with (
        dask.config.set(_defaults()),
        dask.config.set(_UNWATCHED),
        LocalCluster(n_workers=1, processes=False, **_on_loopback()) as local,
        Client(local) as client,
    ):
        yield client


def check_cluster(
    workers: int | None = None,
    *,
    threads_per_worker: int | None = None,
    scheduler: str | None = None,
    insecure: bool = False,
) -> None:
    """Refuse what `cluster` would refuse, before anything is started."""
    for name, value in (("workers", workers), ("threads per worker", threads_per_worker)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}: give 1 or more")
    if scheduler is None:
        # A script that never looks whether a worker runs it would start a run in each of them.
        script = sys.modules["__main__"]
        frame: FrameType | None = sys._getframe() if getattr(script, "__file__", None) is not None else None
        while frame is not None:
            if frame.f_globals is vars(script) and frame.f_code.co_name == "<module>":
                if not _LOOKS.intersection(frame.f_code.co_names):
                    raise RuntimeError(_GUARD)
                return
            frame = frame.f_back
        return
    if workers is not None or threads_per_worker is not None:
        raise ValueError(
            f"workers and threads per worker can't be set on an existing scheduler ({scheduler}): "
            "its workers decide; leave them out, or leave out the scheduler"
        )
    _check_address(scheduler, insecure)


def refuse_unguarded_script() -> None:
    """Refuse to start a run in a worker that is only just starting, and tell the process that started it.

    A spawned process runs its parent's script again, up to ``if __name__ == "__main__":``.

    Raises
    ------
    RuntimeError
        If this process is such a worker.
    """
    # What multiprocessing itself checks before it lets such a process start another.
    if not getattr(multiprocessing.current_process(), "_inheriting", False):
        return
    if directory := os.environ.get(_STARTED_FROM):
        Path(directory, _UNGUARDED).touch()
    raise RuntimeError(_GUARD)


@contextmanager
def _starting_cluster(workers: int, threads: int, timeout: float, directory: Path) -> Iterator[Client]:
    """Start a scheduler and order its workers, which take seconds to start."""
    variables = {name: str(threads) for name in THREAD_VARIABLES} | {_STARTED_FROM: str(directory)}
    settings: dict[str, object] = {
        # The scheduler's as well, which takes no directory of its own.
        "temporary-directory": str(directory),
        # A zarr array on S3 that was opened before a fork hangs in the child.
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.nanny.pre-spawn-environ": variables,
        # A worker that is started again on a busy machine takes long; after this Dask closes it for good.
        "distributed.deploy.lost-worker-timeout": "300s",
        **_UNWATCHED,
    }
    with (
        dask.config.set(_defaults()),
        dask.config.set(settings),
        changed_environment(environment_of_a_worker(variables)),
        semaphores_of(directory),
        _start_local(workers) as local,
        Client(local, timeout=timeout) as client,
    ):
        yield client


class _OneGpuEach(LocalCluster):
    """A local cluster whose workers see a GPU each; those that are started again get the same one."""

    def new_worker_spec(self) -> dict[int, dict[str, Any]]:
        """Describe the next worker; called by Dask."""
        visible = visible_gpus(torch.cuda.device_count(), os.environ.get(_GPUS))
        specs: dict[int, dict[str, Any]] = super().new_worker_spec()  # type: ignore[no-untyped-call]
        for worker, spec in specs.items():
            if (gpu := gpu_of_worker(worker, visible)) is not None:
                # Not in place: Dask gives all workers the same object.
                specs[worker] = {**spec, "options": {**spec["options"], "env": {_GPUS: gpu}}}
        return specs


@contextmanager
def _start_local(workers: int) -> Iterator[LocalCluster]:
    with _OneGpuEach(  # type: ignore[no-untyped-call]
        n_workers=0,
        processes=True,
        worker_class=Nanny,
        **_on_loopback(),
    ) as local:
        # Ctrl-C reaches every process of a terminal, but from the first moment on only this one may obey it.
        # Started first, since Python unblocks the signal when it starts its resource tracker.
        resource_tracker.ensure_running()
        loop = local.loop
        assert loop is not None
        loop.add_callback(signal.pthread_sigmask, signal.SIG_BLOCK, {signal.SIGINT})
        local.scale(workers)
        try:
            with _replacing(local, workers):
                yield local
        except BaseException:
            # Dask would wait four seconds for blocks that are done again anyway.
            ends = [nanny.close(timeout=_GRACE_S) for nanny in local.workers.values()]
            local.sync(asyncio.gather, *ends, return_exceptions=True)
            raise


@contextmanager
def _replacing(local: LocalCluster, workers: int) -> Iterator[None]:
    """Replace workers that Dask gave up, as it does with one that dies again while it starts."""

    def replace() -> None:
        for name, nanny in list(local.workers.items()):
            if nanny.status in (Status.closed, Status.failed):
                del local.workers[name]
        local.scale(workers)

    loop = local.loop
    assert loop is not None
    look = PeriodicCallback(replace, 1000 * _LOOK_S)
    loop.add_callback(look.start)
    try:
        yield
    finally:
        loop.add_callback(look.stop)


def _on_loopback() -> dict[str, Any]:
    """What every cluster of our own is given, whether its worker is a process or a thread of this one."""
    return {
        "threads_per_worker": 1,
        "host": "127.0.0.1",
        "protocol": "tls://",
        "security": Security.temporary(),
        "dashboard_address": None,
        "worker_dashboard_address": None,
        "memory_limit": 0,
        "scheduler_kwargs": {
            # One death is enough to hand the block back: `tasks.running.fanout` decides what to try again.
            "allowed_failures": 0,
            # Its web server starts without a dashboard too, by default on all interfaces.
            "dashboard_address": "127.0.0.1:0",
        },
        "silence_logs": logging.CRITICAL,
    }


def _defaults() -> dict[str, object]:
    """Dask's configuration without a user's own, whose files and variables are for other clusters."""
    defaults: dict[str, object] = dask.config.merge(*dask.config.defaults)
    return {"scheduler": None, **defaults}


@contextmanager
def _existing_cluster(address: str, timeout: float) -> Iterator[Client]:
    try:
        client = Client(address, timeout=timeout)
    except OSError as error:
        raise ConnectionError(
            f"no Dask scheduler answers at {address} within {timeout:g} s: start one with `dask scheduler`, "
            "or correct the address"
        ) from error
    with client:
        if not client.nthreads():
            for name in client.get_metadata(SameVersions.name, {}):
                _unregister(client, name)
        try:
            client.wait_for_workers(1, timeout=timeout)
        except TimeoutError as error:
            raise ConnectionError(
                f"the Dask scheduler at {address} has no worker after {timeout:g} s: "
                f"start one with `dask worker {address}`"
            ) from error
        check_versions(client, address)
        # Workers of other versions are sent away until the client leaves, each client by a plugin of its own.
        name = f"{SameVersions.name}-{client.id}"
        client.set_metadata([SameVersions.name, name], True)
        client.register_plugin(SameVersions(versions()), name=name)
        try:
            yield client
        finally:
            if client.status == "running":
                _unregister(client, name)


def _unregister(client: Client, name: str) -> None:
    # A lost scheduler (OSError), a plugin that is gone, or one that a dying worker never had.
    with contextlib.suppress(OSError, ValueError, KeyError):
        client.unregister_worker_plugin(name)


def _check_address(address: str, insecure: bool) -> None:
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None
    host = parts.hostname
    if parts.scheme not in ("tcp", "tls") or not host or not port:
        raise ValueError(f"scheduler address {address!r}: give tls://HOST:PORT, or tcp://127.0.0.1:PORT")
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost"
    if parts.scheme == "tcp" and not insecure and not is_here:
        raise ValueError(
            f"scheduler address {address!r} is neither encrypted nor on this machine: anyone on that network "
            "could run code on the workers; use tls://, or allow it with --insecure"
        )
    if parts.scheme == "tls":
        given = {name: dask.config.get(name, None) or "" for name in _CERTIFICATES}
        # A file or, as Dask allows, the text of one.
        absent = [name for name, file in given.items() if "\n" not in file and not os.path.isfile(file)]
        if absent:
            variables = (f"DASK_{name.upper().replace('-', '_').replace('.', '__')}" for name in absent)
            raise ValueError(
                f"scheduler address {address!r} needs certificates: set {', '.join(absent)} in Dask's "
                f"configuration to a file, or {', '.join(variables)} in the environment"
            )


def _cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
