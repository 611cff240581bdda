"""Exclusions: what a run leaves out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from storage.root import Root
from storage.runs import read_run
from storage.tables import read_table
from tasks.clips import clips_of
from tasks.stages import Quarantined


def exclusions_of_run(
    place: Root, run: str, left_out: pd.DataFrame, quarantined: Sequence[Quarantined]
) -> pd.DataFrame:
    """The data set's exclusions, and a row for every video of which this run leaves clips out."""
    description = read_run(place, place.run(run))
    dataset = place.dataset(description["dataset_id"])
    of_dataset: pd.DataFrame = read_table(place, dataset.exclusions).to_pandas()
    rows = [
        {
            "video": video,
            "class": clips["class"].iloc[0],
            "n_frames": int(clips.n_frames.iloc[0]),
            "header_frames": -1,
            "kind": "quarantined",
            "reason": f"{len(clips)} of its clips: {_reason(clips, quarantined)}",
        }
        for video, clips in left_out.groupby("video", sort=False)
    ]
    return pd.concat([of_dataset, pd.DataFrame(rows, columns=of_dataset.columns)]) if rows else of_dataset


def _reason(clips: pd.DataFrame, quarantined: Sequence[Quarantined]) -> str:
    for lost in quarantined:
        if clips["clip"].between(lost["start"], lost["stop"] - 1).any():
            return lost["reason"]
    return "the target of its video needs clips that were left out"


def left_out_summary(
    place: Root, run: str, left_out: pd.DataFrame, quarantined: Sequence[Quarantined]
) -> dict[str, Any]:
    """What the success marker says about it."""
    block_clips = clips_of(place, read_run(place, place.run(run))["dataset_id"]).block_clips
    return {
        "state": "completed with exclusions" if len(left_out) else "completed",
        "quarantined": list(quarantined),
        "left_out_blocks": np.unique(left_out["clip"].to_numpy() // block_clips).tolist(),
        "left_out_clips": len(left_out),
    }
