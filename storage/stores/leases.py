"""Leases: one process at a time works on a data set or a run, on a disk and on S3 alike.

A lease is a small file that names its holder and is written again every few seconds. A holder that is silent
for long is taken for dead, though it may only have been suspended, or cut off from the store. Two at work at
once give the same results, each file whole, but they measure different times, and the receipt of the one
would not fit the times of the other. So a holder looks again before it goes on (`Lease.check`), and stops
if it was taken for dead.
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
from pathlib import Path
from typing import Any

from storage.forms import LEASE, checked
from storage.stores.root import Root

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
        Random, so that no two holders share one.
    host, pid : str, int
        Where it runs, for people.
    machine : str
        Equal for processes that can see each other; two containers may share a host name.
    beat : float
        When it last renewed the lease, in seconds since 1970.
    """

    token: str
    host: str
    pid: int
    machine: str
    beat: float

    @property
    def is_gone(self) -> bool:
        """Whether it has been silent for long, or was on this machine and no longer runs."""
        if time.time() - self.beat > STALE_S:
            return True
        if self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def __str__(self) -> str:
        """Where it runs, for people."""
        return f"process {self.pid} on {self.host}"


class LostLease(RuntimeError):
    """Another process took this one for dead and now does its work."""


@dataclass(frozen=True)
class Lease:
    """A lease that this process holds, or held.

    Parameters
    ----------
    root, path
        Where it lies.
    token : str
        That of its holder.
    """

    root: Root
    path: str
    token: str

    def check(self) -> None:
        """Read the lease again.

        Raises
        ------
        LostLease
            If this process does not hold it any more.
        """
        holder = read_holder(self.root, self.path)
        if not _is_held_by(self.token, holder):
            now = f"held by {holder}" if holder else "gone"
            raise LostLease(
                f"{self.root.join(self.path)} is {now}: another process took over, since this one was silent "
                f"for {STALE_S:g} s (was it suspended, or cut off from the store?); start the same command "
                "again, it waits for the other one and does only what is missing"
            )


@contextmanager
def lease(root: Root, path: str, *, on_wait: Callable[[Holder], object] = lambda _: None) -> Iterator[Lease]:
    """Hold the lease at a path; wait as long as another living process holds it.

    Parameters
    ----------
    root, path
        Where the lease lies.
    on_wait : callable
        Called once with the holder, if there is one to wait for.

    Yields
    ------
    Lease
        Whose `check` tells whether it is still held.
    """
    token = uuid.uuid4().hex
    told = False
    while not _take(root, path, token):
        holder = read_holder(root, path)
        if holder is not None and not told:
            on_wait(holder)
            told = True
        time.sleep(_POLL_S)
    stopped = threading.Event()
    beating = (replace(root, patient=False), path, token, stopped)
    heart = threading.Thread(target=_beat, args=beating, daemon=True)
    heart.start()
    try:
        yield Lease(root, path, token)
    finally:
        stopped.set()
        heart.join()
        at_once = replace(root, patient=False)
        try:
            if _is_held_by(token, read_holder(at_once, path)):
                at_once.delete(path)
        except Exception as error:
            # Nobody waits longer for it than for that of a process that was killed.
            _log.debug("%s not released", root.join(path), exc_info=error)


def read_holder(root: Root, path: str) -> Holder | None:
    """Read who holds a lease; None if nobody does, or the file says nothing sensible."""
    try:
        return Holder(**checked(LEASE, root.read_json(path), root.join(path)))
    except (FileNotFoundError, ValueError, TypeError):
        return None


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
                _log.warning("%s: another process took over; this one stops soon", root.join(path))
                return
            root.write_json(path, _mine(token))
        except Exception as error:
            # The work itself will meet the same trouble and report it.
            _log.debug("%s not renewed", root.join(path), exc_info=error)


def _mine(token: str) -> dict[str, Any]:
    return asdict(Holder(token, socket.gethostname(), os.getpid(), _machine(), time.time()))


def _machine() -> str:
    """Within what a process number is unique: one boot of a machine and, on Linux, one PID namespace."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return socket.gethostname()


def _is_held_by(token: str, holder: Holder | None) -> bool:
    return holder is not None and holder.token == token
