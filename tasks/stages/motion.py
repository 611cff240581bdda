"""Motion: the optical flow and the camera's motion of every clip, from the frames before the crop."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

from selrel.clips.camera import camera_motion, moved_origin
from selrel.clips.flow import farneback, grey, moved
from selrel.clips.profiles import crop, crop_window
from storage.arrays.cubes import create_motion, write_block
from storage.stores.receipts import Written
from tasks.clips import Clips, planned_video
from tasks.running.effort import arithmetic
from tasks.running.stage import Once, Stage, Work
from tasks.stages.decode import resized_frames


def motion_block(work: Work, block: int) -> Written:
    """Compute and write the motion of one block."""
    clips = work.clips
    with arithmetic():
        found = []
        for rows in clips.by_video(block):
            with planned_video(work.place, work.dataset_id, work.data, rows.video.iloc[0]) as path:
                found.append(_clip_motion(path, clips, rows))
    flow, camera = (np.concatenate(parts) for parts in zip(*found, strict=True))
    start = clips.ranges[block][0]
    arrays = {"flow": flow, "camera": camera, "moved": moved_shares(flow)}
    return write_block(work.place, work.dataset.motion, start, arrays)


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


STAGE: Stage = Stage(
    name="motion",
    of="dataset",
    block=motion_block,
    before=Once(
        "flow",
        lambda work: create_motion(
            work.place, work.dataset.motion, work.clips.columns(), **work.clips.sizes()
        ),
    ),
)
