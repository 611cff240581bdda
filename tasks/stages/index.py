"""Index: decode every video to its end, count its frames, and list the clips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from selrel.clips.windows import windows
from storage.arrays.blocks import blocks
from storage.runs import read_dataset_description
from storage.stores.receipts import Written, file_hashes, recorded_files
from storage.tables import read_tables, write_tables
from storage.videos.reader import UndecodableVideo, count_frames
from tasks.clips import planned_video, videos_of
from tasks.running.effort import arithmetic
from tasks.running.stage import Once, Stage, Work

_VIDEOS_A_BLOCK = 16


def video_blocks(videos: Sequence[object]) -> list[tuple[int, int]]:
    """Half-open ranges of the videos that are counted together."""
    return blocks(len(videos), _VIDEOS_A_BLOCK)


def count_block(work: Work, block: int) -> Written:
    """Count the frames of one block of videos; a video that can't be decoded is a row with its reason."""
    videos = videos_of(work.place, work.dataset_id)
    start, stop = video_blocks(videos)[block]
    rows = []
    with arithmetic():
        for name, class_name, label, group, split, *_ in videos[start:stop]:
            row = {"video": name, "class": class_name, "label": label, "group": group, "split": split}
            with planned_video(work.place, work.dataset_id, work.data, name) as path:
                try:
                    facts = count_frames(path)
                except UndecodableVideo as error:
                    counts = {"n_frames": 0, "header_frames": -1, "fps": 0.0, "note": error.reason}
                else:
                    counts = {"n_frames": facts.n_frames, "header_frames": facts.header_frames}
                    counts |= {"fps": facts.fps, "note": facts.note}
            rows.append(row | counts)
    return write_tables(work.place, {"counts": (work.dataset.counts(block), pd.DataFrame(rows))})


def list_clips(work: Work) -> Written:
    """List the clips in index.parquet, and what is left out in exclusions.parquet."""
    place, paths = work.place, work.dataset
    description = read_dataset_description(place, paths)
    counted = read_tables(place, paths.all_counts, files=recorded_files(place, paths, "index")).to_pandas()
    usable = counted[counted.n_frames > 0]
    if usable.empty:
        raise ValueError(
            f"none of the {len(counted)} videos in {work.data} can be decoded, the first: "
            f"{counted.note.iloc[0]}; check the files"
        )
    length = description["view"]["clip_length"]
    # That a video does not fill one clip is odd, too.
    short = [
        f"shorter than a clip: {n} of {length} frames" if 0 < n < length else "" for n in counted.n_frames
    ]
    counted["note"] = ["; ".join(filter(None, notes)) for notes in zip(counted.note, short, strict=True)]
    odd = counted[counted.note != ""]
    exclusions = odd[["video", "class", "n_frames", "header_frames"]].assign(
        kind=["flagged" if n else "excluded" for n in odd.n_frames], reason=odd.note
    )
    clips: list[dict[str, Any]] = []
    for video in usable.to_dict("records"):
        kept = {key: video[key] for key in ("video", "class", "label", "group", "split")}
        for start, n_valid in windows(video["n_frames"], length=length):
            clip = {"clip": len(clips), **kept, "start_frame": start, "n_valid_frames": n_valid}
            clips.append({**clip, "fps": video["fps"], "n_frames": video["n_frames"]})
    tables = {"exclusions": (paths.exclusions, exclusions), "index": (paths.index, pd.DataFrame(clips))}
    return write_tables(place, tables) | file_hashes(place, [paths.description])


STAGE: Stage = Stage(
    name="index",
    of="dataset",
    block=count_block,
    ranges=lambda work: video_blocks(videos_of(work.place, work.dataset_id)),
    after=Once("dataset", list_clips),
    unit="videos",
    is_result=False,
    whole=True,
)
