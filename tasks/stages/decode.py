"""Decode: the frames of every clip, as the checkpoint's view resizes and crops them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from selrel.clips.profiles import View, crop, resize_frame
from selrel.clips.windows import loop_pad
from storage.arrays.cubes import create_frames, write_block
from storage.stores.receipts import Written
from storage.videos.reader import read_frames
from tasks.clips import planned_video
from tasks.running.effort import arithmetic
from tasks.running.stage import Once, Stage, Work


def decode_block(work: Work, block: int) -> Written:
    """Decode and write the clips of one block."""
    clips = work.clips
    with arithmetic():
        found = []
        for rows in clips.by_video(block):
            with planned_video(work.place, work.dataset_id, work.data, rows.video.iloc[0]) as path:
                first = int(rows.start_frame.iloc[0])
                last = int((rows.start_frame + rows.n_valid_frames).iloc[-1])
                frames = [crop(frame, clips.view) for frame in resized_frames(path, clips.view, first, last)]
            for start, n in zip(rows.start_frame - first, rows.n_valid_frames, strict=True):
                found.append(loop_pad(np.stack(frames[start : start + n]), clips.view.clip_length))
    arrays = {"frames": np.stack(found)}
    return write_block(work.place, work.dataset.frames, clips.ranges[block][0], arrays)


def resized_frames(path: str, view: View, start: int, stop: int) -> Iterator[Any]:
    """Decode frames start..stop and resize them to the view, uncropped."""
    for frame in read_frames(path, start=start, stop=stop):
        yield resize_frame(frame, view)


STAGE: Stage = Stage(
    name="decode",
    of="dataset",
    block=decode_block,
    before=Once(
        "frames",
        lambda work: create_frames(
            work.place, work.dataset.frames, work.clips.columns(), **work.clips.sizes()
        ),
    ),
)
