"""Temporary directories that are removed even after their owner was killed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.interrupts import uninterrupted

PREFIX = "selrel-"
_LOCK_NAME = ".owner"


@contextmanager
def scratch_directory(kind: str) -> Iterator[Path]:
    """Make a private temporary directory, and remove it on the way out, whenever Ctrl-C is pressed.

    Directories of this kind whose owner is gone (killed before it could tidy up) are removed first: an owner
    holds a lock on its directory, and the system drops that lock with the owner's last process.

    Parameters
    ----------
    kind : str
        What the directory is for; part of its name.

    Yields
    ------
    Path
        A new, empty directory that only this user can read.
    """
    with uninterrupted(_directory(kind)) as directory:
        yield directory


@contextmanager
def _directory(kind: str) -> Iterator[Path]:
    _sweep(kind)
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-"))
    lock = os.open(directory / _LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _sweep(kind: str) -> None:
    for directory in Path(tempfile.gettempdir()).glob(f"{PREFIX}{kind}-*"):
        if _abandoned(directory):
            shutil.rmtree(directory, ignore_errors=True)


def _abandoned(directory: Path) -> bool:
    """Whether `directory` is ours and nobody holds its lock."""
    try:
        if directory.is_symlink() or directory.stat().st_uid != os.getuid():
            return False
        # A directory without a lock file may be one that another process is just making.
        lock = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(lock)
