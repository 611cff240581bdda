"""One file of a disk, below a directory that somebody else may have filled.

Below that directory no link is followed, and nothing but a regular file is read: a link may lead to another
run's files or to a device that never ends, and a pipe waits for a writer. Each name is opened in the
directory that is open already, so that nobody can put a link there between the look and the use.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from io import BufferedReader

LINK = "a link is not followed here"
NO_FILE = "not a regular file"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# What a file system without hard links answers, such as FAT.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC


@contextmanager
def opened(base: str, names: Sequence[str], *, follow: bool) -> Iterator[BufferedReader]:
    """Open a regular file to be read; never waits for a pipe.

    Parameters
    ----------
    base : str
        A directory that is trusted.
    names : sequence of str
        The directories from there to the file, and the file.
    follow : bool
        Whether the file itself may be a link.

    Raises
    ------
    OSError
        If a name is absent, a link that may not be followed, or no regular file at the end.
    """
    with _folder(base, names[:-1]) as folder:
        flags = _READ if follow else _READ | os.O_NOFOLLOW
        with nullcontext() if follow else _told(folder, names[-1]):
            descriptor = os.open(names[-1], flags, dir_fd=folder)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        number, reason = (
            (errno.EISDIR, os.strerror(errno.EISDIR)) if stat.S_ISDIR(mode) else (errno.EINVAL, NO_FILE)
        )
        raise OSError(number, reason, "/".join([base, *names]))
    with open(descriptor, "rb") as file:
        yield file


def replace_file(base: str, names: Sequence[str], data: bytes) -> None:
    """Write a file so that a reader sees all of it or none; directories on the way are made."""
    with _folder(base, names[:-1], make=True) as folder:
        unfinished = f".{names[-1]}.{uuid.uuid4().hex}.unfinished"
        try:
            _write(unfinished, data, folder)
            os.replace(unfinished, names[-1], src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=folder)
            raise


def create_file(base: str, names: Sequence[str], data: bytes) -> bool:
    """Write a file unless there is one, whole for every reader; say whether it was written."""
    with _folder(base, names[:-1], make=True) as folder:
        unfinished = f".{names[-1]}.{uuid.uuid4().hex}.unfinished"
        try:
            _write(unfinished, data, folder)
            os.link(unfinished, names[-1], src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # For an instant, a reader finds it empty.
            try:
                _write(names[-1], data, folder)
            except FileExistsError:
                return False
        finally:
            with suppress(FileNotFoundError):
                os.unlink(unfinished, dir_fd=folder)
    return True


def delete_file(base: str, names: Sequence[str]) -> None:
    """Delete a file, or a link but not what it leads to; nothing happens if it is absent."""
    with suppress(FileNotFoundError, NotADirectoryError), _folder(base, names[:-1]) as folder:
        os.unlink(names[-1], dir_fd=folder)


def first_link(base: str, names: Sequence[str]) -> int | None:
    """How many names lead to the first link on the way to a file; None if there is none."""
    for n in range(1, len(names) + 1):
        if os.path.islink("/".join([base, *names[:n]])):
            return n
    return None


def _write(name: str, data: bytes, folder: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(name, flags, 0o666, dir_fd=folder), "wb") as file:
        file.write(data)
        file.flush()
        # A receipt must not outlive a power cut as an empty file.
        os.fsync(file.fileno())


@contextmanager
def _folder(base: str, names: Sequence[str], *, make: bool = False) -> Iterator[int]:
    """Open the directory that the names lead to."""
    if make:
        os.makedirs(base, exist_ok=True)
    folder = os.open(base, _DIRECTORY)
    try:
        for name in names:
            inner = _inner(folder, name, make)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def _inner(folder: int, name: str, make: bool) -> int:
    with _told(folder, name):
        try:
            return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        except FileNotFoundError:
            if not make:
                raise
        # Another thread may make it meanwhile.
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)


@contextmanager
def _told(folder: int, name: str) -> Iterator[None]:
    """Report a link as such: the system says "not a directory" or "too many levels"."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP) and _is_link(folder, name):
            raise OSError(errno.ELOOP, LINK, name) from error
        raise


def _is_link(folder: int, name: str) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False
