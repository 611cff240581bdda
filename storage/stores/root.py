"""A root, and how bytes get there and back: the same methods for a directory and for ``s3://bucket/prefix``.

`storage.layout` says what lies where under it, `storage.stores.s3` how S3 is used.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import url2pathname

from botocore.exceptions import BotoCoreError, ClientError  # type: ignore[import-untyped]
from zarr.storage import FsspecStore, LocalStore

from storage.arrays.private_zarr import CheckedStore
from storage.layout import (
    RUNS,
    DatasetPaths,
    ReportPaths,
    RunPaths,
    TrainingPaths,
    ValidityPaths,
    fingerprints_path,
    home,
    is_plain_name,
    ledger_path,
)
from storage.stores import disk
from storage.stores.patience import may_pass, patiently
from storage.stores.s3 import bucket_and_key, s3, s3_listing, s3_options

Result = TypeVar("Result")

# The largest file that is read at once, of JSON, and in a piece; far above what this project writes.
MAX_BYTES = 2**33
MAX_JSON_BYTES = 2**26
MAX_PART_BYTES = 2**28 + 2**20
# Lists, objects and names of a JSON file. Each takes a hundred bytes of memory, and a kB where it is refused.
MAX_JSON_PARTS = 2**20
_PART_BYTES = 2**20
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_ALLOWED = "a directory, file:///directory or s3://bucket/prefix"
# What this process or machine has run out of, which says nothing about the file.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True)
class FileFacts:
    """What a listing says about a file.

    Attributes
    ----------
    size_bytes, modified
        Its size, and when it was written (seconds since 1970, by the clock of whoever wrote it).
    version
        Another one whenever the content may be another: inode, size and both times of a file on a disk, ETag,
        size and time of an object.
    """

    size_bytes: int
    modified: float
    version: str


class UnusableRoot(ValueError):
    """A root that is neither a directory nor an S3 URL, or that can't be written."""


class TooLarge(ValueError):
    """A file that is larger than this project ever writes of its kind."""


class UnreadableFile(OSError):
    """A file on a disk that exists but can't be read; not raised for an S3 server that does not answer."""

    def __str__(self) -> str:
        """Name the file and the reason."""
        return f"{self.filename} can't be read: {self.strerror}"


@dataclass(frozen=True)
class Root:
    """Where all data sets and runs are stored, given by a directory, ``file://`` or ``s3://`` URL.

    Paths given to its methods are relative to it and use ``/``. It holds no connection, so it
    can be sent to a worker. S3 credentials and the endpoint come from the usual AWS chain of
    the process that reads or writes, never from the URL.

    Parameters
    ----------
    url : str
        A directory (made absolute), ``file:///directory`` or ``s3://bucket/prefix``.
    patient : bool
        Whether an S3 server that does not answer is asked again for some minutes, with growing pauses.

    Raises
    ------
    UnusableRoot
        If the URL is none of these.
    """

    url: str
    patient: bool = field(default=True, compare=False)

    def __post_init__(self) -> None:
        """Bring the URL into its one form: an absolute directory or ``s3://bucket/prefix``."""
        object.__setattr__(self, "url", _normalised(os.fspath(self.url)))

    def __str__(self) -> str:
        """Return the URL."""
        return self.url

    @property
    def is_local(self) -> bool:
        """Whether the root is a directory of this machine."""
        return not self.url.startswith("s3://")

    def dataset(self, dataset_id: str) -> DatasetPaths:
        """Paths of the data set with this id."""
        return DatasetPaths.of(dataset_id)

    def run(self, name: str) -> RunPaths:
        """Paths of the run with this name."""
        return RunPaths.of(name)

    def validity(self, benchmark_id: str) -> ValidityPaths:
        """Paths of the validity benchmark with this id."""
        return ValidityPaths.of(benchmark_id)

    def ledger(self, place: str) -> str:
        """Parquet, a row for everything that watching a directory or prefix for checkpoints has shown."""
        return ledger_path(Root(place).url)

    def fingerprints(self, data: str) -> str:
        """Parquet, a row for every video of a directory that was read: its sha256 and its facts then."""
        return fingerprints_path(os.path.abspath(data))

    def join(self, path: str) -> str:
        """Full directory or URL of a path under the root.

        Raises
        ------
        ValueError
            If the path leaves the root.
        """
        parts = path.split("/") if path else []
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(
                f"path {path!r} does not stay under {self.url}: use relative names joined by '/'"
            )
        return "/".join([self.url.rstrip("/"), *parts])

    def read_bytes(self, path: str, *, most: int = MAX_BYTES) -> bytes:
        """Read a whole file.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        UnreadableFile
            If it lies on a disk and can't be read, is a pipe or a device, or a link out of its run.
        TooLarge
            If it has more bytes than `most`.
        """
        full = self.join(path)
        try:
            if self.is_local:
                with self._opened(path) as file:
                    size = os.fstat(file.fileno()).st_size
                    data = bytes(file.read(size)) if size <= most else b""
            else:
                data = self.ask(lambda: _read_object(full, most))
                size = len(data)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"no file {full}") from None
        if size > most:
            raise TooLarge(f"{full} is larger than a file of its kind is ({most:,} bytes): it is damaged")
        return data

    def write_bytes(self, path: str, data: bytes) -> None:
        """Write a file so that a reader sees all of it or none, whatever happens meanwhile."""
        full = self.join(path)
        if self.is_local:
            with _named(full):
                disk.replace_file(*self._way(path), data)
        else:
            self.ask(lambda: s3().pipe_file(full, data))

    def create_bytes(self, path: str, data: bytes) -> bool:
        """Write a file unless there is one; say whether it was written.

        On S3 that is certain only if the server supports conditional writes; others may overwrite.
        """
        full = self.join(path)
        if self.is_local:
            with _named(full):
                return disk.create_file(*self._way(path), data)
        put = {**bucket_and_key(full), "Body": data, "IfNoneMatch": "*"}
        try:
            self.ask(lambda: s3().call_s3("put_object", **put))
        except (OSError, ClientError) as error:
            if self.exists(path):
                return False
            raise error
        return True

    def read_parts(self, path: str, size_bytes: int) -> Iterator[bytes]:
        """Read a file in parts of a given size, so that a large one needs little memory.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        UnreadableFile
            If it lies on a disk and can't be read.
        """
        full = self.join(path)
        with self._opened(path) if self.is_local else s3().open(full, "rb") as file:
            while part := file.read(size_bytes):
                yield bytes(part)

    def sha256(self, path: str, *, size_bytes: int | None = None) -> tuple[str, int]:
        """Hash a file in parts; a file whose size is not the one expected is not read.

        Returns
        -------
        sha256 : str
            Empty for a file of another size.
        size_bytes : int
            Its size.

        Raises
        ------
        FileNotFoundError, UnreadableFile
            As `read_bytes`.
        """
        full = self.join(path)
        if not self.is_local:
            return self.ask(lambda: _hash_object(full, size_bytes))
        with self._opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size_bytes not in (None, size):
                return "", size
            return hashlib.file_digest(file, "sha256").hexdigest(), size

    def read_part(self, path: str, start: int, stop: int | None) -> bytes:
        """Bytes of a file of a disk, from one to before another; from its end where they are negative.

        Raises
        ------
        FileNotFoundError, UnreadableFile, TooLarge
            As `read_bytes`.
        """
        with self._opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            first, last, _ = slice(start, stop).indices(size)
            if last - first > MAX_PART_BYTES:
                raise TooLarge(f"{self.join(path)}: {last - first:,} bytes are asked for at once")
            file.seek(first)
            return bytes(file.read(max(0, last - first)))

    def read_json(self, path: str) -> Any:
        """Parsed contents of a JSON file.

        Raises
        ------
        ValueError
            If the file is not JSON.
        TooLarge
            If it has more bytes or more parts than any of this project.
        """
        data = self.read_bytes(path, most=MAX_JSON_BYTES)
        if (n_parts := sum(map(data.count, (b"[", b"{", b":")))) > MAX_JSON_PARTS:
            raise TooLarge(
                f"{self.join(path)} has {n_parts:,} lists, objects and names, more than {MAX_JSON_PARTS:,}: "
                "it is damaged, or made to do harm"
            )
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise ValueError(
                f"{self.join(path)} is not JSON: it is damaged; `selrel verify RUN --repair` drops it"
            ) from None

    def write_json(self, path: str, value: object) -> None:
        """Write a value as JSON with sorted keys: the same value always gives the same bytes."""
        text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
        self.write_bytes(path, (text + "\n").encode())

    def exists(self, path: str) -> bool:
        """Whether a file or directory is there."""
        full = self.join(path)
        return Path(full).exists() if self.is_local else bool(self.ask(lambda: s3().exists(full)))

    def size(self, path: str) -> int | None:
        """Bytes of a file; None if it is absent."""
        full = self.join(path)
        try:
            if self.is_local:
                return os.stat(full).st_size
            return int(self.ask(lambda: s3().info(full))["size"])
        except (FileNotFoundError, NotADirectoryError):
            return None

    def listdir(self, path: str) -> list[str]:
        """Sorted names in a directory, without hidden ones; empty if it is absent."""
        full = self.join(path)
        try:
            found = os.listdir(full) if self.is_local else self.ask(lambda: s3().ls(full, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = (str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in found)
        return sorted(name for name in names if not name.startswith("."))

    def find(self, path: str) -> list[str]:
        """Sorted paths, under the root, of all files in a directory and below, without hidden ones."""
        full = self.join(path)
        if self.is_local:
            found = [file.as_posix() for file in Path(full).rglob("*") if file.is_file()]
        else:
            found = [f"s3://{key}" for key in self.ask(lambda: s3().find(full))]
        start = len(self.url.rstrip("/")) + 1
        return sorted(file[start:] for file in found if not file.rsplit("/", 1)[-1].startswith("."))

    def files(self) -> dict[str, FileFacts]:
        """All files under the root, at any depth, by path; hidden ones and hidden directories are left out.

        Raises
        ------
        FileNotFoundError
            If the root is not a directory; a prefix without objects counts as an empty one.
        """
        if self.is_local:
            found = _local_files(Path(self.url))
        else:
            found = {}
            for path, info in self.ask(lambda: s3_listing(self.url)).items():
                size, modified = int(info["size"]), info["LastModified"].timestamp()
                found[path] = FileFacts(size, modified, f"{info.get('ETag')}-{size}-{modified}")
        return {path: found[path] for path in sorted(found)}

    def delete(self, path: str) -> None:
        """Delete a file, or a link but not what it leads to; nothing happens if it is absent."""
        full = self.join(path)
        if self.is_local:
            with _named(full):
                disk.delete_file(*self._way(path))
        else:
            self.ask(lambda: s3().call_s3("delete_object", **bucket_and_key(full)))

    def link_on(self, path: str) -> str | None:
        """The first link on the way to a file from its run or data set; None if there is none, and on S3."""
        if not self.is_local or not home(path):
            return None
        base, names = self._way(path)
        n = disk.first_link(base, names)
        return None if n is None else "/".join([home(path), *names[:n]])

    def _way(self, path: str) -> tuple[str, list[str]]:
        """Where to open a file from: a directory with its links resolved, and the names below it.

        That is the file's run or data set, whose root the user chose; anything else is reached from the
        directory that it lies in.
        """
        full, own = self.join(path), home(path)
        if not own:
            directory, name = os.path.split(full)
            return directory, [name]
        base = os.path.realpath(self.join(own))
        if os.path.basename(base) != os.path.basename(own):
            raise UnreadableFile(errno.ELOOP, f"it is a link to {base}: name that itself", self.join(own))
        return base, path.removeprefix(f"{own}/").split("/")

    @contextmanager
    def _opened(self, path: str) -> Iterator[BufferedReader]:
        try:
            with disk.opened(*self._way(path), follow=not home(path)) as file:
                yield file
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            if error.errno in _EXHAUSTED or may_pass(error):
                raise
            raise UnreadableFile(error.errno, error.strerror, self.join(path)) from error

    def ask(self, request: Callable[[], Result]) -> Result:
        """Make a request to the store, and repeat it for some minutes while the store does not answer.

        Raises
        ------
        Exception
            Whatever the request raises, unless a later attempt succeeds.
        """
        return patiently(request) if self.patient and not self.is_local else request()

    def zarr_store(self, path: str, *, read_only: bool = False) -> LocalStore | FsspecStore:
        """Return the zarr store at a path, for one group."""
        full = self.join(path)
        if self.is_local:
            return CheckedStore(full, self.read_part, path, read_only=read_only)
        return FsspecStore.from_url(full, storage_options=s3_options(), read_only=read_only)

    def check_writable(self) -> None:
        """Write and delete a small file, so that a run fails before its work and not after.

        Nothing is left: directories made on the way are removed again.

        Raises
        ------
        UnusableRoot
            If the root can't be written; one line says why.
        """
        probe = f".probe-{uuid.uuid4().hex}"
        absent = [path for path in (Path(self.url), *Path(self.url).parents) if not path.exists()]
        at_once = replace(self, patient=False)
        try:
            at_once.write_bytes(probe, b"probe")
            at_once.delete(probe)
        except (OSError, BotoCoreError, ClientError) as error:
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise UnusableRoot(
                f"root {self.url} can't be written: {reason}; give another one, or access to it"
            ) from error
        # Somebody else may have put something there by now.
        with contextlib.suppress(OSError):
            for made in absent if self.is_local else ():
                made.rmdir()

    def size_of(self, path: str) -> int:
        """Bytes of all files under a directory of a local root; 0 where there is none, and on S3."""
        files = Path(self.join(path)).rglob("*") if self.is_local else []
        return sum(file.stat().st_size for file in files if file.is_file())

    def free_bytes(self) -> int | None:
        """Free space for this user under a local root; None on S3, where nobody can tell."""
        if not self.is_local:
            return None
        path = Path(self.url)
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free


def run_at(url: str) -> tuple[Root, RunPaths]:
    """Root and paths of the run at ``<root>/runs/<name>``.

    Raises
    ------
    ValueError
        If the URL does not end like that.
    """
    head, _, name = _normalised(url).rpartition("/")
    root, _, runs = head.rpartition("/")
    if runs != RUNS or not root:
        raise ValueError(
            f"{url!r} is not a run: give <root>/runs/<name>; `selrel runs --root URL` lists them"
        )
    return Root(root), Root(root).run(name)


def training_at(checkpoint: str) -> tuple[Root, TrainingPaths]:
    """Root and paths of the training that publishes a checkpoint there.

    Raises
    ------
    ValueError
        If the path names no file.
    """
    head, slash, name = checkpoint.rpartition("/")
    if not is_plain_name(name):
        raise ValueError(
            f"{checkpoint!r} names no checkpoint file; use letters, digits, '.', '_' and '-', such as "
            "c3d.pth.tar"
        )
    return Root(head or ("/" if slash else ".")), TrainingPaths(name)


def report_at(url: str) -> tuple[Root, ReportPaths]:
    """Root and paths of a report of its own, in a directory or at ``s3://bucket/prefix``."""
    parent, _, name = _normalised(url).rpartition("/")
    return Root(parent or "/"), ReportPaths(name)


def file_at(url: str) -> tuple[Root, str]:
    """Root and path of a file given by its directory or ``s3://`` URL."""
    head, _, name = _normalised(url).rpartition("/")
    return Root(head or "/"), name


def _normalised(url: str) -> str:
    scheme = re.match(r"file:|s3:|[A-Za-z][A-Za-z0-9+.-]*:/", url)
    if not url.strip():
        raise UnusableRoot(f"an empty root names no place: give {_ALLOWED}")
    if scheme is None:
        return os.path.abspath(os.path.expanduser(url))
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        return os.path.abspath(url2pathname(parts.path))
    if parts.scheme == "s3":
        bucket, *prefix = url.removeprefix("s3://").rstrip("/").split("/")
        if "@" in bucket or ":" in bucket:
            raise UnusableRoot(
                "an s3:// root must not hold keys, a host or a port: give s3://bucket/prefix, and the rest "
                "by AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL or the AWS configuration "
                "files"
            )
        sound = all(
            part not in ("", ".", "..") and not re.search(r"[?#*\[\x00-\x1f]", part) for part in prefix
        )
        if not _BUCKET.fullmatch(bucket) or not sound:
            raise UnusableRoot(f"root {url!r} can't be used: give s3://bucket/prefix with plain names")
        return "s3://" + "/".join([bucket, *prefix])
    without_secret = re.sub(r"//[^/@]*@", "//...@", url)
    raise UnusableRoot(f"root {without_secret!r} can't be used: give {_ALLOWED}")


def _read_object(url: str, most: int) -> bytes:
    """Read an object, but hardly more of it than is allowed."""
    if most >= MAX_BYTES:
        return bytes(s3().cat_file(url))
    try:
        return bytes(s3().cat_file(url, start=0, end=most + 1))
    except OSError:
        # Of an object without bytes there is no first one.
        if s3().info(url)["size"] == 0:
            return b""
        raise


def _hash_object(url: str, size_bytes: int | None) -> tuple[str, int]:
    with s3().open(url, "rb") as file:
        if size_bytes not in (None, file.size):
            return "", int(file.size)
        digest = hashlib.sha256()
        while part := file.read(_PART_BYTES):
            digest.update(part)
        return digest.hexdigest(), int(file.size)


@contextmanager
def _named(full: str) -> Iterator[None]:
    """Name the whole path in what the system says of the last name of it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, full) from error


def _local_files(top: Path) -> dict[str, FileFacts]:
    if not top.is_dir():
        raise FileNotFoundError(f"there is no directory {top}")
    found = {}
    for directory, folders, names in os.walk(top):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(directory, name)
            # A file may go while its directory is read.
            with suppress(OSError):
                if not name.startswith(".") and path.is_file():
                    status = path.stat()
                    times = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
                    version = f"{status.st_ino}-{status.st_size}-{times}"
                    facts = FileFacts(status.st_size, status.st_mtime, version)
                    found[path.relative_to(top).as_posix()] = facts
    return found
