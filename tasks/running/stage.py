"""A stage as data: what it needs, how its store is made, how a block is done.

`tasks.stages.STAGES` lists them all. Whatever goes through the stages, the runner, the plan, `verify`, the
watcher or the results hash, goes through that list and knows no stage by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from storage.layout import DatasetPaths, RunPaths
from storage.runs import read_run
from storage.stores.receipts import Written
from storage.stores.root import Root
from tasks.clips import Clips, clips_of
from tasks.running.blocks import Quarantined, StageFailed, done_blocks, once, run_stage

Settings = Mapping[str, Any]
Ranges = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Work:
    """A run and its data set, as the stages work on them.

    Attributes
    ----------
    place
        The root of both.
    run
        The run's name.
    data
        The directory of the videos.
    description
        What the run's run.json says, read once.
    """

    place: Root
    run: str
    data: str
    description: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, place: Root, run: str, data: str) -> Work:
        """Read what a run's stages work on."""
        return cls(place, run, data, read_run(place, place.run(run)))

    @property
    def dataset_id(self) -> str:
        """Which data set the run is on."""
        return str(self.description["dataset_id"])

    @property
    def settings(self) -> Settings:
        """Every setting of the run."""
        settings: Settings = self.description["settings"]
        return settings

    @property
    def dataset(self) -> DatasetPaths:
        """Where the data set's files lie."""
        return self.place.dataset(self.dataset_id)

    @property
    def paths(self) -> RunPaths:
        """Where the run's files lie."""
        return self.place.run(self.run)

    @property
    def clips(self) -> Clips:
        """The clips of the data set, once they are listed."""
        return clips_of(self.place, self.dataset_id)


@dataclass(frozen=True)
class Once:
    """What a stage makes once, as a whole, with a receipt of its own."""

    name: str
    make: Callable[[Work], Written]


@dataclass(frozen=True)
class Stage:
    """One step on the way from videos to scores.

    Attributes
    ----------
    name
        What its receipts, its Prefect task and its lines are called.
    of
        Whether it belongs to a data set, which runs share, or to a run.
    block
        Does one block, on a worker, and says what it wrote.
    needs
        The stages that must have done the same block.
    before, after
        What is made once before its first block, and after its last.
    ranges
        What each block holds; by default, clips.
    unit
        What it counts.
    ready
        Which of the blocks that have what they need can be done; by default all.
    asked
        Whether a run of such settings has it.
    is_result
        Whether what it writes counts as a result, clip by clip.
    whole
        Whether nothing goes on when a block of it is lost.
    at_most
        How many clips it works on at most; by default, all.
    """

    name: str
    of: Literal["dataset", "run"]
    block: Callable[[Work, int], Written]
    needs: tuple[Stage, ...] = ()
    before: Once | None = None
    after: Once | None = None
    ranges: Callable[[Work], Ranges] = lambda work: work.clips.ranges
    unit: str = "clips"
    ready: Callable[[Work, set[int]], set[int]] = lambda work, blocks: blocks
    asked: Callable[[Settings], bool] = lambda settings: True
    is_result: bool = True
    whole: bool = False
    at_most: Callable[[Settings], int | None] = lambda settings: None

    @property
    def made_once(self) -> tuple[str, ...]:
        """The receipts of what it makes once."""
        return tuple(part.name for part in (self.before, self.after) if part)

    def where(self, run: RunPaths, dataset: DatasetPaths) -> RunPaths | DatasetPaths:
        """Where its receipts lie."""
        return run if self.of == "run" else dataset


def do(stage: Stage, root: str, run: str, data: str) -> list[Quarantined]:
    """Do what is missing of a stage, on the cluster; those of its blocks that had to be left out.

    Raises
    ------
    StageFailed
        If blocks failed on every try, or one was lost where nothing can go on without it.
    """
    work = Work.read(Root(root), run, data)
    where = stage.where(work.paths, work.dataset)
    if stage.before:
        once(work.place, where, stage.before.name, partial(stage.before.make, work))
    ranges = stage.ranges(work)
    blocks = None
    if stage.needs:
        done = [
            done_blocks(work.place, needed.where(work.paths, work.dataset), needed.name, len(ranges))
            for needed in stage.needs
            if needed.asked(work.settings)
        ]
        blocks = sorted(stage.ready(work, set.intersection(*done)))
    lost = run_stage(
        stage.name, work.place, where, partial(stage.block, work), ranges, blocks=blocks, unit=stage.unit
    )
    if stage.whole and lost:
        first = lost[0]
        raise StageFailed(f"{stage.unit} {first['start']} to {first['stop'] - 1}: {first['reason']}")
    if stage.after:
        once(work.place, where, stage.after.name, partial(stage.after.make, work))
    return lost
