"""Changes: what the model says of every clip when its motion stops, or is out of order."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.clips.changes import change_clip
from storage.arrays.cubes import logits_of, write_block
from storage.stores.receipts import Written
from tasks.running.effort import arithmetic
from tasks.running.stage import Stage, Work
from tasks.stages.explain import (
    STAGE as EXPLAIN,
)
from tasks.stages.explain import (
    Model,
    batch_clips,
    in_batches,
    model_of,
    outputs,
    stored_frames,
)

Logits = dict[str, npt.NDArray[np.float32]]


def change_block(work: Work, block: int) -> Written:
    """Ask the model about the changed clips of one block, and write its logits."""
    start, stop = work.clips.ranges[block]
    model = model_of(work)
    batches = list(in_batches(partial(_changed_logits, work, model), start, stop, size=batch_clips(work)))
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return write_block(work.place, work.paths.relevance, start, arrays)


def _changed_logits(work: Work, model: Model, start: int, stop: int) -> Logits:
    frames = stored_frames(work, start, stop)
    clips: list[Any] = work.clips.table.iloc[start:stop].to_dict("records")
    found: Logits = {}
    with arithmetic():
        for change in work.settings["changes"]:
            changed = [
                change_clip(of_clip, change, f"{clip['video']} {clip['start_frame']}", clip["n_valid_frames"])
                for of_clip, clip in zip(frames, clips, strict=True)
            ]
            said = model.explainer.logits(np.stack(changed)).cpu().numpy()
            found[logits_of(change)] = said[:, outputs(work, model)]
    return found


STAGE: Stage = Stage(
    name="changes",
    of="run",
    block=change_block,
    needs=(EXPLAIN,),
    asked=lambda settings: bool(settings.get("changes")),
)
