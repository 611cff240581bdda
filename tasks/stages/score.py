"""Score: the explanations of every clip against its motion and against each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.scores import score_clip
from selrel.selective import SelectiveParameters
from storage.arrays.cubes import read_block, read_relevances
from storage.layout import content_hash
from storage.runs import read_run
from storage.stores.receipts import Written
from storage.stores.root import Root
from storage.tables import plain_rows, write_tables
from tasks.clips import clips_of
from tasks.running.effort import arithmetic
from tasks.running.retries import RETRY
from tasks.running.stages import Quarantined, done_blocks, run_stage

Cubes = npt.NDArray[np.floating[Any]]
Row = dict[str, Any]

_LABELS = ("clip", "video", "class", "group")


@task(name="score", cache_policy=NO_CACHE, **RETRY)
def score(root: str, run: str) -> list[Quarantined]:
    """Write the score rows of every clip, method and sigma, and the agreement of each two methods."""
    place = Root(root)
    paths, description = place.run(run), read_run(place, place.run(run))
    dataset = place.dataset(description["dataset_id"])
    ranges = clips_of(place, description["dataset_id"]).ranges
    explained = done_blocks(place, paths, "explain", len(ranges))
    ready = sorted(explained & done_blocks(place, dataset, "motion", len(ranges)))
    work = partial(score_block, place, run, description)
    return run_stage("score", place, paths, work, ranges, blocks=ready)


def score_block(place: Root, run: str, description: Mapping[str, Any], block: int) -> Written:
    """Score and write the clips of one block."""
    paths, dataset = place.run(run), place.dataset(description["dataset_id"])
    clips = clips_of(place, description["dataset_id"])
    start, stop = clips.ranges[block]
    motion = read_block(place, dataset.motion, start, stop, ["flow", "camera"], axes=clips.axes)
    methods = description["settings"]["methods"]
    cubes = read_relevances(place, paths.relevance, list(methods), start, stop, axes=clips.axes)
    with arithmetic():
        scores, agreements = _rows(clips.of_block(block), cubes, motion, description["settings"])
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


def _rows(
    clips: pd.DataFrame,
    cubes: Mapping[str, Cubes],
    motion: Mapping[str, npt.NDArray[Any]],
    settings: Mapping[str, Any],
) -> tuple[list[Row], list[Row]]:
    """Score rows and agreement rows of consecutive clips, each with its clip's labels."""
    scores: list[Row] = []
    agreements: list[Row] = []
    for position, clip in enumerate(clips.to_dict("records")):
        found = score_clip(
            {name: cube[position] for name, cube in cubes.items()},
            motion["flow"][position],
            clip["n_valid_frames"],
            camera=motion["camera"][position],
            sigmas=settings["sigmas"],
            parameters=SelectiveParameters(**settings["selective"]),
            **settings["motion"],
        )
        labels = {name: clip[name] for name in _LABELS}
        for rows, new in zip((scores, agreements), found, strict=True):
            rows.extend({**labels, **row} for row in new)
    return scores, agreements
