"""Decode: the frames of every clip, as the checkpoint's view resizes and crops them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.clips.profiles import View, crop, resize_frame
from selrel.clips.windows import loop_pad
from storage.arrays.cubes import create_frames, write_block
from storage.stores.receipts import Written
from storage.stores.root import Root
from storage.videos.reader import read_frames
from tasks.clips import Clips, clips_of, planned_video
from tasks.running.effort import arithmetic
from tasks.running.retries import RETRY
from tasks.running.stages import Quarantined, once, run_stage


@task(name="decode", cache_policy=NO_CACHE, **RETRY)
def decode(root: str, dataset_id: str, data: str) -> list[Quarantined]:
    """Write frames.zarr: every clip of the data set, once for all runs that share its view."""
    place = Root(root)
    paths = place.dataset(dataset_id)
    clips = clips_of(place, dataset_id)
    once(place, paths, "frames", lambda: create_frames(place, paths.frames, clips.columns(), **clips.sizes()))
    return run_stage("decode", place, paths, partial(decode_block, place, dataset_id, data), clips.ranges)


def decode_block(place: Root, dataset_id: str, data: str, block: int) -> Written:
    """Decode and write the clips of one block."""
    clips = clips_of(place, dataset_id)
    with arithmetic():
        found = []
        for rows in clips.by_video(block):
            with planned_video(place, dataset_id, data, rows.video.iloc[0]) as path:
                found.append(_clip_frames(path, clips, rows))
    frames = np.concatenate(found)
    return write_block(place, place.dataset(dataset_id).frames, clips.ranges[block][0], {"frames": frames})


def _clip_frames(path: str, clips: Clips, rows: pd.DataFrame) -> npt.NDArray[np.uint8]:
    """The consecutive clips of one video, (clip, time, y, x, 3)."""
    first = int(rows.start_frame.iloc[0])
    last = int((rows.start_frame + rows.n_valid_frames).iloc[-1])
    frames = [crop(frame, clips.view) for frame in resized_frames(path, clips.view, first, last)]
    length = clips.view.clip_length
    windows = zip(rows.start_frame - first, rows.n_valid_frames, strict=True)
    return np.stack([loop_pad(np.stack(frames[start : start + n]), length) for start, n in windows])


def resized_frames(path: str, view: View, start: int, stop: int) -> Iterator[Any]:
    """Decode frames start..stop and resize them to the view, uncropped."""
    for frame in read_frames(path, start=start, stop=stop):
        yield resize_frame(frame, view)
