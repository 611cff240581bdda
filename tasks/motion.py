"""Motion: the optical flow of every clip, from the frames after the resize and before the crop."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.motion import farneback, grey
from selrel.profiles import crop
from storage.cubes import create_motion, write_block
from storage.layout import Root
from storage.receipts import Written
from storage.ucf101 import video_path
from tasks.clips import Clips, clips_of
from tasks.decode import resized_frames
from tasks.retries import RETRY
from tasks.stages import Quarantined, once, run_stage


@task(name="motion", cache_policy=NO_CACHE, **RETRY)
def motion(root: str, dataset_id: str, data: str) -> list[Quarantined]:
    """Write motion.zarr: the flow of every clip of the data set, once for all runs that share its view."""
    place = Root(root)
    paths = place.dataset(dataset_id)
    clips = clips_of(place, dataset_id)
    once(place, paths, "flow", lambda: create_motion(place, paths.motion, clips.columns(), **clips.sizes()))
    return run_stage("motion", place, paths, partial(motion_block, place, dataset_id, data), clips.ranges)


def motion_block(place: Root, dataset_id: str, data: str, block: int) -> Written:
    """Compute and write the flow of one block."""
    clips = clips_of(place, dataset_id)
    flow = np.concatenate([_clip_flow(data, clips, rows) for rows in clips.by_video(block)])
    return write_block(place, place.dataset(dataset_id).motion, clips.ranges[block][0], {"flow": flow})


def _clip_flow(data: str, clips: Clips, rows: pd.DataFrame) -> npt.NDArray[np.float16]:
    """The flow of consecutive clips of one video, (clip, time, y, x, 2), NaN where there is none."""
    first = int(rows.start_frame.iloc[0])
    last = int((rows.start_frame + rows.n_valid_frames).iloc[-1])
    # The last frame of a clip moves towards the first of the next one, if the video goes on.
    stop = min(last + 1, int(rows.n_frames.iloc[0]))
    path = video_path(data, rows.video.iloc[0])
    frames = grey(np.stack(list(resized_frames(path, clips.view, first, stop))))
    cropped = [crop(pair, clips.view) for pair in farneback(frames)]
    flow = np.full((len(rows), *clips.shape, 2), np.nan, np.float16)
    for clip, (start, n) in enumerate(zip(rows.start_frame - first, rows.n_valid_frames, strict=True)):
        for time, pair in enumerate(cropped[start : start + n]):
            flow[clip, time] = pair
    return flow
