"""Prefect for this project's own servers: nothing of a user's profiles, files and variables applies."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.environment import inherited

if TYPE_CHECKING:
    from prefect.settings import Settings

# What Prefect reads in the working directory, which may be another project's, and the word that concerns it.
_FILES = {".env": "PREFECT_", "prefect.toml": "", "pyproject.toml": "tool.prefect"}
# How to reach a team's server.
_OF_A_CLIENT = ("PREFECT_API_", "PREFECT_CLIENT_")
# One's own Dask configuration is for a scheduler that is there already.
_OF_OTHERS = ("DASK_", "PREFECT_")
_PRIVATE = {
    "PREFECT_SERVER_UI_ENABLED": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": "false",
    # Block types serve saved blocks and the UI; registering them takes 1.5 s.
    "PREFECT_SERVER_BLOCKS_REGISTER_ON_START": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}
_STANDING = {
    # In memory, they would be lost when the server restarts, and a slot that was taken stay taken.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    "PYTHONUNBUFFERED": "1",
}


def environment_of_a_command(home: Path) -> dict[str, str]:
    """Environment of a process that runs a command, from its own; `home` is for what Prefect keeps."""
    return (
        environment_of_a_client(home / "prefect")
        | _named(*_OF_A_CLIENT)
        | {"PREFECT_LOGGING_LEVEL": "CRITICAL"}
    )


def environment_of_a_client(home: Path) -> dict[str, str]:
    """Environment of a process while it uses a Prefect server of this project's own."""
    kept = inherited(os.environ, but=("PREFECT_",)) | _named("PREFECT_LOGGING_LEVEL")
    return kept | {"DO_NOT_TRACK": "1", "PREFECT_HOME": str(home)}


def environment_of_a_server(home: Path, password: str, *, api: str | None = None) -> dict[str, str]:
    """Environment of a Prefect server of this project's own.

    Parameters
    ----------
    home : Path
        Where it keeps its database.
    password : str
        What it asks its clients for.
    api : str, optional
        Its address, if it stays and has a worker, whose environment this is as well; by default it is
        private to one process, and does without what only a browser or a second process would use.
    """
    kind = _PRIVATE
    if api is not None:
        kind = _STANDING | {"PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": password}
    return {
        **inherited(os.environ, but=_OF_OTHERS),
        **kind,
        "DO_NOT_TRACK": "1",
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_AUTH_STRING": password,
        # Seconds that one writer waits for the other: SQLite has one at a time, and the machine is busy.
        "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    }


def environment_of_a_worker(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment of a worker process of a local cluster, from this process's own."""
    # Dask would print a line for every step; what people want to see is ours.
    logging = {"DASK_LOGGING__DISTRIBUTED": "critical"} | _named("DASK_LOGGING_")
    return inherited(os.environ, but=("DASK_",)) | logging | dict(variables)


def _named(*prefixes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(prefixes)}


def import_prefect() -> None:
    """Import Prefect without the settings that the working directory has for another project."""
    for name, word in _FILES.items():
        try:
            mentioned = word in Path(name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if mentioned:
            with contextlib.chdir(Path(__file__).parent):
                importlib.import_module("prefect.context")
            return


@contextmanager
def client_of(
    url: str,
    home: Path,
    password: str,
    *,
    logs: bool = True,
    max_retries: int = 5,
    heartbeat: int | None = 30,
) -> Iterator[None]:
    """Make Prefect in this process a client of a server of our own, and of nothing else.

    Parameters
    ----------
    url, home, password
        The API's address, where Prefect keeps things, and what the server asks for.
    logs
        Whether the server is sent the logs of flow runs.
    max_retries
        How often a call is tried again that the server does not answer.
    heartbeat
        Seconds between a flow run's signs of life; None for none.
    """
    from prefect.context import SettingsContext, get_settings_context

    outside = get_settings_context()
    logging = outside.settings.logging
    settings = _settings(
        home=home,
        api={"url": url, "auth_string": password},
        client={"max_retries": max_retries},
        flows={"heartbeat_frequency": heartbeat},
        logging=logging.model_copy(update={"to_api": logging.to_api.model_copy(update={"enabled": logs})}),
        plugins={"enabled": False},
    )
    with SettingsContext(profile=outside.profile, settings=settings):
        yield


def _settings(**given: Any) -> Settings:
    """Prefect's settings made of what is given, and its defaults for the rest."""
    from prefect.settings import Settings
    from prefect.settings.base import PrefectBaseSettings

    def only_given(_: type, __: type, init_settings: Any, *___: Any, **____: Any) -> tuple[Any, ...]:
        return (init_settings,)

    sources = PrefectBaseSettings.__dict__["settings_customise_sources"]
    PrefectBaseSettings.settings_customise_sources = classmethod(only_given)  # type: ignore[assignment, method-assign]
    try:
        with warnings.catch_warnings():
            # They say that the files are not read.
            warnings.simplefilter("ignore", UserWarning)
            # Whole: a copy of settings fills what was not given from the environment and the files again.
            return Settings(**Settings(**given).model_dump())
    finally:
        PrefectBaseSettings.settings_customise_sources = sources  # type: ignore[method-assign]
