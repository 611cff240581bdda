"""Ends what a process has started once that process has ended, however it ended.

Prefect's worker starts each flow run in a session of its own, so process groups do not hold them together.
What does is a mark in the environment, which every descendant inherits; a keeper process waits for the end of
its standard input, that is of its parent, and then ends everything that bears the mark.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import psutil  # type: ignore[import-untyped]

MARK = "KEPT_BY_SELREL"
_GRACE_S = 10.0


@contextmanager
def keeper() -> Iterator[str]:
    """Make a mark; every process whose environment variable ``MARK`` begins with it is ended.

    Yields
    ------
    str
        The mark's value.
    """
    mark = secrets.token_hex(8)
    process = subprocess.Popen(
        # -P: the directory of this file must not shadow top-level modules.
        [sys.executable, "-P", __file__, mark],
        stdin=subprocess.PIPE,
        # Ctrl-C is for the parent.
        start_new_session=True,
    )
    assert process.stdin is not None
    try:
        yield mark
    finally:
        process.stdin.close()
        process.wait()


def end(mark: str, *, grace: float = _GRACE_S) -> None:
    """End every process that bears a mark: by SIGTERM, and what is left after `grace` seconds by SIGKILL."""
    deadline = time.monotonic() + grace
    asked: set[int] = set()
    while left := marked(mark):
        late = time.monotonic() > deadline
        for process in left:
            with suppress(psutil.NoSuchProcess):
                if late:
                    process.kill()
                elif process.pid not in asked:
                    asked.add(process.pid)
                    process.terminate()
        psutil.wait_procs(left, timeout=0.2)


def marked(mark: str) -> Sequence[psutil.Process]:
    """The running processes that bear a mark, this one left out."""
    found = []
    for process in psutil.process_iter():
        # Other people's processes can't be read, and are none of ours.
        with suppress(psutil.Error, OSError):
            runs = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if runs and process.environ().get(MARK, "").startswith(mark):
                found.append(process)
    return found


if __name__ == "__main__":
    while os.read(sys.stdin.fileno(), 1024):
        pass
    end(sys.argv[1])
