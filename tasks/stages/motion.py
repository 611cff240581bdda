"""Motion: the optical flow and the camera's motion of every clip, from the frames before the crop."""

from __future__ import annotations

from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.clips.camera import camera_motion, moved_origin
from selrel.clips.flow import farneback, grey, moved
from selrel.clips.profiles import crop, crop_window
from storage.arrays.cubes import create_motion, write_block
from storage.stores.receipts import Written
from storage.stores.root import Root
from tasks.clips import Clips, clips_of, planned_video
from tasks.running.effort import arithmetic
from tasks.running.retries import RETRY
from tasks.running.stages import Quarantined, once, run_stage
from tasks.stages.decode import resized_frames


@task(name="motion", cache_policy=NO_CACHE, **RETRY)
def motion(root: str, dataset_id: str, data: str) -> list[Quarantined]:
    """Write motion.zarr: the flow of every clip of the data set, once for all runs that share its view."""
    place = Root(root)
    paths = place.dataset(dataset_id)
    clips = clips_of(place, dataset_id)
    once(place, paths, "flow", lambda: create_motion(place, paths.motion, clips.columns(), **clips.sizes()))
    return run_stage("motion", place, paths, partial(motion_block, place, dataset_id, data), clips.ranges)


def motion_block(place: Root, dataset_id: str, data: str, block: int) -> Written:
    """Compute and write the motion of one block."""
    clips = clips_of(place, dataset_id)
    with arithmetic():
        found = []
        for rows in clips.by_video(block):
            with planned_video(place, dataset_id, data, rows.video.iloc[0]) as path:
                found.append(_clip_motion(path, clips, rows))
    flow, camera = (np.concatenate(parts) for parts in zip(*found, strict=True))
    start = clips.ranges[block][0]
    arrays = {"flow": flow, "camera": camera, "moved": moved_shares(flow)}
    return write_block(place, place.dataset(dataset_id).motion, start, arrays)


def moved_shares(flow: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
    """`selrel.clips.flow.moved` of every clip of a flow (clip, time, y, x, 2)."""
    return np.array([moved(of_clip) for of_clip in flow], np.float32)


def _clip_motion(
    path: str, clips: Clips, rows: pd.DataFrame
) -> tuple[npt.NDArray[np.float16], npt.NDArray[np.float32]]:
    """Flow (clip, time, y, x, 2) and camera (clip, time, 2, 3) of consecutive clips of one video."""
    first = int(rows.start_frame.iloc[0])
    last = int((rows.start_frame + rows.n_valid_frames).iloc[-1])
    # The last frame of a clip moves towards the first of the next one, if the video goes on.
    stop = min(last + 1, int(rows.n_frames.iloc[0]))
    frames = grey(np.stack(list(resized_frames(path, clips.view, first, stop))))
    whole = farneback(frames)
    top, left = crop_window(frames.shape[1], frames.shape[2], clips.view)
    cameras = moved_origin(camera_motion(whole), top=top, left=left)
    cropped = [crop(pair, clips.view) for pair in whole]
    # NaN where there is none: padded frames, and the last of a video.
    flow = np.full((len(rows), *clips.shape, 2), np.nan, np.float16)
    camera = np.full((len(rows), clips.shape[0], 2, 3), np.nan, np.float32)
    for clip, (start, n) in enumerate(zip(rows.start_frame - first, rows.n_valid_frames, strict=True)):
        for time, pair in enumerate(cropped[start : start + n]):
            flow[clip, time] = pair
            camera[clip, time] = cameras[start + time]
    return flow, camera
