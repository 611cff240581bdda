"""Checkup: whether this machine can do a run, check by check, and how to mend what is wrong."""

from __future__ import annotations

import platform
import socket
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import cv2
import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from storage.stores.root import Root
from storage.videos.reader import UndecodableVideo, read_frames
from tasks.versions import installed

# Servers of this project's world, whose ports must not be open to other machines.
_PORTS = {4200: "a Prefect server", 8786: "a Dask scheduler", 8787: "a Dask dashboard"}
_OPENCV = "opencv-contrib-python-headless"
_OTHER_OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python")
_LITTLE_SPACE = 5e9
_SIZE = (64, 48)


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    Attributes
    ----------
    check : str
        What was looked at.
    state : str
        "ok"; "note" where a run works but something deserves attention; "broken" where a run would fail.
    found, mend : str
        What is there, and what to do about it (empty if ok).
    """

    check: str
    state: str
    found: str
    mend: str = ""


def checkup(root: str | None) -> Iterator[Finding]:
    """Look at everything a run needs on this machine, but for Prefect; `root` where results would go."""
    yield from _installation()
    yield _device()
    yield _decoder()
    memory = psutil.virtual_memory()
    found = f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free, {psutil.cpu_count()} CPUs"
    if memory.available > 4e9:
        yield Finding("memory", "ok", found)
    else:
        mend = "start fewer workers (--workers), or smaller batches (--batch-clips)"
        yield Finding("memory", "note", found, mend)
    yield _root(root)
    yield _ports()


def _installation() -> Iterator[Finding]:
    """Python, the packages that are needed, and those that are in OpenCV's way."""
    version, wanted = platform.python_version(), metadata.metadata("selrel")["Requires-Python"]
    if SpecifierSet(wanted).contains(version, prereleases=True):
        yield Finding("Python", "ok", version)
    else:
        yield Finding("Python", "broken", version, f"install Python {wanted} and a new environment with it")
    wrong = []
    for need in map(Requirement, metadata.requires("selrel") or ()):
        # What only an extra wants may be missing.
        if need.marker is None or need.marker.evaluate({"extra": ""}):
            there = installed(need.name)
            if there is None:
                wrong.append(f"{need.name} is missing")
            elif not need.specifier.contains(there, prereleases=True):
                wrong.append(f"{need} needed, {there} there")
    if wrong:
        mend = "make setup, or pip install --constraint constraints.txt -e ."
        yield Finding("packages", "broken", "; ".join(wrong), mend)
    else:
        named = ("torch", "prefect", "distributed", "zarr")
        yield Finding("packages", "ok", ", ".join(f"{name} {metadata.version(name)}" for name in named))
    if others := [name for name in _OTHER_OPENCV if installed(name)]:
        found = f"{', '.join(others)} is installed as well, and they overwrite each other"
        mend = f"pip uninstall {' '.join(others)}, then pip install --force-reinstall --no-deps {_OPENCV}"
        yield Finding("OpenCV", "note", f"{cv2.__version__}, but {found}", mend)
    else:
        yield Finding("OpenCV", "ok", cv2.__version__)


def _device() -> Finding:
    if not torch.cuda.is_available():
        return Finding("device", "ok", f"CPU, {torch.get_num_threads()} threads ({torch.__version__})")
    names = [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())]
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        mend = "match driver and PyTorch build, or hide the GPU: CUDA_VISIBLE_DEVICES=-1"
        return Finding("device", "broken", f"{names[0]}: {str(error).splitlines()[0]}", mend)
    return Finding("device", "ok", f"{len(names)} x {names[0]}")


def _decoder() -> Finding:
    """Write a video as UCF-101's are packed, and read it."""
    frames = np.zeros((5, *_SIZE[::-1], 3), np.uint8)
    with tempfile.TemporaryDirectory(prefix="selrel-") as directory:
        path = Path(directory) / "probe.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"XVID"), 25.0, _SIZE)
        for frame in frames:
            writer.write(frame)
        writer.release()
        try:
            n_frames = sum(1 for _ in read_frames(str(path)))
        except (UndecodableVideo, OSError) as error:
            n_frames, reason = 0, str(error)
        else:
            reason = f"{n_frames} of {len(frames)} frames come back"
    if n_frames == len(frames):
        return Finding("decoder", "ok", "an MPEG-4 AVI is written and read")
    mend = f"pip install --force-reinstall --no-deps {_OPENCV} av; OPENCV_ variables may switch FFmpeg off"
    return Finding("decoder", "broken", reason, mend)


def _root(root: str | None) -> Finding:
    if root is None:
        return Finding(
            "root", "note", "not given, so not checked", "selrel doctor --root DIRECTORY or s3://.."
        )
    try:
        place = Root(root)
        place.check_writable()
    except ValueError as error:
        mend = "give a directory that this user may write"
        if root.startswith("s3://"):
            keys = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
            mend = f"check bucket, {keys} and, for a server of your own, AWS_ENDPOINT_URL"
        return Finding("root", "broken", str(error), mend)
    free = place.free_bytes()
    if free is None:
        return Finding("root", "ok", f"{place} can be written")
    found = f"{place} can be written, {free / 1e9:,.1f} GB free"
    if free > _LITTLE_SPACE:
        return Finding("root", "ok", found)
    return Finding("root", "note", found, "`selrel plan` says how much a run needs")


def _ports() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)):
            pass
        listening = [c for c in psutil.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.AccessDenied:
        return Finding("ports", "note", "the system does not say who listens", "run as a user who may see it")
    except OSError as error:
        mend = "allow this user to listen on 127.0.0.1"
        return Finding("ports", "broken", f"nothing can listen on 127.0.0.1: {error}", mend)
    addresses = [c.laddr for c in listening]
    open_ones = {to.port: to.ip for to in addresses if to.ip != "::1" and not to.ip.startswith("127.")}
    exposed = [f"{what} ({ip}:{port})" for port, what in _PORTS.items() if (ip := open_ones.get(port))]
    if exposed:
        mend = "start it on 127.0.0.1 (--host), or behind TLS: who reaches it can run code"
        return Finding("ports", "note", f"open to other machines: {', '.join(exposed)}", mend)
    return Finding("ports", "ok", "no Prefect or Dask port is open to other machines")
