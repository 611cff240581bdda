"""Changes: what the model says of every clip when its motion stops, or is out of order.

And what the motion share is where nothing moves: of a sample of frozen clips.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selrel.clips.changes import change_clip
from selrel.scores import score_clip
from selrel.scores.aggregate import SIGMA
from selrel.selective import SelectiveParameters
from storage.arrays.cubes import FROZEN_SHARE, logits_of, read_block, write_block
from storage.report.columns import MAIN_METHOD
from storage.stores.receipts import Written
from tasks.running.effort import arithmetic
from tasks.running.stage import Stage, Work
from tasks.stages.explain import STAGE as EXPLAIN
from tasks.stages.explain import (
    Model,
    batch_clips,
    in_batches,
    model_of,
    outputs,
    stored_frames,
)
from tasks.stages.motion import STAGE as MOTION

# Enough to tell a share from that of clips in which nothing moves.
_SAMPLED = 32
Logits = dict[str, npt.NDArray[np.float32]]


def change_block(work: Work, block: int) -> Written:
    """Ask the model about the changed clips of one block, and write its logits."""
    start, stop = work.clips.ranges[block]
    model = model_of(work)
    batches = list(in_batches(partial(_changed_logits, work, model), start, stop, size=batch_clips(work)))
    arrays = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    if "frozen" in work.settings["changes"]:
        arrays[FROZEN_SHARE] = _frozen_shares(work, model, start, stop)
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


def _frozen_shares(work: Work, model: Model, start: int, stop: int) -> npt.NDArray[np.float32]:
    """The motion share of a sample of the clips when they are frozen: what it is where nothing moves.

    Of the class that is explained, on the voxels that count for the clip as it is. NaN for all other clips.
    """
    shares = np.full(stop - start, np.nan, np.float32)
    methods = {name: chosen for name, chosen in work.settings["methods"].items() if name == MAIN_METHOD}
    for clip in sorted(_sample(work) & set(range(start, stop))) if methods else ():
        (target,) = read_block(work.place, work.paths.relevance, clip, clip + 1, ["target"])["target"]
        flow = read_block(work.place, work.dataset.motion, clip, clip + 1, ["flow"], axes=work.clips.axes)
        n_valid = int(work.clips.table.n_valid_frames.iloc[clip])
        frames = stored_frames(work, clip, clip + 1)[0]
        with arithmetic():
            # One by one: which clips share a block must change no bit.
            frozen = change_clip(frames, "frozen", "", n_valid)[None]
            targets = torch.tensor([outputs(work, model)[target]])
            cube = model.explainer.explain(frozen, methods, targets=targets).cubes[MAIN_METHOD][0]
            rows, _ = score_clip(
                {MAIN_METHOD: cube.cpu().numpy()},
                flow["flow"][0],
                n_valid,
                sigmas=[SIGMA],
                parameters=SelectiveParameters(**work.settings["selective"]),
                **work.settings["motion"],
            )
        kept = next(row["kept_relevance"] for row in rows if row["sigma"] == SIGMA)
        shares[clip - start] = np.nan if kept is None else kept
    return shares


def _sample(work: Work) -> set[int]:
    """Clips at equal distances over the data set."""
    n = len(work.clips.table)
    return {at * n // min(n, _SAMPLED) for at in range(min(n, _SAMPLED))}


STAGE: Stage = Stage(
    name="changes",
    of="run",
    block=change_block,
    needs=(EXPLAIN, MOTION),
    asked=lambda settings: bool(settings.get("changes")),
)
