"""Where checkpoints appear: a directory, or an S3 prefix.

A registry of models (MLflow, Hugging Face) would be one more function that gives a list of `Candidate`,
chosen in `candidates` by the scheme of the place: nothing after it knows where a checkpoint came from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from storage.layout import sidecar
from storage.stores.root import Root, TooLarge, UnreadableFile

PATTERNS = ("*.pth", "*.pth.tar", "*.pt", "*.ckpt", "*.safetensors")
# Far above what a hash and a name take.
_SIDECAR_BYTES = 2**16


@dataclass(frozen=True)
class Candidate:
    """A file that may be a checkpoint.

    Attributes
    ----------
    url : str
        What `storage.checkpoints.files.read_checkpoint` takes.
    name : str
        Its path inside the watched place.
    size_bytes, modified, version
        As in `storage.stores.root.FileFacts`.
    promised : str or None
        The sha256 that a sidecar promises; None without a sidecar, empty if that holds none or can't be read.
    """

    url: str
    name: str
    size_bytes: int
    modified: float
    version: str
    promised: str | None


def candidates(place: str, patterns: Sequence[str] = PATTERNS) -> list[Candidate]:
    """Files of a place whose names match one of the patterns, oldest first, ties by name.

    Raises
    ------
    FileNotFoundError
        If the place is not a directory.
    """
    root = Root(place)
    files = root.files()
    found = [
        Candidate(root.join(path), path, facts.size_bytes, facts.modified, facts.version, promise)
        for path, facts in files.items()
        if any(fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)
        for promise in [promised_sha256(root, path) if sidecar(path) in files else None]
    ]
    return sorted(found, key=lambda one: (one.modified, one.name))


def promised_sha256(root: Root, path: str) -> str | None:
    """Read the sha256 that the sidecar of a checkpoint promises.

    Returns
    -------
    str or None
        In lower case; None without a sidecar, empty if that holds no sha256 or can't be read.
    """
    try:
        found = re.match(rb"[0-9a-fA-F]{64}", root.read_bytes(sidecar(path), most=_SIDECAR_BYTES))
    except FileNotFoundError:
        return None
    except (UnreadableFile, TooLarge):
        return ""
    return found[0].decode().lower() if found else ""
