"""Trial: how large a planned run is, and how long it takes, measured on a few of its clips."""

from __future__ import annotations

import dataclasses
import time
from contextlib import suppress
from math import ceil
from typing import Any

import torch

from storage.datasets.ucf101 import video_path
from storage.layout import content_hash
from storage.stores.receipts import pending
from storage.stores.root import Root
from storage.tables import read_table, write_table
from storage.videos.reader import UndecodableVideo, count_frames
from tasks.plan import Plan, estimated_bytes, estimated_clips, publish
from tasks.running.stage import Work, do
from tasks.stages import STAGES
from tasks.stages.index import STAGE as INDEX

N_CLIPS = 2


@dataclasses.dataclass(frozen=True)
class Extent:
    """The size of a planned run, before anything of it is done.

    Attributes
    ----------
    videos, clips, blocks
        How many. Of a data set that is indexed already, the clips are exact; else they follow from the
        headers of a sample of the videos.
    exact : bool
        Whether the clips were counted.
    bytes, free_bytes : int
        Most that the run writes, data set included, and the space there is (None on S3).
    left : dict
        Clips still to do in each stage.
    """

    videos: int
    clips: int
    exact: bool
    blocks: int
    bytes: int
    free_bytes: int | None
    left: dict[str, int]


def extent(made: Plan) -> Extent:
    """Measure the size of a planned run, and what is left of it."""
    place = Root(made.root)
    dataset, block_clips = place.dataset(made.dataset_id), int(made.dataset["block_clips"])
    exact = place.exists(dataset.index)
    clips = read_table(place, dataset.index).num_rows if exact else estimated_clips(made)
    blocks = ceil(clips / block_clips)
    left = {}
    for stage in STAGES:
        if stage is INDEX:
            left[stage.name] = 0 if exact else clips
        elif stage.asked(made.description["settings"]):
            where = stage.where(place.run(made.run), dataset)
            waiting = [] if made.finished else pending(place, where, stage.name, range(blocks))
            waits = sum(min(block_clips, clips - block * block_clips) for block in waiting)
            most = stage.at_most(made.description["settings"])
            left[stage.name] = waits if most is None else min(waits, most)
    return Extent(
        videos=len(made.dataset["videos"]),
        clips=clips,
        exact=exact,
        blocks=blocks,
        bytes=estimated_bytes(made, clips),
        free_bytes=place.free_bytes(),
        left=left,
    )


def measure(made: Plan, directory: str, *, threads: int) -> dict[str, float]:
    """Time every stage on a few clips of a planned run, in this process, under another root.

    Needs a Dask client in this process, with one worker in it. Each stage is done once, so that the model is
    loaded and everything is warm, and then once more against the clock.

    Parameters
    ----------
    made : Plan
        What is planned.
    directory : str
        Where the trial may write.
    threads : int
        Threads of a worker of the planned run.

    Returns
    -------
    dict of str to float
        Seconds that one worker takes for a clip, by stage.
    """
    trial = _shortened(made, directory)
    import cv2

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    publish(trial, work={})
    work = Work.read(Root(trial.root), trial.run, trial.data)
    seconds: dict[str, float] = {}
    for stage in STAGES:
        if stage.asked(work.settings):
            do(stage, trial.root, trial.run, trial.data)
            began = time.perf_counter()
            stage.block(work, 0)
            took = time.perf_counter() - began
            if stage is INDEX:
                # Of the one video, some clips are enough for the other stages.
                clips = read_table(work.place, work.dataset.index)
                seconds[stage.name] = took / clips.num_rows
                write_table(work.place, work.dataset.index, clips.slice(0, N_CLIPS))
            else:
                most = stage.at_most(work.settings)
                worked = min(N_CLIPS, clips.num_rows)
                seconds[stage.name] = took / (worked if most is None else min(worked, most))
    return seconds


def _shortened(made: Plan, directory: str) -> Plan:
    """The same plan for one video, in blocks of a few clips."""
    videos: list[list[Any]] = made.dataset["videos"]
    middle = len(videos) // 2
    # The first from the middle on that can be decoded; a run leaves the others out.
    for video in (*videos[middle:], *videos[:middle]):
        with suppress(UndecodableVideo):
            count_frames(video_path(made.data, video[0]))
            break
    else:
        raise ValueError(f"none of the {len(videos):,} videos in {made.data} can be decoded; check the files")
    dataset = {**made.dataset, "videos": [video], "block_clips": N_CLIPS}
    dataset_id = content_hash(dataset)
    description: dict[str, Any] = {**made.description, "dataset_id": dataset_id}
    return dataclasses.replace(
        made, root=directory, dataset=dataset, dataset_id=dataset_id, description=description
    )
