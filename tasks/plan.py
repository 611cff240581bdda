"""Turns a request into named places: reads the lists and the checkpoint, and gives both their identity.

Identity is content. A data set is its videos' names and sizes, the view and the cut into clips; a run
is the checkpoint's bytes, its profile, every setting, the data set and the code. The same inputs
lead to the same place, so finished work is found and anything else gets a place of its own.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from selrel.models import Recognised, check_outputs, recognise
from selrel.profiles import Profile
from storage.checkpoints import Checkpoint, read_checkpoint
from storage.layout import Root, content_hash, run_name
from storage.runs import is_finished, write_run
from storage.ucf101 import Dataset, Video, draw_subset, read_dataset
from storage.videos import UndecodableVideo, header_frames
from tasks.request import Request

_ROOMS = ("selrel", "storage", "tasks")
_LIBRARIES = ("torch", "numpy", "opencv-contrib-python-headless", "zarr", "pyarrow", "prefect", "distributed")
_BYTES_A_VOXEL = {"frame": 3, "flow": 4, "cube": 2}
_SAMPLED_VIDEOS = 20


@dataclass(frozen=True)
class Plan:
    """A checked request with the places its results go to.

    Attributes
    ----------
    root, dataset_id, run
        The root URL, the data set's id and the run's name.
    dataset, description
        What `dataset.json` and `run.json` say.
    notes
        Lines to show to the person who asked.
    """

    root: str
    dataset_id: str
    run: str
    dataset: dict[str, Any]
    description: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def url(self) -> str:
        """Where the run lies."""
        root = Root(self.root)
        return root.join(root.run(self.run).directory)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        root = Root(self.root)
        return is_finished(root, root.run(self.run))


def plan(request: Request) -> Plan:
    """Check a request against its files, and name the data set and the run.

    Nothing is written but a probe of the root, and that is deleted.

    Raises
    ------
    ValueError, OSError
        For every bad input, in one line: what is wrong, what is allowed, what to do.
    """
    root = Root(request.root)
    found = read_dataset(request.data, split=request.split, subset=request.subset)
    checkpoint = read_checkpoint(request.checkpoint)
    recognised = recognise(checkpoint.state, family=request.family)
    check_outputs(recognised.n_outputs, len(found.classes))
    _check_target(request.target, found.classes)
    profile = recognised.profile.override(**request.profile)
    dataset = _dataset(request, found, profile)
    dataset_id = content_hash(_identity(dataset, leave_out=("data",)))
    description = _description(request, checkpoint, recognised, profile, dataset_id)
    run_id = content_hash(_identity(description, leave_out=("checkpoint", "versions", "drawn")))
    name = run_name(_checkpoint_name(request.checkpoint), run_id)
    made = Plan(root.url, dataset_id, name, dataset, description, _notes(request, found, dataset))
    if not made.finished:
        root.check_writable()
        _check_space(root, made, found)
    return made


def publish(made: Plan) -> None:
    """Write what the workers read: `dataset.json` and `run.json`."""
    root = Root(made.root)
    root.write_json(root.dataset(made.dataset_id).description, made.dataset)
    write_run(root, root.run(made.run), made.description)


@cache
def code_version() -> str:
    """The version of the code that computes results: the release and a hash of the sources themselves."""
    here = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for room in _ROOMS:
        for file in sorted((here / room).rglob("*.py")):
            digest.update(f"{file.relative_to(here).as_posix()}\0".encode() + file.read_bytes())
    return f"{metadata.version('selrel')}+{digest.hexdigest()[:12]}"


def _identity(description: Mapping[str, Any], *, leave_out: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in description.items() if key not in leave_out}


def _dataset(request: Request, found: Dataset, profile: Profile) -> dict[str, Any]:
    videos: Sequence[Video] = found.videos
    if request.videos is not None:
        videos = draw_subset(videos, request.videos, seed=request.seed)
    return {
        "data": os.path.abspath(request.data),
        "videos": [[v.name, v.class_name, v.label, v.group, v.split, v.size_bytes] for v in videos],
        "classes": list(found.classes),
        "split": request.split,
        "subset": request.subset,
        "view": profile.view.as_dict(),
        "block_clips": request.block_clips,
    }


def _description(
    request: Request, checkpoint: Checkpoint, recognised: Recognised, profile: Profile, dataset_id: str
) -> dict[str, Any]:
    return {
        "dataset_id": dataset_id,
        "checkpoint": os.path.abspath(request.checkpoint),
        "checkpoint_sha256": checkpoint.sha256,
        "family": recognised.family,
        "profile": profile.as_dict(),
        "settings": request.settings(),
        "code_version": code_version(),
        "versions": {"python": platform.python_version(), **{n: metadata.version(n) for n in _LIBRARIES}},
        "drawn": {
            "data": os.path.abspath(request.data),
            "seed": request.seed,
            "videos": request.videos,
        },
    }


def _check_target(target: str, classes: Sequence[str]) -> None:
    if target not in ("predicted", "true", "video", *classes):
        raise ValueError(
            f"target {target!r} is unknown; use predicted, true, video, or one of the {len(classes)} class "
            f"names, such as {classes[0]}"
        )


def _checkpoint_name(path: str) -> str:
    name = Path(path).name
    for suffix in (".tar", ".pth", ".pt", ".ckpt", ".safetensors"):
        name = name.removesuffix(suffix)
    return name


def _notes(request: Request, found: Dataset, dataset: Mapping[str, Any]) -> tuple[str, ...]:
    notes = [f"{len(dataset['videos']):,} of {len(found.videos):,} videos on disk chosen"]
    if found.absent:
        notes.append(
            f"{found.absent:,} videos that the lists name (split {request.split}, {request.subset}) are not "
            f"in {request.data}; they are left out"
        )
    return tuple(notes)


def _check_space(root: Root, made: Plan, found: Dataset) -> None:
    free = root.free_bytes()
    if free is None:
        return
    needed = estimated_bytes(made, found)
    if needed > free:
        raise ValueError(
            f"too little disk under {root.url}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free; "
            "free some, use another root, or fewer videos (--videos)"
        )


def estimated_bytes(made: Plan, found: Dataset) -> int:
    """An upper estimate of what a run writes, from the headers of a sample of its videos."""
    view = made.dataset["view"]
    voxels = view["clip_length"] * view["crop"][0] * view["crop"][1]
    paths = {video.name: video.path for video in found.videos}
    names = [row[0] for row in made.dataset["videos"]]
    sample = names[:: max(1, len(names) // _SAMPLED_VIDEOS)]
    clips = sum(_header_clips(paths[name], view["clip_length"]) for name in sample) / len(sample) * len(names)
    cubes = _BYTES_A_VOXEL["cube"] * len(made.description["settings"]["methods"])
    return int(clips * voxels * (_BYTES_A_VOXEL["frame"] + _BYTES_A_VOXEL["flow"] + cubes))


def _header_clips(path: str, length: int) -> float:
    try:
        # Headers lie; a video is taken for at most an hour, and for at least one clip.
        return min(max(1.0, header_frames(path) / length), 90_000 / length)
    except UndecodableVideo:
        return 0.0
