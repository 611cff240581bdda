"""Spread blocks over a Dask cluster, a bounded number at a time."""

from __future__ import annotations

import logging
import queue
import time
import uuid
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from distributed import Client, Future, KilledWorker, default_client

Block = TypeVar("Block", bound=Hashable)
Result = TypeVar("Result")

_HEARTBEAT_S = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FanoutReport(Generic[Block]):
    """What became of the blocks.

    Attributes
    ----------
    done : int
        Number of blocks that finished.
    failed : dict
        The blocks that did not, each with its last reason in one line.
    killers : dict
        Those of `failed` that killed their workers to the last.
    """

    done: int
    failed: dict[Block, str]
    killers: dict[Block, str]


def run_blocks(
    client: Client,
    function: Callable[[Block], Result],
    blocks: Iterable[Block],
    *,
    window_per_worker: int = 2,
    attempts: int = 3,
    on_done: Callable[[Block, Result], None] | None = None,
    on_retry: Callable[[Block, str], None] | None = None,
    name: str | None = None,
    no_worker_timeout: float = 300.0,
    fatal: tuple[type[Exception], ...] = (),
) -> FanoutReport[Block]:
    """Run `function` once for every block on the cluster's workers.

    At most `window_per_worker` blocks a worker thread are submitted at any time, so neither this process nor
    the scheduler grows with the number of blocks. A block that raises, or whose worker dies, is submitted
    again; after `attempts` it is reported as failed and the others go on.

    A dying worker takes down every block that was waiting on it, the innocent ones too. So a block is given
    up for killing workers only after a last attempt on which it had the cluster to itself.

    Parameters
    ----------
    client : distributed.Client
        Connected to the cluster.
    function : callable
        Called with one block in a worker. It must be picklable, small, and safe to repeat for the same block;
        it returns something small: paths and counts, never arrays.
    blocks : iterable of hashable
        Distinct blocks. Consumed as they are submitted.
    window_per_worker : int
        Blocks submitted for each worker thread.
    attempts : int
        How often a block is tried.
    on_done : callable, optional
        Called here with ``(block, result)`` as each block finishes, in the order in which they finish.
    on_retry : callable, optional
        Called here with ``(block, reason)`` when a block failed and will be tried again.
    name : str, optional
        First part of the Dask keys ``<name>-<block>-<attempt>``. It must differ between calls that share a
        scheduler; by default the function's name and a random part.
    no_worker_timeout : float
        Seconds without any worker after which the call gives up.
    fatal : tuple of exception types
        What no further attempt can mend and no other block should go on after: raised here at once.

    Returns
    -------
    FanoutReport

    Raises
    ------
    ValueError
        If `window_per_worker` or `attempts` is below 1, or a block comes again while it is running.
    ConnectionError
        If the scheduler is lost, or no worker is left for `no_worker_timeout` seconds.
    Exception
        Whatever a callback raises, or iterating over `blocks`, or what is `fatal`. Everything submitted is
        cancelled first.
    """
    if window_per_worker < 1 or attempts < 1:
        raise ValueError(
            f"window per worker is {window_per_worker} and attempts is {attempts}: both must be 1 or more"
        )
    fanout = _Fanout(
        client,
        function,
        prefix=name or f"{getattr(function, '__name__', 'block')}-{uuid.uuid4().hex[:8]}",
        per_thread=window_per_worker,
        attempts=attempts,
        no_worker_timeout=no_worker_timeout,
        fatal=fatal,
    )
    return fanout.run(blocks, on_done=on_done or _ignore, on_retry=on_retry or _ignore)


def current_client() -> Client:
    """Return the client that the flow has opened in this process (`flows.serving.cluster.cluster`)."""
    client: Client = default_client()
    return client


def threads(client: Client) -> int:
    """Count the blocks that the workers can do at a time."""
    return sum(client.nthreads().values())


@dataclass(frozen=True)
class _Attempt(Generic[Block]):
    """A block on its way: which try this is, and whether it has the cluster to itself."""

    block: Block
    number: int = 1
    alone: bool = False


class _Fanout(Generic[Block, Result]):
    """The blocks that are with the scheduler now, and those that must go there again."""

    def __init__(
        self,
        client: Client,
        function: Callable[[Block], Result],
        *,
        prefix: str,
        per_thread: int,
        attempts: int,
        no_worker_timeout: float,
        fatal: tuple[type[Exception], ...],
    ) -> None:
        self.client = client
        self.fatal = fatal
        self.function = function
        self.prefix = prefix
        self.per_thread = per_thread
        self.attempts = attempts
        self.running: dict[str, tuple[_Attempt[Block], Future[Result]]] = {}
        self.finished: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.again: deque[_Attempt[Block]] = deque()
        self.suspects: deque[_Attempt[Block]] = deque()
        self.done = 0
        self.failed: dict[Block, str] = {}
        self.killers: dict[Block, str] = {}
        self.threads = _Threads(client, no_worker_timeout)

    def run(
        self,
        blocks: Iterable[Block],
        *,
        on_done: Callable[[Block, Result], object],
        on_retry: Callable[[Block, str], object],
    ) -> FanoutReport[Block]:
        fresh = map(_Attempt, blocks)
        try:
            self._fill(fresh)
            while self.running:
                try:
                    key = self.finished.get(timeout=_HEARTBEAT_S)
                except queue.Empty:
                    self.threads.check()
                    continue
                self._settle(*self.running.pop(key), on_done, on_retry)
                self._fill(fresh)
        except OSError as error:
            # What Dask raises when the connection breaks in the middle of a call.
            self.threads.check_scheduler(error)
            raise
        finally:
            futures = [future for _, future in self.running.values()]
            self.running.clear()
            if futures and self.client.status == "running":
                self.client.cancel(futures, force=True)
        return FanoutReport(self.done, self.failed, self.killers)

    def _fill(self, fresh: Iterator[_Attempt[Block]]) -> None:
        limit = self.per_thread * max(1, self.threads.count())
        while len(self.running) < limit:
            attempt = self.again.popleft() if self.again else next(fresh, None)
            if attempt is None and self.suspects and not self.running:
                attempt = self.suspects.popleft()
            if attempt is None:
                return
            # The scheduler answers a key it still holds with the old outcome, so each attempt has its own.
            key = f"{self.prefix}-{attempt.block}-{attempt.number}"
            if key in self.running:
                raise ValueError(f"block {attempt.block!r} comes twice: give distinct blocks")
            future = self.client.submit(self.function, attempt.block, key=key, pure=False)
            self.running[key] = (attempt, future)
            future.add_done_callback(lambda _, key=key: self.finished.put(key))

    def _settle(
        self,
        attempt: _Attempt[Block],
        future: Future[Result],
        on_done: Callable[[Block, Result], object],
        on_retry: Callable[[Block, str], object],
    ) -> None:
        try:
            result = future.result()
        except self.fatal:
            raise
        except Exception as error:
            self.threads.check_scheduler(error)
            _log.debug("block %r failed, attempt %d", attempt.block, attempt.number, exc_info=error)
            killed = isinstance(error, KilledWorker)
            lines = ["its worker process died (killed, out of memory, or crashed)"]
            if not killed:
                lines = [f"{type(error).__name__}: {line}" for line in str(error).strip().splitlines()]
            reason = lines[0] if lines else type(error).__name__
            if attempt.number >= self.attempts and (attempt.alone or not killed):
                self.failed[attempt.block] = reason
                if killed:
                    self.killers[attempt.block] = f"{reason}, {attempt.number} times"
                return
            alone = attempt.alone or (killed and attempt.number >= self.attempts - 1)
            retry = _Attempt(attempt.block, attempt.number + 1, alone)
            (self.suspects if alone else self.again).append(retry)
            on_retry(attempt.block, reason)
        else:
            self.done += 1
            on_done(attempt.block, result)
        finally:
            # Dask would repeat a finished block if its worker died while the result is still wanted.
            future.release()


class _Threads:
    """How many worker threads the cluster has, asked at most every few seconds."""

    def __init__(self, client: Client, no_worker_timeout: float) -> None:
        self.client = client
        self.no_worker_timeout = no_worker_timeout
        self.last = 0
        self.asked_at = self.seen_at = time.monotonic()

    def count(self) -> int:
        now = time.monotonic()
        if self.last == 0 or now - self.asked_at > _HEARTBEAT_S:
            self.last = threads(self.client)
            self.asked_at = now
            if self.last:
                self.seen_at = now
        return self.last

    def check(self) -> None:
        """Raise when the scheduler is lost or the workers have been gone for too long."""
        self.check_scheduler()
        if self.count() == 0 and time.monotonic() - self.seen_at > self.no_worker_timeout:
            raise ConnectionError(
                f"no Dask worker for {self.no_worker_timeout:g} s: start workers, then start the run again"
            )

    def check_scheduler(self, cause: Exception | None = None) -> None:
        """Raise when the scheduler is lost."""
        if self.client.status != "running":
            raise ConnectionError(
                "the Dask scheduler is gone: start the run again, it goes on where it stopped"
            ) from cause


def _ignore(*_: object) -> None:
    return None
