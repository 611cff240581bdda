"""A private Prefect server for one process, so that a run needs no server to be set up.

The server is a child process. It stops when its standard input reaches the end, that is, when its parent
leaves the context or dies, however it dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import select
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path

_USED = ContextVar("selrel_private_server", default=False)
_READY = b"ready\n"


@contextmanager
def temporary_server(
    *, timeout: float = 180.0, meanwhile: Callable[[], object] | None = None
) -> Iterator[str]:
    """Start a Prefect server that only this process uses, and use it.

    It listens on a free loopback port, wants a password that was made for it, and keeps its database and the
    results of this process in a temporary directory; all of it is gone afterwards.

    The first start of a Prefect version creates the database schema, which takes most of the time, and keeps
    the empty database in the user's cache directory for the next one.

    Parameters
    ----------
    timeout : float
        Seconds to wait for the server.
    meanwhile : callable, optional
        Called while the server starts: the place for slow imports and checks of the input.

    Yields
    ------
    str
        The API's address, which is also Prefect's setting ``PREFECT_API_URL`` inside the context.

    Raises
    ------
    RuntimeError
        If the server does not start; the message ends with the last lines of its log.
    Exception
        Whatever `meanwhile` raises; the server is stopped first.
    """
    from flows.serving.cluster import refuse_unguarded_script
    from flows.serving.interrupts import say_how_to_stop
    from flows.serving.prefect_settings import client_of, environment_of_a_client
    from flows.serving.scratch import scratch_directory
    from storage.environment import changed_environment

    refuse_unguarded_script()
    say_how_to_stop()
    password = f"selrel:{secrets.token_urlsafe(24)}"
    with (
        scratch_directory("prefect") as home,
        changed_environment(environment_of_a_client(home)),
        _server_process(home, password, timeout, meanwhile) as url,
        # On this machine, a server that does not answer is gone; the run goes on without it.
        client_of(url, home, password, logs=False, max_retries=0, heartbeat=None),
    ):
        from prefect.events.clients import NullEventsClient
        from prefect.events.worker import EventsWorker

        # Nobody reads this server's logs and events, and their senders keep a process whose server is lost.
        EventsWorker.set_client_override(NullEventsClient)
        token = _USED.set(True)
        try:
            yield url
        finally:
            _USED.reset(token)
            EventsWorker.set_client_override(None)


def is_used() -> bool:
    """Whether a private server is started and used at this point of the program."""
    return _USED.get()


@contextmanager
def _server_process(
    home: Path, password: str, timeout: float, meanwhile: Callable[[], object] | None
) -> Iterator[str]:
    # Imported here, as all of the project: the server runs this file by itself.
    from flows.serving.prefect_settings import environment_of_a_server

    ready, tell_ready = os.pipe()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=128) as listener,
        open(home / "server.log", "wb") as log,
    ):
        port = listener.getsockname()[1]
        inherited = (listener.fileno(), tell_ready)
        process = subprocess.Popen(
            # -P: the directory of this file must not shadow top-level modules.
            [sys.executable, "-P", __file__, str(home), *map(str, inherited)],
            pass_fds=inherited,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            # Prefect reads settings where it starts, too.
            cwd=home,
            env=environment_of_a_server(home, password),
            # Ctrl-C reaches this process only, which can then still record how the run ended.
            start_new_session=True,
        )
    os.close(tell_ready)
    try:
        with open(ready, "rb", buffering=0) as pipe:
            if meanwhile is not None:
                meanwhile()
            readable, _, _ = select.select([pipe], [], [], timeout)
            if not readable or os.read(pipe.fileno(), len(_READY)) != _READY:
                what = "stopped while starting" if readable else f"did not start within {timeout:g} s"
                raise RuntimeError(f"the private Prefect server {what}; {end_of(home / 'server.log')}")
        yield f"http://127.0.0.1:{port}/api"
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            # It ends at once, unless it hangs.
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _serve(home: Path, listener: socket.socket, tell_ready: int) -> None:
    """Run the server in this process until standard input ends."""

    def exit_with_parent() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        shutil.rmtree(home, ignore_errors=True)
        os._exit(0)

    threading.Thread(target=exit_with_parent, daemon=True).start()
    _create_database(home / "prefect.db")

    import uvicorn
    from prefect.server.api.server import create_app

    class _TellingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            os.write(tell_ready, _READY)
            os.close(tell_ready)

    app = create_app(ephemeral=True, final=True)
    config = uvicorn.Config(app, log_level="warning", lifespan="on", timeout_keep_alive=60)
    _TellingServer(config).run(sockets=[listener])


def _create_database(path: Path) -> None:
    """Put an empty Prefect database at `path`: a copy of the last one that was made, where there is one."""
    template = _template_path()
    if _copy_sound_database(template, path):
        return
    path.unlink(missing_ok=True)

    async def migrate() -> None:
        from prefect.server.database import provide_database_interface

        database = provide_database_interface()
        await database.create_db()
        # Connections belong to this event loop; the server runs another.
        await (await database.engine()).dispose()

    asyncio.run(migrate())
    # Without a cache directory, the next start takes longer: no reason to fail.
    with contextlib.suppress(OSError, sqlite3.Error):
        template.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=template.parent, prefix=template.name, suffix=".tmp")
        os.close(handle)
        try:
            with (
                contextlib.closing(sqlite3.connect(path)) as source,
                contextlib.closing(sqlite3.connect(name)) as copy,
            ):
                source.backup(copy)
            os.replace(name, template)
        finally:
            Path(name).unlink(missing_ok=True)


def copy_empty_database(path: Path) -> None:
    """Spare a server its first migrations, 10 s, where an empty database was made before; it checks them."""
    if not path.exists() and not _copy_sound_database(_template_path(), path):
        path.unlink(missing_ok=True)


def end_of(log: Path) -> str:
    """How a log ends, for the message of an error."""
    lines = log.read_text(errors="replace").strip().splitlines()[-15:]
    return "its log ends with:\n" + "\n".join(lines)


def cache_directory() -> Path:
    """The user's cache of this project; what is in it can be deleted at any time."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "selrel"


def _template_path() -> Path:
    return cache_directory() / f"prefect-{metadata.version('prefect')}.db"


def _copy_sound_database(template: Path, path: Path) -> bool:
    if not template.is_file():
        return False
    shutil.copyfile(template, path)
    try:
        with contextlib.closing(sqlite3.connect(path)) as database:
            sound: bool = database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            migrated: bool = database.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
            return sound and migrated
    except sqlite3.Error:
        return False


if __name__ == "__main__":
    _serve(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])), int(sys.argv[3]))
