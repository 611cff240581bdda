"""Versions: what must be the same on every machine that works on a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata

from tasks.plan import code_version

# What computes or writes results, and what the machines talk with.
_PACKAGES = (
    "torch", "numpy", "opencv-contrib-python-headless", "av", "zarr", "pyarrow", "distributed", "cloudpickle",
)  # fmt: skip


@cache
def versions() -> dict[str, str]:
    """The versions of this process: of the project's own code, of Python and of the packages that matter."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"selrel": code_version(), "python": python, **{name: _version(name) for name in _PACKAGES}}


def differences(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What differs between two machines, both versions named; empty if nothing does."""
    return ", ".join(
        f"{name} {version} here and {there.get(name, 'none')} there"
        for name, version in here.items()
        if there.get(name) != version
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "none"
