"""A finished run of made-up videos and cubes, written by the real stages but decoding and the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from selrel.clips.profiles import Profile, View
from selrel.explain import beside
from selrel.scores.aggregate import SIGMA
from storage.arrays.cubes import (
    FROZEN_SHARE,
    create_frames,
    create_motion,
    create_relevance,
    encode,
    logits_of,
    write_block,
)
from storage.runs import write_run
from storage.stores.receipts import Written, file_hashes, write_receipt
from storage.stores.root import Root
from storage.tables import write_table
from tasks.clips import Clips, clips_of
from tasks.running.effort import record_effort
from tasks.running.stage import Work
from tasks.stages.motion import moved_shares
from tasks.stages.report import report
from tasks.stages.score import score_block

CLASSES = ("Archery", "Hammering", "HammerThrow")
METHODS = ("deep_taylor", "guided_backprop")
DATASET, RUN = "made-dataset", "made-0123456789abcdef"
_BLOCK = 16
# The motion share of every clip when it is frozen.
MADE_FROZEN_SHARE = 0.125


@dataclass(frozen=True)
class Made:
    """A run, and what went into it."""

    url: str
    frames: np.ndarray
    flow: np.ndarray
    cubes: dict[str, np.ndarray]
    clips: pd.DataFrame


def make_run(
    root: str | Path,
    *,
    n_clips: int = 7,
    size: tuple[int, int] = (24, 32),
    classes: Sequence[str] = CLASSES,
    methods: Sequence[str] = METHODS,
    length: int = 16,
    sigmas: Sequence[float] = (1.0, SIGMA, 3.0),
    added_to_logits: float = 0.0,
    still: Sequence[str] = (),
    block_clips: int = _BLOCK,
    reliances: Mapping[str, float] | None = None,
) -> Made:
    """Write a run of `n_clips` clips of this height and width, and its report; every third clip is short.

    Nothing moves in the videos named by `still`. Each change of `reliances` takes this part of the score.
    """
    place, rng = Root(str(root)), np.random.default_rng(7)
    view = View(resize=(size[1], size[0]), crop=size, clip_length=length)
    _write_dataset(place, view, n_clips, classes, block_clips)
    clips = clips_of(place, DATASET)
    made = Made(
        url=place.join(f"runs/{RUN}"),
        frames=_frames(rng, n_clips, length, size),
        flow=np.zeros((n_clips, length, *size, 2), np.float16),
        cubes={method: np.empty((n_clips, length, *size), np.float32) for method in methods},
        clips=clips.table,
    )
    made.flow[..., 0] = rng.normal(0, 1, made.flow.shape[:-1])
    made.flow[-1, -1] = np.nan
    made.flow[clips.table.video.isin(still)] = 0
    for cube in made.cubes.values():
        cube[:] = rng.normal(0, 1, cube.shape) ** 3 / cube[0].size
    explained = _write_cubes(place, clips, made, added_to_logits, reliances or {})
    _write_run_json(place, view, classes, methods, sigmas, list(reliances or ()))
    paths = place.run(RUN)
    seconds = [{"method": name, "seconds_per_clip": 0.01, "warm": True} for name in ("forward", *methods)]
    for block, (start, stop) in enumerate(clips.ranges):
        write_table(place, paths.overhead("explain", block), pd.DataFrame(seconds))
        written = explained[block] | file_hashes(place, [paths.overhead("explain", block)])
        write_receipt(place, paths, "explain", block, written, start=start, stop=stop)
        scores = score_block(Work.read(place, RUN, ""), block)
        write_receipt(place, paths, "score", block, scores, start=start, stop=stop)
        record_effort(place, paths, "score", blocks=1, worker_seconds=2.0, arithmetic=1.0)
    report.fn(place.url, RUN)
    return made


def _frames(rng: np.random.Generator, n_clips: int, length: int, size: tuple[int, int]) -> np.ndarray:
    frames = np.repeat(rng.integers(0, 120, (n_clips, 1, *size, 3), dtype=np.uint8), length, axis=1)
    for t in range(length):
        frames[:, t, :4, t : t + 4] = (230, 200, 60)
    return frames


def _write_dataset(place: Root, view: View, n_clips: int, classes: Sequence[str], block_clips: int) -> None:
    paths, at = place.dataset(DATASET), np.arange(n_clips)
    labels = at % len(classes)
    table = pd.DataFrame(
        {
            "clip": at,
            "video": [f"v_{n // 2:04d}_g{n % 5:02d}.avi" for n in at],
            "class": [classes[label] for label in labels],
            "label": labels,
            "group": [f"g{n % 5:02d}" for n in at],
            "split": "test",
            "start_frame": view.clip_length * (at % 2),
            "n_valid_frames": np.where(at % 3 == 2, view.clip_length // 2, view.clip_length),
            "fps": 25.0,
            "n_frames": 2 * view.clip_length,
        }
    )
    place.write_json(
        paths.description,
        {
            "classes": list(classes), "view": view.as_dict(), "block_clips": block_clips, "split": 1,
            "subset": "test", "videos": [],
        },
    )  # fmt: skip
    excluded = {"video": "broken.avi", "class": classes[0], "n_frames": 0, "header_frames": 9}
    write_table(
        place, paths.exclusions, pd.DataFrame([{**excluded, "kind": "excluded", "reason": "no frame"}])
    )
    write_table(place, paths.index, table)
    of_index = file_hashes(place, [paths.description, paths.index, paths.exclusions])
    write_receipt(place, paths, "dataset", 0, of_index)


def _write_cubes(
    place: Root, clips: Clips, made: Made, added_to_logits: float, reliances: Mapping[str, float]
) -> list[Written]:
    """Write all cubes with the receipts of all but the explanations; give what was written of those."""
    dataset, run = place.dataset(DATASET), place.run(RUN)
    columns, sizes, n = clips.columns(), clips.sizes(), len(clips.table)
    about: dict[str, dict[str, object]] = {method: {} for method in made.cubes}
    for method in made.cubes:
        about |= {f"{method}_{what}": {"axes": list(axes)} for what, axes in beside(method).items()}
    groups = (
        (dataset, "frames", create_frames(place, dataset.frames, columns, **sizes)),
        (dataset, "flow", create_motion(place, dataset.motion, columns, **sizes)),
        (
            run,
            "relevance",
            create_relevance(
                place,
                run.relevance,
                columns,
                methods=about,
                outputs=clips.classes,
                changes=list(reliances),
                **sizes,
            ),
        ),
    )
    for paths, stage, written in groups:
        write_receipt(place, paths, stage, 0, written)
    predicted = (clips.table.label.to_numpy() + (np.arange(n) % 4 == 3)) % len(clips.classes)
    # A decision to speak of where it is asked about.
    logits = (6 if reliances else 1) * np.eye(len(clips.classes), dtype=np.float32)[predicted]
    logits += np.float32(added_to_logits)
    # Every other clip is flagged: the class below the model's answer is explained.
    target = (predicted + (np.arange(n) % 2 == 0)) % len(clips.classes)
    explained = []
    for block, (start, stop) in enumerate(clips.ranges):
        part = slice(start, stop)
        frames = write_block(place, dataset.frames, start, {"frames": made.frames[part]})
        write_receipt(place, dataset, "decode", block, frames, start=start, stop=stop)
        camera = np.zeros((stop - start, sizes["length"], 2, 3), np.float32)
        moving = {"flow": made.flow[part], "camera": camera, "moved": moved_shares(made.flow[part])}
        motion = write_block(place, dataset.motion, start, moving)
        write_receipt(place, dataset, "motion", block, motion, start=start, stop=stop)
        arrays = {
            "logits": logits[part],
            "predicted": predicted[part].astype(np.int32),
            "target": target[part].astype(np.int32),
            "conservation_error": np.zeros(stop - start, np.float32),
        }
        for method, cubes in made.cubes.items():
            arrays[method], arrays[f"{method}_scale"] = encode(cubes[part])
        if "discriminative" in made.cubes:
            spatial = encode(-made.cubes["discriminative"][part])
            arrays["discriminative_spatial"], arrays["discriminative_spatial_scale"] = spatial
            # A frame gives the more of the decision the later it comes.
            shares = np.linspace(-0.2, 1.1, sizes["length"], dtype=np.float32)
            arrays["discriminative_frames"] = shares[:, None] * logits[part][:, None]
        explained.append(write_block(place, run.relevance, start, arrays))
        if reliances:
            changed = {
                logits_of(change): logits[part] * np.float32(1 - lost) for change, lost in reliances.items()
            }
            if "frozen" in reliances:
                changed[FROZEN_SHARE] = np.full(stop - start, MADE_FROZEN_SHARE, np.float32)
            written = write_block(place, run.relevance, start, changed)
            write_receipt(place, run, "changes", block, written, start=start, stop=stop)
    return explained


def _write_run_json(
    place: Root,
    view: View,
    classes: Sequence[str],
    methods: Sequence[str],
    sigmas: Sequence[float],
    changes: Sequence[str],
) -> None:
    profile = Profile("c3d-jfzhang", view, "BGR", 1.0, (90, 98, 102), (1, 1, 1), "sorted")
    settings = {
        "methods": {method: {} for method in methods},
        "sigmas": list(sigmas),
        "selective": {"edge": "magnitude", "border": "replicate", "floor": 1e-6, "scaling": "none"},
        "motion": {"rule": "tau", "tau": 0.5},
        "target": "predicted",
        "batch_clips": 8,
        **({"changes": list(changes)} if changes else {}),
    }
    description = {
        "dataset_id": DATASET, "data": "ucf", "checkpoint": "c3d.pth.tar", "checkpoint_sha256": "0" * 64,
        "family": "c3d-jfzhang", "model": None, "profile": profile.as_dict(), "settings": settings,
        "drawn": {"seed": 0, "videos": None, "classes": None},
        "gate": {"max_drop": None, "against": None}, "device": "cpu",
    }  # fmt: skip
    write_run(place, place.run(RUN), description)
