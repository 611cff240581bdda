"""Runs: the description each one starts with, the marker it ends with, and the list of all."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from storage.forms import DATASET, RUN, SUMMARY, Stored, checked
from storage.layout import RUNS, DatasetPaths, RunPaths
from storage.stores.receipts import is_sealed, sealed
from storage.stores.root import Root, UnreadableFile, run_at

# In place of a run's name.
LATEST = "latest"


class FinishedRun(ValueError):
    """A run that may not be changed any more."""


@dataclass(frozen=True)
class Dataset:
    """A data set of a root: where its files lie, and its dataset.json, which is read once."""

    root: Root
    paths: DatasetPaths

    @cached_property
    def description(self) -> Stored:
        """What its dataset.json says; raises as `read_dataset_description`."""
        return read_dataset_description(self.root, self.paths)


@dataclass(frozen=True)
class Run:
    """A run of a root: where its files lie, and its run.json and success marker, each read once."""

    root: Root
    paths: RunPaths

    @classmethod
    def of(cls, root: Root, name: str) -> Run:
        """The run of this name under a root."""
        return cls(root, root.run(name))

    @property
    def name(self) -> str:
        """``<checkpoint-name>-<run-id>``."""
        return self.paths.name

    @property
    def url(self) -> str:
        """Where it lies."""
        return self.root.join(self.paths.directory)

    @cached_property
    def description(self) -> Stored:
        """What its run.json says; raises as `read_run`."""
        return read_run(self.root, self.paths)

    @property
    def settings(self) -> dict[str, Any]:
        """Every setting of its methods and metrics."""
        settings: dict[str, Any] = self.description["settings"]
        return settings

    @cached_property
    def summary(self) -> Stored:
        """What its success marker says; raises as `read_summary`."""
        return read_summary(self.root, self.paths)

    @cached_property
    def dataset(self) -> Dataset:
        """The data set that it is on."""
        return Dataset(self.root, self.root.dataset(self.description["dataset_id"]))

    def has_table(self, name: str) -> bool:
        """Whether one of its aggregated tables is there."""
        return self.root.exists(self.paths.table(name))


@dataclass(frozen=True)
class ListedRun:
    """One run of a root, as a list of all shows it, be it damaged or not.

    Parameters
    ----------
    name : str
        ``<checkpoint-name>-<run-id>``.
    url : str
        Where it lies.
    description : dict
        Its run.json; empty if that is absent or damaged.
    summary : dict or None
        Its success marker; None if it is not finished.
    note : str
        What is wrong with it, in words; empty if nothing is.
    ended : bool
        Whether it has a success marker, be that damaged or not.
    """

    name: str
    url: str
    description: dict[str, Any]
    summary: dict[str, Any] | None
    note: str = ""
    ended: bool = False

    @property
    def finished(self) -> bool:
        """Whether the run is complete."""
        return self.summary is not None


def write_run(root: Root, paths: RunPaths, description: Mapping[str, Any]) -> None:
    """Write run.json: every parameter, file hash, library version and device of a run.

    Raises
    ------
    FinishedRun
        If the run is finished and its description is another one.
    """
    if is_finished(root, paths):
        if read_run(root, paths) != dict(description):
            raise FinishedRun(
                f"run {paths.name} is finished and never changed: other settings make another run"
            )
        return
    root.write_json(paths.run_json, dict(description))


def read_run(root: Root, paths: RunPaths) -> Stored:
    """Read run.json.

    Raises
    ------
    FileNotFoundError
        If there is no such run.
    ValueError
        If the file is damaged.
    """
    return checked(RUN, _mapping(root, paths.run_json), root.join(paths.run_json))


def read_dataset_description(root: Root, paths: DatasetPaths) -> Stored:
    """Read dataset.json.

    Raises
    ------
    FileNotFoundError
        If there is no such data set.
    ValueError
        If the file is damaged.
    """
    return checked(DATASET, _mapping(root, paths.description), root.join(paths.description))


def mark_success(root: Root, paths: RunPaths, summary: Mapping[str, Any]) -> None:
    """Write the success marker, after everything else; one that is there already stays as it is.

    Raises
    ------
    FileNotFoundError
        If the run has no run.json.
    """
    read_run(root, paths)
    if not is_finished(root, paths):
        root.write_json(paths.success, sealed(dict(summary)))


def read_summary(root: Root, paths: RunPaths) -> Stored:
    """Read the success marker of a finished run.

    Raises
    ------
    FileNotFoundError
        If the run is not finished.
    ValueError
        If the marker is not the one that was written.
    """
    content = _mapping(root, paths.success)
    # The first version wrote none; `selrel verify` tells.
    if "seal" in content and not is_sealed(content):
        raise ValueError(f"{root.join(paths.success)} was changed: `selrel verify RUN` says what else was")
    unsealed = {name: value for name, value in content.items() if name != "seal"}
    return checked(SUMMARY, unsealed, root.join(paths.success))


def is_finished(root: Root, paths: RunPaths) -> bool:
    """Whether the run has its success marker."""
    return root.exists(paths.success)


def finished_run(url: str) -> Run:
    """The finished run at a URL.

    Raises
    ------
    ValueError
        If there is no such run, or it is not finished.
    """
    root, paths = run_at(url)
    if is_finished(root, paths):
        return Run(root, paths)
    if root.exists(paths.directory):
        raise ValueError(
            f"{url} is not finished: the `selrel explain` command that started it goes on where it stopped"
        )
    raise ValueError(f"there is no run {url}; `selrel runs --root {root}` lists the runs")


def find_run(run: str, root: str | None) -> str:
    """Find a run by its place, or under a root by its name or as ``latest``, the last one to finish.

    Parameters
    ----------
    run : str
        ``<root>/runs/<name>``, ``<name>`` or ``latest``.
    root : str or None
        Where a name is looked for.

    Returns
    -------
    str
        Where the run lies.

    Raises
    ------
    ValueError
        If a name is given without a root, or there is no such run under it.
    """
    if "/" in run:
        return run
    if root is None:
        raise ValueError(
            f"{run!r} is a name: give --root as well, or <root>/runs/<name>, as `selrel runs` lists the runs"
        )
    place = existing_root(root)
    known = list_runs(place)
    if run == LATEST:
        finished = [other for other in known if other.summary is not None]
        if not finished:
            raise ValueError(f"no run under {place} is finished; `selrel runs --root {place}` lists them")
        return max(finished, key=lambda other: str((other.summary or {}).get("finished_at", ""))).url
    for other in known:
        if other.name == run:
            return other.url
    names = [other.name for other in known]
    near = [name for name in names if name.startswith(run)] or difflib.get_close_matches(run, names, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"there is no run {run} under {place}; {meant}`selrel runs --root {place}` lists them")


def existing_root(root: str) -> Root:
    """The root at a place; a store that does not answer fails at once.

    Raises
    ------
    ValueError
        If there is nothing.
    """
    place = Root(root, patient=False)
    if not place.exists(""):
        raise ValueError(f"{place} does not exist; give the --root of `selrel explain`")
    return place


def name_of_run(root: Root, run_id: str) -> str | None:
    """Name of the run with this id, whatever its checkpoint's file was called; None if there is none.

    Of several, a finished one.
    """
    names = [name for name in root.listdir(RUNS) if name.endswith(f"-{run_id}")]
    return min(names, key=lambda name: (not is_finished(root, root.run(name)), name), default=None)


def list_runs(root: Root, *, but: str | None = None) -> list[ListedRun]:
    """All runs under a root but one, sorted by name, finished or not; a damaged one is listed with a note."""
    return [_listed(root, name) for name in root.listdir(RUNS) if name != but]


def _listed(root: Root, name: str) -> ListedRun:
    url = root.join(f"{RUNS}/{name}")
    description: dict[str, Any] = {}
    ended = False
    try:
        paths = root.run(name)
        ended = is_finished(root, paths)
        description = read_run(root, paths)
        summary = read_summary(root, paths) if ended else None
    except (FileNotFoundError, UnreadableFile, ValueError) as error:
        return ListedRun(name, url, description, None, note=str(error), ended=ended)
    return ListedRun(name, url, description, summary, ended=ended)


def _mapping(root: Root, path: str) -> dict[str, Any]:
    content = root.read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{root.join(path)} holds no JSON object: `selrel verify RUN --repair` drops it")
    return content
