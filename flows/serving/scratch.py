"""Temporary directories that are removed even after their owner was killed."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flows.serving.interrupts import uninterrupted
from flows.serving.local_server import cache_directory

PREFIX = "selrel-"
_LOCK_NAME = ".owner"
_SEMAPHORES = Path("/dev/shm")
# Prefect's database and its journal, Dask's certificates and locks.
_LEAST_FREE_BYTES = 50_000_000


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
def home_directory() -> Iterator[Path]:
    """Find a directory for what libraries keep between runs: the user's cache, or else a temporary one.

    An account may have no home, as an arbitrary user of a container has none; it is given one meanwhile.
    """
    try:
        Path.home()
    except RuntimeError:
        # As container engines do for a user who is in no list.
        os.environ["HOME"] = "/"
    cache = cache_directory()
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
        usable = os.access(cache, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if usable:
        yield cache
        return
    with scratch_directory("home") as directory:
        # Matplotlib would make a directory of its own, and say so.
        os.environ["MPLCONFIGDIR"] = str(directory)
        yield directory


@contextmanager
def _directory(kind: str) -> Iterator[Path]:
    _check_temporary_directory()
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}{kind}-*"):
        if _abandoned(left):
            for semaphore in _SEMAPHORES.glob(f"sem.{left.name}-*"):
                semaphore.unlink(missing_ok=True)
            shutil.rmtree(left, ignore_errors=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-"))
    lock = os.open(directory / _LOCK_NAME, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _check_temporary_directory() -> None:
    """Refuse a full or unusable one by name: what fails in it later does not know the variable."""
    given = os.environ.get("TMPDIR")
    # Empty, it is as good as unset.
    if given and not (os.path.isdir(given) and os.access(given, os.W_OK | os.X_OK)):
        raise ValueError(
            f"TMPDIR is {given}, where this user can't write: set it to a directory where it can, or unset it"
        )
    try:
        directory = tempfile.gettempdir()
    except FileNotFoundError:
        free = 0
        directory = given or "/tmp"
    else:
        free = shutil.disk_usage(directory).free
    if free < _LEAST_FREE_BYTES:
        raise ValueError(
            f"{directory}, for temporary files, has {free / 1e6:.0f} MB free, "
            f"{_LEAST_FREE_BYTES / 1e6:.0f} MB are needed: make room, or set TMPDIR to a directory with more"
        )


@contextmanager
def semaphores_of(directory: Path) -> Iterator[None]:
    """Name the semaphores that are made meanwhile after a scratch directory, to be swept with it.

    They lie in shared memory, for the processes that this one spawns; their tracker removes them, unless it
    is killed as well, as it is with a process group.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = config["semprefix"]
    config["semprefix"] = f"/{directory.name}"
    try:
        yield
    finally:
        config["semprefix"] = before


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
