"""Score: the explanations of every clip against its motion and against each other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from selrel.scores import score_clip
from selrel.selective import SelectiveParameters
from storage.arrays.cubes import read_block, read_relevances
from storage.layout import content_hash
from storage.stores.receipts import Written
from storage.tables import plain_rows, write_tables
from tasks.running.effort import arithmetic
from tasks.running.stage import Stage, Work
from tasks.stages.changes import STAGE as CHANGES
from tasks.stages.explain import STAGE as EXPLAIN
from tasks.stages.motion import STAGE as MOTION

Cubes = npt.NDArray[np.floating[Any]]
Row = dict[str, Any]

_LABELS = ("clip", "video", "class", "group")


def score_block(work: Work, block: int) -> Written:
    """Score and write the clips of one block."""
    place, paths, dataset, clips = work.place, work.paths, work.dataset, work.clips
    start, stop = clips.ranges[block]
    motion = read_block(place, dataset.motion, start, stop, ["flow", "camera"], axes=clips.axes)
    methods = work.settings["methods"]
    cubes = read_relevances(place, paths.relevance, list(methods), start, stop, axes=clips.axes)
    scores: list[Row] = []
    agreements: list[Row] = []
    with arithmetic():
        for position, clip in enumerate(clips.of_block(block).to_dict("records")):
            found = score_clip(
                {name: cube[position] for name, cube in cubes.items()},
                motion["flow"][position],
                clip["n_valid_frames"],
                camera=motion["camera"][position],
                sigmas=work.settings["sigmas"],
                parameters=SelectiveParameters(**work.settings["selective"]),
                **work.settings["motion"],
            )
            labels = {name: clip[name] for name in _LABELS}
            for rows, new in zip((scores, agreements), found, strict=True):
                rows.extend({**labels, **row} for row in new)
    tables = {
        "scores": (paths.score(block), pd.DataFrame(scores)),
        "agreements": (paths.agreement(block), pd.DataFrame(agreements)),
    }
    return replace(write_tables(place, tables), sha256=_clip_hashes([*scores, *agreements]))


def _clip_hashes(rows: Iterable[Row]) -> dict[str, str]:
    """Hash of the rows of each clip, by its number."""
    of_clips: dict[str, list[Row]] = {}
    for row in rows:
        of_clips.setdefault(str(row["clip"]), []).append(row)
    return {clip: content_hash(plain_rows(own)) for clip, own in of_clips.items()}


STAGE: Stage = Stage(name="score", of="run", block=score_block, needs=(EXPLAIN, CHANGES, MOTION))
