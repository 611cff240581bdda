"""Exclusions: what a run leaves out, and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from selrel.clips.flow import STILL_SHARE
from storage.runs import Run
from storage.tables import read_table
from tasks.clips import clips_of
from tasks.running.blocks import Quarantined

NOTHING_MOVES = "nothing moves: in no clip does the optical flow lead anywhere"


def exclusions_of_run(
    run: Run, clips: pd.DataFrame, left_out: pd.DataFrame, quarantined: Sequence[Quarantined]
) -> pd.DataFrame:
    """The data set's exclusions, the videos in which nothing moves, and those that lack clips in this run.

    Parameters
    ----------
    run : Run
        Which.
    clips, left_out : DataFrame
        As `tasks.stages.report.explained_clips` gives them.
    quarantined : sequence of Quarantined
        What the stages had to leave out.

    Returns
    -------
    DataFrame
        A row a video: ``video``, ``class``, ``n_frames``, ``header_frames``, ``kind``, ``reason``.
    """
    of_dataset: pd.DataFrame = read_table(run.root, run.dataset.paths.exclusions).to_pandas()
    of_dataset = _with_still(of_dataset, clips)
    rows = []
    for video, lacking in left_out.groupby("video", sort=False):
        reasons = (
            lost["reason"]
            for lost in quarantined
            if lacking["clip"].between(lost["start"], lost["stop"] - 1).any()
        )
        reason = next(reasons, "the target of its video needs clips that were left out")
        rows.append(
            {
                "video": video,
                "class": lacking["class"].iloc[0],
                "n_frames": int(lacking.n_frames.iloc[0]),
                "header_frames": -1,
                "kind": "quarantined",
                "reason": f"{len(lacking)} of its clips: {reason}",
            }
        )
    return pd.concat([of_dataset, pd.DataFrame(rows, columns=of_dataset.columns)]) if rows else of_dataset


def _with_still(exclusions: pd.DataFrame, clips: pd.DataFrame) -> pd.DataFrame:
    """Flag videos without a clip in which anything moves; only the motion stage knows their flow."""
    most = clips.groupby("video").moved.max()
    still = clips[clips.video.isin(most.index[most < STILL_SHARE])].drop_duplicates("video")
    known = exclusions.video.isin(still.video)
    exclusions = exclusions.assign(
        reason=exclusions.reason.where(~known, exclusions.reason + f"; {NOTHING_MOVES}")
    )
    new = still[~still.video.isin(exclusions.video)]
    rows = new[["video", "class", "n_frames"]].assign(header_frames=-1, kind="flagged", reason=NOTHING_MOVES)
    return pd.concat([exclusions, rows[list(exclusions.columns)]]) if len(rows) else exclusions


def left_out_summary(run: Run, left_out: pd.DataFrame, quarantined: Sequence[Quarantined]) -> dict[str, Any]:
    """What the success marker says about the clips left out."""
    block_clips = clips_of(run.root, run.description["dataset_id"]).block_clips
    return {
        "state": "completed with exclusions" if len(left_out) else "completed",
        "quarantined": list(quarantined),
        "left_out_blocks": np.unique(left_out["clip"].to_numpy() // block_clips).tolist(),
        "left_out_clips": len(left_out),
    }
