"""Leases: one process at a time works on a data set or a run, on a disk and on S3 alike.

A lease is a small file that names its holder and is written again every few seconds. Work never depends
on it being exact: two processes that both think they hold it write the same bytes to the same files,
each whole. It only spares them doing so.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from storage.layout import Root

BEAT_S = 10.0
# Six missed beats, and clocks that differ a little.
STALE_S = 60.0
_POLL_S = 2.0
# Until then a writer on S3 that looked at the same time has written too.
_SETTLE_S = 1.0
_log = logging.getLogger("selrel")


@dataclass(frozen=True)
class Holder:
    """The process that holds a lease.

    Parameters
    ----------
    token : str
        Its own, made up.
    host, pid : str, int
        Where it runs.
    beat : float
        When it last said that it does, in seconds since 1970.
    """

    token: str
    host: str
    pid: int
    beat: float

    @property
    def is_gone(self) -> bool:
        """Whether it has not been heard of for long, or was on this machine and is not any more."""
        silent = time.time() - self.beat > STALE_S
        return silent or (self.host == socket.gethostname() and not _runs(self.pid))

    def __str__(self) -> str:
        """Where it runs, for people."""
        return f"process {self.pid} on {self.host}"


@contextmanager
def lease(root: Root, path: str, *, on_wait: Callable[[Holder], object] = lambda _: None) -> Iterator[None]:
    """Hold the lease at a path; wait as long as another living process holds it.

    Parameters
    ----------
    root, path
        Where the lease lies.
    on_wait : callable
        Called once with the holder, if there is one to wait for.
    """
    token = uuid.uuid4().hex
    _acquire(root, path, token, on_wait)
    stopped = threading.Event()
    beating = (replace(root, patient=False), path, token, stopped)
    heart = threading.Thread(target=_beat, args=beating, daemon=True)
    heart.start()
    try:
        yield
    finally:
        stopped.set()
        heart.join()
        _release(replace(root, patient=False), path, token)


def read_holder(root: Root, path: str) -> Holder | None:
    """Read who holds a lease; None if nobody does, or the file says nothing sensible."""
    try:
        return Holder(**root.read_json(path))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _acquire(root: Root, path: str, token: str, on_wait: Callable[[Holder], object]) -> None:
    told = False
    while not _take(root, path, token):
        holder = read_holder(root, path)
        if holder is not None and not told:
            on_wait(holder)
            told = True
        time.sleep(_POLL_S)


def _take(root: Root, path: str, token: str) -> bool:
    holder = read_holder(root, path)
    if holder is not None and not holder.is_gone:
        return False
    created = root.create_bytes(path, json.dumps(_mine(token)).encode())
    if created and root.is_local:
        return True
    if not created:
        # What is there was left by a holder that is gone.
        if read_holder(root, path) != holder:
            return False
        root.write_json(path, _mine(token))
    time.sleep(_SETTLE_S)
    return _is_held_by(token, read_holder(root, path))


def _beat(root: Root, path: str, token: str, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT_S):
        try:
            if not _is_held_by(token, read_holder(root, path)):
                _log.warning("%s: another process took over; both write the same", root.join(path))
                return
            root.write_json(path, _mine(token))
        except Exception as error:
            # The work itself will meet the same trouble, and tell.
            _log.debug("%s not renewed", root.join(path), exc_info=error)


def _release(root: Root, path: str, token: str) -> None:
    try:
        if _is_held_by(token, read_holder(root, path)):
            root.delete(path)
    except Exception as error:
        # Nobody waits longer for it than for that of a process that was killed.
        _log.debug("%s not released", root.join(path), exc_info=error)


def _mine(token: str) -> dict[str, Any]:
    return asdict(Holder(token, socket.gethostname(), os.getpid(), time.time()))


def _is_held_by(token: str, holder: Holder | None) -> bool:
    return holder is not None and holder.token == token


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
