"""A Prefect server for one machine that stays: server, work pool, deployments, automation and worker.

Everything listens on loopback, wants a password, and keeps its state under one directory.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx

from flows.serving.keeper import MARK, end, keeper
from flows.serving.local_server import copy_empty_database, end_of
from flows.serving.prefect_settings import client_of, environment_of_a_server

POOL = "selrel"
WATCHER = "watch-checkpoints/watch-checkpoints"
HEARTBEAT = Path(__file__).with_name("heartbeat.yaml")
_PROJECT = Path(__file__).resolve().parents[2]
_START_S = 180.0
_LONGEST_PAUSE_S = 60.0
_log = logging.getLogger("selrel")


@dataclass
class Kept:
    """A `prefect` command that is to run all the time; its output goes to ``<state>/<name>.log``.

    What is left of one that ended is cleared away by `clear` before it is started again; where that fails
    for want of the server, it is tried again with the start.
    """

    name: str
    arguments: Sequence[str]
    state: Path
    environment: Mapping[str, str]
    clear: Callable[[], object] = lambda: None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _pause: float = field(default=1.0, init=False)
    _not_before: float = field(default=0.0, init=False)

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.state / f"{self.name}.log"

    @property
    def runs(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "--no-prompt", *self.arguments],
                # Prefect reads settings where it starts, too.
                cwd=self.state,
                env=dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for this process, which then stops them in order.
                start_new_session=True,
            )

    def mend(self) -> None:
        """Start it again if it has ended, the second time in a row after a pause, and so on."""
        now = time.monotonic()
        if self.runs:
            if now > self._not_before + _LONGEST_PAUSE_S:
                self._pause = 1.0
        elif now >= self._not_before:
            assert self._process is not None
            _log.warning(
                "the %s ended with %s and is started again; its log: %s",
                self.name,
                self._process.returncode,
                self.log,
            )
            self._not_before = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE_S)
            try:
                self.clear()
            except (httpx.HTTPError, RuntimeError) as error:
                _log.warning("the %s waits for the server: %s", self.name, error)
                return
            self.start()


@dataclass(frozen=True)
class Standing:
    """A server that runs.

    Attributes
    ----------
    state : Path
        Directory of everything it keeps: ``prefect.db``, ``password``, ``server.log``, ``worker.log``.
    url : str
        Of the user interface; the API is at ``<url>/api``.
    kept : sequence of Kept
        Its commands.
    """

    state: Path
    url: str
    kept: Sequence[Kept] = ()

    @property
    def api(self) -> str:
        """The API's address."""
        return f"{self.url}/api"

    @property
    def password_file(self) -> Path:
        """The file with the password, which only this user can read."""
        return self.state / "password"


@contextmanager
def standing_server(
    state: Path, *, port: int, parameters: Mapping[str, Any], every: timedelta
) -> Iterator[Standing]:
    """Start a server with everything a single machine needs, and stop all of it on the way out.

    Nothing of it runs on either when this process is killed. What was interrupted goes on at the next start.

    Parameters
    ----------
    state : Path
        Directory of everything that is kept; made if it is absent, used again if it is there.
    port : int
        Port on 127.0.0.1; 0 takes a free one.
    parameters : mapping
        Parameters of the deployment watch-checkpoints.
    every : timedelta
        How often it looks.

    Raises
    ------
    ValueError
        If the port is taken, or the state is used by another process.
    RuntimeError
        If the server does not start, or refuses a deployment; the message ends with its words.
    """
    with ExitStack() as stack:
        stack.enter_context(_owned(state))
        standing = Standing(state, f"http://127.0.0.1:{_free(port)}")
        environment = environment_of_a_server(state, _password(standing), api=standing.api)
        mark = stack.enter_context(keeper())
        of_server, of_worker = ({**environment, MARK: f"{mark}.{name}"} for name in ("server", "worker"))
        where = ("--host", "127.0.0.1", "--port", standing.url.rpartition(":")[2])
        server = Kept("server", ("server", "start", *where), state, of_server)

        def end_unbegun_runs() -> None:
            # What the worker had taken when it ended, nobody will begin. A run that had begun may still go
            # on; its heartbeat tells.
            with _client(standing):
                _end_runs("PENDING", reason="The worker was lost before this run began.")

        worker = Kept("worker", ("worker", "start", "--pool", POOL), state, of_worker, end_unbegun_runs)
        stack.callback(end, f"{mark}.server")
        copy_empty_database(state / "prefect.db")
        server.start()
        _wait_until_healthy(server, standing)
        # As a team would type it.
        _run_prefect("work-pool", "create", POOL, "--type", "process", "--overwrite", environment=of_server)
        _run_prefect("deploy", "--all", environment=of_server)
        with _client(standing):
            _set_up(parameters, every)
        # A run is asked to end while the server can still take note of it.
        stack.callback(end, f"{mark}.worker")
        worker.start()
        yield Standing(state, standing.url, (server, worker))


def stand(standing: Standing) -> None:
    """Start again what ends, until Ctrl-C."""
    while True:
        time.sleep(1)
        for kept in standing.kept:
            kept.mend()


@contextmanager
def _owned(state: Path) -> Iterator[None]:
    state.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = state.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ValueError(
            f"the state in {state}, with a password and a database, is open to other users: "
            f"`chmod 700 {shlex.quote(str(state))}`, or give another --state"
        )
    lock = os.open(state / ".owner", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ValueError(
                f"another `selrel serve` uses the state in {state}; stop it, or give another --state"
            ) from None
        yield
    finally:
        os.close(lock)


def _free(port: int) -> int:
    if not 0 <= port <= 65_535:
        raise ValueError(f"port is {port}; give 1 to 65535, or 0 for a free one")
    with socket.socket() as probe:
        # As the server does: a port whose last connections are just timing out is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ValueError(
                f"port {port} can't be used ({error.strerror}); give another --port, or 0 for a free one"
            ) from None
        return int(probe.getsockname()[1])


def _password(standing: Standing) -> str:
    file = standing.password_file
    if not file.exists():
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(handle, "w") as text:
            text.write(f"selrel:{secrets.token_urlsafe(24)}")
    return file.read_text().strip()


def _wait_until_healthy(server: Kept, standing: Standing) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and server.runs:
        try:
            if httpx.get(f"{standing.api}/health", timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the Prefect server did not start; {end_of(server.log)}")


def _run_prefect(*words: str, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        cwd=_PROJECT,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"`prefect {' '.join(words)}` failed: {(done.stdout + done.stderr).strip()}")


def _client(standing: Standing) -> AbstractContextManager[None]:
    return client_of(standing.api, standing.state, _password(standing))


def _set_up(parameters: Mapping[str, Any], every: timedelta) -> None:
    """Give the watcher its parameters and switch its schedule on; add the automations; end lost runs."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import DeploymentUpdate
    from prefect.client.schemas.schedules import IntervalSchedule

    from tasks.watch import STOPPED

    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(WATCHER)
        client.update_deployment(deployment.id, DeploymentUpdate(parameters=dict(parameters)))
        (schedule,) = client.read_deployment_schedules(deployment.id)
        client.update_deployment_schedule(
            deployment.id, schedule.id, active=True, schedule=IntervalSchedule(interval=every)
        )
    add_heartbeat_automations()
    # An earlier life of this server left them: their processes are gone.
    _end_runs("PENDING", "RUNNING", "CANCELLING", reason=STOPPED)


def add_heartbeat_automations() -> None:
    """Have the server mark runs as crashed whose process is gone, in place of older rules."""
    import yaml  # type: ignore[import-untyped]
    from prefect.client.orchestration import get_client
    from prefect.events.schemas.automations import AutomationCore

    with get_client(sync_client=True) as client:
        for rule in map(AutomationCore.model_validate, yaml.safe_load(HEARTBEAT.read_text())["automations"]):
            for old in client.read_automations_by_name(rule.name):
                client.delete_automation(old.id)
            client.create_automation(rule)


def _end_runs(*states: str, reason: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, WorkPoolFilter
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": list(states)}}}),
            work_pool_filter=WorkPoolFilter.model_validate({"name": {"any_": [POOL]}}),
        ):
            client.set_flow_run_state(run.id, Crashed(message=reason))
