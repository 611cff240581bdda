"""Index: decode every video to its end, count its frames, and list the clips."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.clips import windows
from storage.blocks import blocks
from storage.layout import Root
from storage.receipts import write_receipt
from storage.tables import read_table, read_tables, write_table
from storage.ucf101 import video_path
from storage.videos import UndecodableVideo, count_frames
from tasks.retries import RETRY
from tasks.stages import run_stage

_VIDEOS_A_BLOCK = 16


@task(name="index", cache_policy=NO_CACHE, **RETRY)
def index(root: str, dataset_id: str, data: str) -> int:
    """List the clips of a data set in index.parquet, and what is left out in exclusions.parquet.

    Returns
    -------
    int
        The number of clips.
    """
    place = Root(root)
    paths = place.dataset(dataset_id)
    if not place.exists(paths.index):
        videos = place.read_json(paths.description)["videos"]
        ranges = blocks(len(videos), _VIDEOS_A_BLOCK)
        run_stage("index", place, paths, partial(count_block, root, dataset_id, data), ranges, unit="videos")
        _assemble(place, dataset_id, data)
    return int(read_table(place, paths.index).num_rows)


def count_block(root: str, dataset_id: str, data: str, block: int) -> None:
    """Count the frames of one block of videos; a video that can't be decoded is a row with its reason."""
    place = Root(root)
    paths = place.dataset(dataset_id)
    dataset = place.read_json(paths.description)
    start, stop = blocks(len(dataset["videos"]), _VIDEOS_A_BLOCK)[block]
    rows = [_counted(data, video) for video in dataset["videos"][start:stop]]
    sha256 = write_table(place, paths.counts(block), pd.DataFrame(rows))
    write_receipt(
        place,
        paths.receipts("index", block),
        stage="index",
        block=block,
        start=start,
        stop=stop,
        sha256={"counts": sha256},
    )


def _counted(data: str, video: list[Any]) -> dict[str, Any]:
    name, class_name, label, group, split, _ = video
    row = {"video": name, "class": class_name, "label": label, "group": group, "split": split}
    try:
        facts = count_frames(video_path(data, name))
    except UndecodableVideo as error:
        return {**row, "n_frames": 0, "header_frames": -1, "fps": 0.0, "note": error.reason}
    counts = {"n_frames": facts.n_frames, "header_frames": facts.header_frames, "fps": facts.fps}
    return {**row, **counts, "note": facts.note}


def _assemble(place: Root, dataset_id: str, data: str) -> None:
    paths = place.dataset(dataset_id)
    description = place.read_json(paths.description)
    counted = read_tables(place, paths.all_counts).to_pandas()
    usable = counted[counted.n_frames > 0]
    if usable.empty:
        raise ValueError(
            f"none of the {len(counted)} videos in {data} can be decoded, the first: "
            f"{counted.note.iloc[0]}; check the files"
        )
    odd = counted[counted.note != ""]
    exclusions = odd[["video", "class", "n_frames", "header_frames"]].assign(
        kind=["flagged" if n else "excluded" for n in odd.n_frames], reason=odd.note
    )
    write_table(place, paths.exclusions, exclusions)
    # The index last: it says that both are complete.
    write_table(place, paths.index, pd.DataFrame(_clips(usable, description["view"]["clip_length"])))


def _clips(videos: pd.DataFrame, length: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for video in videos.to_dict("records"):
        kept = {key: video[key] for key in ("video", "class", "label", "group", "split")}
        for start, n_valid in windows(video["n_frames"], length=length):
            rows.append(
                {
                    "clip": len(rows),
                    **kept,
                    "start_frame": start,
                    "n_valid_frames": n_valid,
                    "fps": video["fps"],
                    "n_frames": video["n_frames"],
                }
            )
    return rows
