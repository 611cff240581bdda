"""A real Prefect server with a process worker, as a team would start them, for tests."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from flows.serving.local_server import _create_database
from storage.environment import inherited
from tests.processes import family, wait_until_gone
from tests.servers import free_port

REPOSITORY = Path(__file__).parent.parent
POOL = "selrel"


@dataclass(frozen=True)
class PrefectServer:
    """A running server, and how to talk to it."""

    url: str
    home: Path
    project: Path
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def prefect(self, *arguments: str, timeout: float = 300) -> str:
        """Run a `prefect` command in the project's directory; give its output, or fail with it."""
        command = [sys.executable, "-m", "prefect", "--no-prompt", *arguments]
        done = subprocess.run(
            command,
            cwd=self.project,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, (
            f"`prefect {' '.join(arguments)}` ended with {done.returncode}:\n{done.stdout}"
        )
        return done.stdout

    def start(self, name: str, *arguments: str) -> None:
        """Start a `prefect` command that stays; its output goes to `<home>/<name>.log`."""
        with (self.home / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
                cwd=self.project,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, name: str, *, timeout: float = 15) -> None:
        """Stop a command, and whatever it has started, by their process ids."""
        process = self.processes.pop(name)
        started = family(process.pid) if process.poll() is None else []
        process.terminate()
        left = wait_until_gone(started, timeout=timeout)
        for survivor in left:
            try:
                survivor.kill()
            except psutil.NoSuchProcess:
                continue
        process.wait(timeout=10)

    def log(self, name: str) -> str:
        """What a command has printed so far."""
        return (self.home / f"{name}.log").read_text(errors="replace")


@contextmanager
def prefect_server(home: Path, *, project: Path = REPOSITORY, deploy: bool = True) -> Iterator[PrefectServer]:
    """Start a server and, if `deploy`, make the pool, deploy all of the project, and start a worker.

    Parameters
    ----------
    home
        Empty directory that becomes its `PREFECT_HOME` and holds the logs.
    project
        Directory that holds `prefect.yaml`.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    server = PrefectServer(f"http://127.0.0.1:{port}/api", home, project, _environment(home, port))
    _create_schema(server)
    try:
        server.start("server", "server", "start", "--host", "127.0.0.1", "--port", str(port))
        _wait_for(server)
        if deploy:
            server.prefect("work-pool", "create", POOL, "--type", "process")
            server.prefect("deploy", "--all")
            server.start("worker", "worker", "start", "--pool", POOL)
        yield server
    finally:
        for name in reversed(list(server.processes)):
            server.stop(name)


def _environment(home: Path, port: int) -> dict[str, str]:
    return inherited(os.environ, but=("PREFECT_",)) | {
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _create_schema(server: PrefectServer) -> None:
    """Spare the server its 10 s of migrations where they have been done before; it checks them anyway."""
    code = f"import sys; from pathlib import Path; from {_create_database.__module__} import _create_database"
    subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}; _create_database(Path(sys.argv[1]))",
            str(server.home / "prefect.db"),
        ],
        env=server.environment,
        check=True,
        timeout=300,
    )


def _wait_for(server: PrefectServer, *, timeout: float = 120) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        ended = server.processes["server"].poll()
        assert ended is None, f"the Prefect server ended with {ended}:\n{server.log('server')[-3000:]}"
        assert time.monotonic() < deadline, f"no Prefect server:\n{server.log('server')[-3000:]}"
        time.sleep(0.1)
