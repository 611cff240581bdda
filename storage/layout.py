"""Where everything lies under a root: paths and names, spelled here only. Nothing here reads or writes.

`storage.stores.root` takes these paths to a disk or to S3.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Protocol

# The directory of all runs.
RUNS = "runs"
_ROOMS = (RUNS, "datasets", "validity")
# What a directory or file under a root may be called, as a pattern for the whole name.
PLAIN_NAME = "[A-Za-z0-9_][A-Za-z0-9._-]*"


class _HasDirectory(Protocol):
    @property
    def directory(self) -> str: ...


class _Below:
    """A fixed path below the directory of the class that it stands in, such as ``runs/NAME/run.json``."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, paths: _HasDirectory, _: type) -> str:
        return f"{paths.directory}/{self.name}"


@dataclass(frozen=True)
class _Directory:
    """What a data set, a run and a benchmark hold alike; paths are relative to the root."""

    directory: str

    efforts = _Below("effort")
    """The directory of what the stages took."""

    def effort(self, stage: str) -> str:
        """What the blocks of a stage took, as JSON; no result, and no part of a hash."""
        return f"{self.efforts}/{_checked_name('stage', stage)}.json"

    def receipts(self, stage: str, block: int) -> str:
        """Receipt of one block of one stage."""
        return f"{self.directory}/receipts/{_checked_name('stage', stage)}/{_block_name(block)}.json"


@dataclass(frozen=True)
class DatasetPaths(_Directory):
    """The files of one data set in one view, relative to the root."""

    @classmethod
    def of(cls, dataset_id: str) -> DatasetPaths:
        """Paths of the data set with this id."""
        return cls(f"datasets/{_checked_name('data set id', dataset_id)}")

    description = _Below("dataset.json")
    """What the data set was made from, as JSON: the inputs of its id."""

    index = _Below("index.parquet")
    """Parquet, one row a clip."""

    all_counts = _Below("counts")
    """The directory of the counted frames, one file a block of videos."""

    def counts(self, block: int) -> str:
        """Parquet, a row a video: what decoding it to its end has shown."""
        return f"{self.all_counts}/{_block_name(block)}.parquet"

    exclusions = _Below("exclusions.parquet")
    """Parquet, one row for every video or clip left out."""

    frames = _Below("frames.zarr")
    """The zarr group of the decoded frames."""

    motion = _Below("motion.zarr")
    """The zarr group of the optical flow."""

    lease = _Below("lease.json")
    """Which process makes the data set now, as JSON."""


@dataclass(frozen=True)
class ReportPaths:
    """The files of one report, relative to a root."""

    directory: str

    page = _Below("index.html")
    """The page a person opens."""

    def media(self, name: str) -> str:
        """One file that the page shows."""
        return f"{self.directory}/media/{_checked_name('media file', name)}"


@dataclass(frozen=True)
class RunPaths(_Directory):
    """The files of one run, relative to the root."""

    @classmethod
    def of(cls, name: str) -> RunPaths:
        """Paths of the run with this name."""
        return cls(f"{RUNS}/{_checked_name('run name', name)}")

    @property
    def name(self) -> str:
        """Name of the run: ``<checkpoint-name>-<run-id>``."""
        return self.directory.rsplit("/", 1)[-1]

    run_json = _Below("run.json")
    """Everything that made the run, as JSON."""

    relevance = _Below("relevance.zarr")
    """The zarr group of the explanations."""

    lease = _Below("lease.json")
    """Which process works on the run now, as JSON."""

    exclusions = _Below("exclusions.parquet")
    """Parquet, a row for every video left out of this run or to be read with care; the data set's too."""

    scores = _Below("scores")
    """The directory of the score tables, one file a block."""

    def score(self, block: int) -> str:
        """Parquet, the score rows of one block."""
        return f"{self.scores}/{_block_name(block)}.parquet"

    agreements = _Below("agreements")
    """The directory of the agreement tables, one file a block."""

    def agreement(self, block: int) -> str:
        """Parquet, the agreement rows of one block: a row a clip, pair of methods and sigma."""
        return f"{self.agreements}/{_block_name(block)}.parquet"

    played = _Below("played.parquet")
    """Parquet, the clips that the report plays with more than the run's own methods."""

    tables = _Below("tables")
    """The directory of the aggregated tables."""

    def table(self, name: str) -> str:
        """Parquet, one aggregated table."""
        return f"{self.tables}/{_checked_name('table', name)}.parquet"

    overheads = _Below("overhead")
    """The directory of the measured times, one file a block and stage; never part of a hash."""

    def overhead(self, stage: str, block: int) -> str:
        """Parquet, the seconds a clip that each step of a stage took in one block."""
        return f"{self.overheads}/{_checked_name('stage', stage)}-{_block_name(block)}.parquet"

    @property
    def report(self) -> ReportPaths:
        """The page a person opens, and its media."""
        return ReportPaths(f"{self.directory}/report")

    success = _Below("_SUCCESS.json")
    """The marker of a finished run, written last."""


@dataclass(frozen=True)
class TrainingPaths:
    """The files of one training, relative to the directory that its checkpoint is published in."""

    name: str

    @property
    def directory(self) -> str:
        """Where everything but the checkpoint lies, beside it."""
        return f"{self.name}.training"

    description = _Below("training.json")
    """Everything that makes the training what it is, as JSON."""

    state = _Below("resume.state")
    """What the next epoch goes on from. No name that a watcher takes for a checkpoint's."""

    history = _Below("history.parquet")
    """Parquet, a row an epoch."""

    curve = _Below("curve.png")
    """Picture of losses and accuracies."""

    def epoch(self, number: int) -> str:
        """The checkpoint of one epoch."""
        return f"{self.directory}/epoch-{number:04d}.pth.tar"


@dataclass(frozen=True)
class ValidityPaths(_Directory):
    """The files of one validity benchmark, relative to the root; a case is one model of it."""

    @classmethod
    def of(cls, benchmark_id: str) -> ValidityPaths:
        """Paths of the validity benchmark with this id."""
        return cls(f"validity/{_checked_name('benchmark id', benchmark_id)}")

    description = _Below("benchmark.json")
    """Everything that made the benchmark, as JSON."""

    def checkpoint(self, case: str) -> str:
        """The weights of a case."""
        return f"{self.directory}/models/{_checked_name('case', case)}.pth.tar"

    all_cases = _Below("cases")
    """The directory of what was measured of each case."""

    def measured(self, kind: str, case: str) -> str:
        """Parquet: what one kind of measurement gave for a case."""
        return f"{self.all_cases}/{_checked_name('kind', kind)}/{_checked_name('case', case)}.parquet"

    def table(self, name: str) -> str:
        """Parquet, one table over all cases."""
        return f"{self.directory}/tables/{_checked_name('table', name)}.parquet"

    def plot(self, name: str) -> str:
        """One picture, PNG or SVG."""
        return f"{self.directory}/plots/{_checked_name('plot', name)}"

    page = _Below("validity.md")
    """The summary that a person reads."""

    success = _Below("_SUCCESS.json")
    """The marker of a finished benchmark, written last."""


def sidecar(checkpoint: str) -> str:
    """Path of the file that holds a checkpoint's sha256, written after everything else."""
    return f"{checkpoint}.sha256"


def profile_of(checkpoint: str) -> str:
    """Path of the file that says what a checkpoint expects of its input."""
    return f"{checkpoint}.profile.json"


def ledger_path(place: str) -> str:
    """Parquet, a row for everything that watching a directory or prefix, given by its one URL, has shown."""
    return f"watch/{content_hash(place)}.parquet"


def fingerprints_path(data: str) -> str:
    """Parquet, a row a video of a directory, given by its absolute path: what it held when it was read."""
    return f"videos/{content_hash(data)}.parquet"


def run_name(checkpoint_name: str, run_id: str) -> str:
    """Directory name of a run: the checkpoint's name in plain characters, then the run's id."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", checkpoint_name).strip("-.") or "checkpoint"
    return f"{plain[:80]}-{run_id}"


def is_plain_name(name: str) -> bool:
    """Whether a name can be that of a directory or file under a root."""
    return re.fullmatch(PLAIN_NAME, name) is not None


def home(path: str) -> str:
    """The directory of the run, data set or benchmark that a path lies in; empty if it lies in none."""
    room, _, below = path.partition("/")
    name, inside, _ = below.partition("/")
    return f"{room}/{name}" if room in _ROOMS and inside else ""


def lies_in(path: object, directory: str) -> bool:
    """Whether a path, as a stored file gives it, is one of plain names below a directory."""
    if not isinstance(path, str) or not path.startswith(f"{directory}/"):
        return False
    return all(map(is_plain_name, path.removeprefix(f"{directory}/").split("/")))


def content_hash(value: object) -> str:
    """Sixteen hex digits of the sha256 of a JSON value in canonical form.

    The order of keys and the kind of sequence do not matter; ``1`` and ``1.0`` differ.

    Raises
    ------
    TypeError, ValueError
        If the value is not plain JSON, NaN and infinity included.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checked_name(kind: str, name: str) -> str:
    if not is_plain_name(name):
        raise ValueError(f"{kind} {name!r} is not allowed: use letters, digits, '.', '_' and '-'")
    return name


def _block_name(block: int) -> str:
    return f"{block:06d}"
