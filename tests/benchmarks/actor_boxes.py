"""How much relevance lies on the acting person: `python -m tests.benchmarks.actor_boxes RUN BOXES.json`.

The boxes were drawn by people (UCF101-24's annotations, corrected), so they are a second truth beside the
optical flow. For every clip with boxes: the share of the positive relevance inside them, of the baseline and
of the selective maps, beside the share of the area, which is what a map gets that points anywhere; and the
same of the voxels that move, with the camera's motion and without it.

The JSON names, for each video, `tubes` of `sf` (first frame, from 1) and `boxes_xywh`, one a frame, in
pixels of the original frame (320x240).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from selrel.clips.camera import camera_motion, object_flow
from selrel.clips.flow import moving
from selrel.clips.profiles import View, crop_window, resized_size
from selrel.scores.intervals import ratio_interval
from selrel.scores.sums import group_sums
from selrel.selective import SelectiveParameters, selective_mask
from storage.arrays.blocks import read_block
from storage.arrays.cubes import read_relevance
from storage.runs import read_run
from storage.stores.root import run_at
from storage.tables import read_table

ORIGINAL = (320, 240)
SIGMAS = (0.0, 2.0)
Bools = npt.NDArray[np.bool_]


def main() -> None:
    """Print a line for each map."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="URL or directory of a finished run")
    parser.add_argument("boxes", type=Path, help="JSON file of the boxes")
    given = parser.parse_args()
    rows = pd.DataFrame(list(measured(given.run, json.loads(given.boxes.read_text()))))
    print(f"{rows['clip'].nunique()} clips of {rows['video'].nunique()} videos with boxes")
    print(f"{'what':36} {'in the box':>10} {'95 %':>16} {'area':>6} {'ratio':>6} {'95 %':>14}")
    for what, part in rows.groupby("what", sort=False):
        print(f"{what:36} {summary(part)}")


def measured(run: str, boxes: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each clip that has boxes and each map: the share inside them, and their area."""
    root, paths = run_at(run)
    description = read_run(root, paths)
    dataset = root.dataset(description["dataset_id"])
    view = View.from_dict(root.read_json(dataset.description)["view"])
    by_video = {name.split("/", 1)[1]: about["tubes"] for name, about in boxes.items()}
    for clip in read_table(root, dataset.index).to_pylist():
        if clip["video"] not in by_video:
            continue
        n, at = clip["n_valid_frames"], clip["clip"]
        inside, boxed = box_mask(by_video[clip["video"]], clip["start_frame"], n, view)
        if not boxed.any():
            continue
        flow = read_block(root, dataset.motion, at, at + 1, ["flow"])["flow"][0, :n].astype(np.float32)
        labels = {"clip": at, "video": clip["video"], "group": clip["group"]}
        maps = {**moved(flow), **relevant(root, paths, description, at, n)}
        for what, weights in maps.items():
            weights = weights[boxed]
            if weights.sum() > 0:
                share = float(weights[inside[boxed]].sum() / weights.sum())
                yield {**labels, "what": what, "share": share, "area": float(inside[boxed].mean())}


def box_mask(tubes: Sequence[Mapping[str, Any]], start: int, n: int, view: View) -> tuple[Bools, Bools]:
    """Where the boxes are in a clip, (time, y, x), and which of its frames have one, (time,)."""
    inside, boxed = np.zeros((n, *view.crop), bool), np.zeros(n, bool)
    width, height = resized_size(*ORIGINAL, view)
    top, left = crop_window(height, width, view)
    across, down = width / ORIGINAL[0], height / ORIGINAL[1]
    for tube in tubes:
        for place, (x, y, w, h) in enumerate(tube["boxes_xywh"]):
            time = tube["sf"] - 1 + place - start
            if 0 <= time < n:
                rows = slice(max(0, round(y * down) - top), max(0, round((y + h) * down) - top))
                columns = slice(max(0, round(x * across) - left), max(0, round((x + w) * across) - left))
                inside[time, rows, columns] = boxed[time] = True
    return inside, boxed


def moved(flow: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float64]]:
    """The voxels that move, by the flow as it is and without the camera's motion."""
    left = object_flow(flow, camera_motion(flow))
    return {"what moves": moving(flow) * 1.0, "what moves by itself": moving(left) * 1.0}


def relevant(root: Any, paths: Any, description: Mapping[str, Any], at: int, n: int) -> dict[str, Any]:
    """Positive relevance of every method, whole and after the selective step."""
    found = {}
    for method in description["settings"]["methods"]:
        cube = read_relevance(root, paths.relevance, method, at, at + 1)[0, :n]
        for sigma in SIGMAS:
            parameters = SelectiveParameters(**description["settings"]["selective"], sigma=sigma or 1.0)
            kept = selective_mask(torch.from_numpy(cube), n, parameters).numpy() if sigma else True
            found[f"{method}, {f'{sigma:g} sigma' if sigma else 'baseline'}"] = np.maximum(cube, 0.0) * kept
    return found


def summary(part: pd.DataFrame) -> str:
    """Means over clips, with intervals over groups of videos."""
    groups = part.group.to_numpy()
    share, area = (group_sums(part[name].to_numpy(), groups) for name in ("share", "area"))
    inside = ratio_interval(share.total, share.n, of="share") or (np.nan, np.nan)
    ratio = ratio_interval(share.total, area.total, of="positive") or (np.nan, np.nan)
    mean, chance = part.share.mean(), part.area.mean()
    return (
        f"{100 * mean:8.1f} % {100 * inside[0]:6.1f} to {100 * inside[1]:4.1f} % {100 * chance:4.1f} % "
        f"{mean / chance:6.2f} {ratio[0]:6.2f} to {ratio[1]:4.2f}"
    )


if __name__ == "__main__":
    main()
