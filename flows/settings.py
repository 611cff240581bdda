"""Settings of the command line besides its flags: `selrel.toml`, then variables `SELREL_*`."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclopts import App, ArgumentCollection
from cyclopts.config import Dict, Env

FILE = "selrel.toml"
_SHARED = ("data", "root", "workers", "scheduler", "insecure")
# A plan is made for a run, so it reads the settings that the run would.
_SECTIONS = {"plan": ("explain", "plan")}


@dataclass(frozen=True)
class SettingsFile:
    """Gives a command what the `selrel.toml` of the working directory says.

    A table named as a command holds its options. What stands above the tables, such as ``root``, holds for
    every command that has such an option.

    Parameters
    ----------
    commands : sequence of str
        The tables that it may have.
    """

    commands: Sequence[str]

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Add to `arguments` what was not given by a flag; called by Cyclopts."""
        path = Path(FILE)
        if not commands or not path.exists():
            return
        try:
            settings = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} can't be read as TOML: {error}") from None
        tables = {name: value for name, value in settings.items() if isinstance(value, dict)}
        if unknown := sorted(tables.keys() - set(self.commands)):
            raise ValueError(
                f"{path} has a table [{unknown[0]}], but there is no such command; "
                f"tables: {', '.join(self.commands)}"
            )
        if unknown := sorted(settings.keys() - tables.keys() - set(_SHARED)):
            raise ValueError(
                f"{path} says {unknown[0]} outside of any table; there, it may say {', '.join(_SHARED)}"
            )
        known = {name.removeprefix("--") for argument in arguments for name in argument.names}
        shared = {name: value for name, value in settings.items() if name in known and name not in tables}
        own: dict[str, Any] = {}
        for section in _SECTIONS.get(commands[0], commands[:1]):
            own |= tables.get(section, {})
        Dict(shared | own, source=str(path), use_commands_as_keys=False)(app, commands, arguments)


def sources(commands: Sequence[str]) -> list[Any]:
    """Where the settings of these commands come from after their flags; the first to know one wins."""
    return [SettingsFile(commands), Env("SELREL_", command=False, show=False)]
