"""What the files of a data set hold: a sha256 each, kept so that only what may have changed is read again.

A file whose size, inode and both times are what they were when it was read holds what it held then. The time
of its last change (ctime) can't be set back, so a copy that keeps the time of its original does not pass for
it. Only a file that was changed just before it was read proves nothing: it may have been changed again within
the same tick of its file system's clock (Git calls that racy), and is read again.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import pyarrow as pa  # type: ignore[import-untyped]

from storage.stores.root import Root, UnreadableFile
from storage.tables import DamagedTable, read_table, write_table

# The coarsest clocks of file systems tick every two seconds (FAT).
_TICK_NS = 2_000_000_000
_LATEST_NS = 2**63 - 1
# Reading waits for the disk, and hashing leaves Python's lock.
_READERS = min(16, 2 * (os.cpu_count() or 1))
_SCHEMA = pa.schema(
    [
        ("video", pa.string()),
        ("size_bytes", pa.int64()),
        ("inode", pa.uint64()),
        ("modified_ns", pa.int64()),
        ("changed_ns", pa.int64()),
        ("read_ns", pa.int64()),
        ("sha256", pa.string()),
    ]
)


class ChangedVideo(ValueError):
    """A video that changed since its data set was planned, or while it is read."""


@dataclass(frozen=True)
class Fingerprint:
    """What a file held when it was read, and how to tell that it still does.

    Attributes
    ----------
    size_bytes, inode, modified_ns, changed_ns : int
        As the file system gives them; times in nanoseconds since 1970.
    read_ns : int
        When its reading began.
    sha256 : str
        Of its bytes; empty if it is no regular file.
    """

    size_bytes: int
    inode: int
    modified_ns: int
    changed_ns: int
    read_ns: int
    sha256: str

    def holds(self, status: os.stat_result) -> bool:
        """Whether a file of this status certainly holds what was read."""
        settled = max(self.modified_ns, self.changed_ns) + _TICK_NS < self.read_ns
        return settled and self.facts == _facts(status)

    @property
    def facts(self) -> tuple[int, ...]:
        """The part that the file system reports."""
        return (self.size_bytes, self.inode, self.modified_ns, self.changed_ns)


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of some videos and lists of a directory, and what has become of those that were known.

    Attributes
    ----------
    of : dict of str to Fingerprint
        By the name of the video or list.
    changed, gone : tuple of str
        Files that hold other bytes than when they were last read, and those that are not there any more.
    since : str
        When the first of these was last read, in UTC to the minute; empty if nothing has changed.
    others : dict of str to Fingerprint
        What is known of files that were not asked for.
    fresh : bool
        Whether there is something to keep.
    """

    of: dict[str, Fingerprint] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    since: str = ""
    others: dict[str, Fingerprint] = field(default_factory=dict)
    fresh: bool = False


def fingerprints(
    root: Root,
    data: str,
    paths: Mapping[str, str],
    *,
    path_of: Callable[[str], str],
    advance: Callable[[int, int], Callable[[], object]],
) -> Fingerprints:
    """Fingerprints of files, of which only those are read that may have changed since they are known.

    Parameters
    ----------
    root, data
        Where what is known is kept, and the data set's directory.
    paths : mapping of str to str
        The files by their names.
    path_of : callable
        Gives any other file by its name; raises ValueError or OSError if there can be none.
    advance : callable
        Called with the number of files to read and their bytes; what it gives is called after each file.

    Raises
    ------
    OSError
        If a file can't be read.
    ChangedVideo
        If one is written to while it is read.
    """
    known = _kept(root, data)
    held = {
        name: known[name]
        for name, path in paths.items()
        if name in known and known[name].holds(os.stat(path))
    }
    unread = {name: path for name, path in paths.items() if name not in held}
    read = _read_all(unread, advance)
    changed = sorted(name for name in read if name in known and known[name].sha256 != read[name].sha256)
    others = {}
    for name in known.keys() - paths.keys():
        # Names come from a store, and may be no names of files.
        with suppress(ValueError, OSError):
            others[name] = path_of(name)
    gone = sorted(name for name, path in others.items() if not os.path.exists(path))
    since = min((known[name].read_ns for name in (*changed, *gone)), default=0)
    return Fingerprints(
        of={name: held.get(name) or read[name] for name in paths},
        changed=tuple(changed),
        gone=tuple(gone),
        since=datetime.fromtimestamp(since / 1e9, UTC).strftime("%Y-%m-%d %H:%M UTC") if since else "",
        others={name: known[name] for name in others if name not in gone},
        fresh=bool(read or gone),
    )


def keep(root: Root, data: str, found: Fingerprints) -> None:
    """Keep fingerprints for the next start; of several processes that do so, the last one's stay."""
    if found.fresh:
        _keep(root, data, found.others | found.of)


def forget(root: Root, data: str, name: str) -> None:
    """Have a file read again at the next start, whatever was kept of it."""
    known = _kept(root, data)
    if known.pop(name, None):
        _keep(root, data, known)


def _keep(root: Root, data: str, known: Mapping[str, Fingerprint]) -> None:
    rows = [{"video": name, **asdict(one)} for name, one in sorted(known.items())]
    write_table(root, root.fingerprints(data), pa.Table.from_pylist(rows, schema=_SCHEMA))


def sha256_of(paths: Mapping[str, str]) -> dict[str, str]:
    """sha256 of files, by their names; errors as `fingerprints`."""
    return {name: one.sha256 for name, one in _read_all(paths, lambda n_files, n_bytes: lambda: None).items()}


def facts(path: str) -> tuple[int, int, int, int]:
    """What the file system says of a file, which differs whenever it may hold something else."""
    return _facts(os.stat(path))


@contextmanager
def unchanged(path: str, sha256: str) -> Iterator[None]:
    """Read a video inside; before and after, it is the one that is expected.

    Its bytes are hashed, which takes a hundredth of the time that decoding them does.

    Raises
    ------
    ChangedVideo
        If it is not.
    OSError
        If it can't be read.
    """
    found = fingerprint(path)
    if found.sha256 != sha256:
        raise ChangedVideo(_changed(path, "has changed"))
    yield
    still(path, found)


def still(path: str, before: Fingerprint) -> Fingerprint:
    """The fingerprint of a video whose content has not changed; errors as `unchanged`."""
    try:
        found = before if facts(path) == before.facts else fingerprint(path)
    except FileNotFoundError:
        raise ChangedVideo(_changed(path, "is gone")) from None
    if found.sha256 != before.sha256:
        raise ChangedVideo(_changed(path, "has changed"))
    return found


def fingerprint(path: str) -> Fingerprint:
    """Read a file to its end; errors as `unchanged`."""
    try:
        return _read(path)
    except FileNotFoundError:
        raise ChangedVideo(_changed(path, "is gone")) from None


def _changed(path: str, what: str) -> str:
    return (
        f"{path} {what} since this was planned; start the same command again: what is there now is another "
        "data set"
    )


def _read_all(
    paths: Mapping[str, str], advance: Callable[[int, int], Callable[[], object]]
) -> dict[str, Fingerprint]:
    if not paths:
        return {}
    step = advance(len(paths), sum(os.stat(path).st_size for path in paths.values()))
    read = {}
    with ThreadPoolExecutor(_READERS) as readers:
        for name, one in zip(paths, readers.map(_read, paths.values()), strict=True):
            read[name] = one
            step()
    return read


def _read(path: str) -> Fingerprint:
    began = time.time_ns()
    # A pipe would be waited for.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(descriptor)
        sha256 = ""
        if stat.S_ISREG(before.st_mode):
            with open(descriptor, "rb", closefd=False) as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if _facts(os.fstat(descriptor)) != _facts(before):
            raise ChangedVideo(f"{path} was written to while it was read; start again when it is complete")
    finally:
        os.close(descriptor)
    return Fingerprint(*_facts(before), began, sha256)


def _facts(status: os.stat_result) -> tuple[int, int, int, int]:
    # A file may be of the year 2400, which no 64 bits of nanoseconds hold.
    modified = max(-_LATEST_NS, min(status.st_mtime_ns, _LATEST_NS))
    return (status.st_size, status.st_ino, modified, status.st_ctime_ns)


def _kept(root: Root, data: str) -> dict[str, Fingerprint]:
    """What is known; nothing if that is damaged, since it only saves time."""
    try:
        table = read_table(root, root.fingerprints(data))
    except (FileNotFoundError, UnreadableFile, DamagedTable):
        return {}
    if table.schema != _SCHEMA or any(column.null_count for column in table.columns):
        return {}
    return {row.pop("video"): Fingerprint(**row) for row in table.to_pylist()}
