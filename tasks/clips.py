"""The clips of a stored data set, as the stages need them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from selrel.clips.profiles import View
from storage.arrays.blocks import blocks
from storage.datasets.fingerprints import ChangedVideo, forget, unchanged
from storage.datasets.ucf101 import video_path
from storage.runs import read_dataset_description
from storage.stores.receipts import REPAIR
from storage.stores.root import Root
from storage.tables import DamagedTable, check_kinds, read_table

_INDEX = {
    **dict.fromkeys(("video", "class", "group", "split"), "text"),
    **dict.fromkeys(("clip", "label", "start_frame", "n_valid_frames", "n_frames"), "integer"),
    "fps": "number",
}
_COORDINATES = ("video", "class", "label", "group", "split", "start_frame", "n_valid_frames", "fps")


class Sizes(TypedDict):
    """The sizes of a group of cubes."""

    length: int
    height: int
    width: int
    block_clips: int


@dataclass(frozen=True)
class Clips:
    """The index of a data set with what describes it.

    Attributes
    ----------
    classes
        Their names in label order.
    view
        How frames are resized, cropped and cut into clips.
    block_clips
        Clips of a block.
    table
        The index, a row a clip.
    """

    classes: tuple[str, ...]
    view: View
    block_clips: int
    table: pd.DataFrame

    @property
    def shape(self) -> tuple[int, int, int]:
        """(time, height, width) of one clip."""
        return (self.view.clip_length, *self.view.crop)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """The half-open clip range of every block."""
        return blocks(len(self.table), self.block_clips)

    def of_block(self, block: int) -> pd.DataFrame:
        """The index rows of one block."""
        start, stop = self.ranges[block]
        return self.table.iloc[start:stop]

    def by_video(self, block: int) -> Iterator[pd.DataFrame]:
        """The index rows of one block, video by video."""
        for _, rows in self.of_block(block).groupby("video", sort=False):
            yield rows

    def blocks_of_videos(self, block: int) -> set[int]:
        """The blocks that hold clips of the videos of one block."""
        videos = self.table.video.isin(set(self.of_block(block).video)).to_numpy()
        return {int(clip) // self.block_clips for clip in videos.nonzero()[0]}

    def columns(self) -> dict[str, Any]:
        """What becomes a coordinate of the cubes, a value a clip."""
        return {name: self.table[name].to_numpy() for name in _COORDINATES}

    @property
    def axes(self) -> dict[str, int]:
        """The size of every axis that a stored array of these clips may have."""
        length, height, width = self.shape
        of_cubes = {"clip": len(self.table), "time": length, "y": height, "x": width}
        return {**of_cubes, "channel": 3, "component": 2, "term": 3, "output": len(self.classes)}

    def sizes(self) -> Sizes:
        """The sizes of a group of cubes."""
        length, height, width = self.shape
        return {"length": length, "height": height, "width": width, "block_clips": self.block_clips}


@lru_cache(maxsize=4)
def clips_of(root: Root, dataset_id: str) -> Clips:
    """Read the clips of a data set whose index is complete: once a process, since they never change."""
    paths = root.dataset(dataset_id)
    description = read_dataset_description(root, paths)
    table = read_table(root, paths.index)
    check_kinds(table, _INDEX, root.join(paths.index))
    clips = Clips(
        classes=tuple(description["classes"]),
        view=View.from_dict(description["view"]),
        block_clips=description["block_clips"],
        table=table.to_pandas(),
    )
    numbers, valid = clips.table["clip"].to_numpy(), clips.table.n_valid_frames
    labels = clips.table.label
    if (
        not np.array_equal(numbers, np.arange(len(numbers)))
        or not valid.between(1, clips.view.clip_length).all()
        or not labels.between(0, len(clips.classes) - 1).all()
    ):
        raise DamagedTable(f"{root.join(paths.index)} does not list the clips of its data set: {REPAIR}")
    return clips


@lru_cache(maxsize=4)
def videos_of(root: Root, dataset_id: str) -> list[list[Any]]:
    """Read which videos a data set consists of, as `dataset.json` lists them: once a process."""
    videos: list[list[Any]] = read_dataset_description(root, root.dataset(dataset_id))["videos"]
    return videos


@contextmanager
def planned_video(root: Root, dataset_id: str, data: str, name: str) -> Iterator[str]:
    """The file of a video, to be read inside: the very one that the data set was planned with.

    Raises
    ------
    ChangedVideo
        If it is another one, or becomes one meanwhile.
    """
    path = video_path(data, name)
    try:
        with unchanged(path, _sha256_of(root, dataset_id)[name]):
            yield path
    except ChangedVideo:
        # What is kept of it may be wrong, and would make the same plan again.
        forget(root, data, name)
        raise


@lru_cache(maxsize=4)
def _sha256_of(root: Root, dataset_id: str) -> dict[str, str]:
    return {video[0]: video[-1] for video in videos_of(root, dataset_id)}
