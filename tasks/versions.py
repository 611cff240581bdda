"""Versions: what must be the same on every machine that works on a run.

A worker imports this before all else, and with it nothing that imports Prefect, which would read the settings
of the directory that the worker is in.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path

# What computes or writes results, and what the machines talk with.
_PACKAGES = (
    "torch", "numpy", "opencv-contrib-python-headless", "av", "zarr", "pyarrow", "distributed", "cloudpickle",
)  # fmt: skip
_ROOMS = ("selrel", "storage", "tasks")
# Where the rooms lie.
HERE = Path(__file__).resolve().parent.parent


@cache
def code_version() -> str:
    """The version of the code that computes results: the release and a hash of the sources themselves."""
    files = (file for room in _ROOMS for file in sorted((HERE / room).rglob("*.py")))
    return f"{metadata.version('selrel')}+{hash_of_sources(f.relative_to(HERE).as_posix() for f in files)}"


def hash_of_sources(names: Iterable[str]) -> str:
    """A hash of files of this project, by their names in it, in whatever order."""
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update(f"{name}\0".encode() + (HERE / name).read_bytes())
    return digest.hexdigest()[:12]


def installed(package: str) -> str | None:
    """The version of a package; None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@cache
def versions() -> dict[str, str]:
    """The versions of this process: of the project's own code, of Python and of the packages that matter."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {
        "selrel": code_version(),
        "python": python,
        **{name: installed(name) or "none" for name in _PACKAGES},
    }


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What differs between two machines, both versions named; empty if nothing does."""
    return ", ".join(
        f"{name} {version} here and {there.get(name, 'none')} there"
        for name, version in here.items()
        if there.get(name) != version
    )
