"""Names the data set and the run of a request, from its lists, its videos and its checkpoint.

Identity is content. A data set is its videos' names and bytes, the view and the cut into clips; a run
is the checkpoint's bytes, its profile, every setting, the data set and the code. The same inputs
lead to the same directory, so finished work is found and anything else gets a directory of its own.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from selrel.clips.profiles import Profile
from selrel.explain import beside
from selrel.explainer import Explainer
from selrel.models import Recognised, check_outputs, make_model
from storage.checkpoints.files import Checkpoint, read_checkpoint
from storage.datasets.fingerprints import Fingerprints, fingerprints, keep
from storage.datasets.ucf101 import (
    LISTS,
    Dataset,
    Video,
    choose_classes,
    class_label,
    draw_subset,
    file_path,
    hold_out,
    list_files,
    only_classes,
    read_dataset,
    unknown_class,
    video_path,
)
from storage.layout import content_hash, run_name
from storage.runs import is_finished, name_of_run, write_run
from storage.stores.root import Root, UnusableRoot
from storage.videos.reader import UndecodableVideo, header_frames
from tasks.compare import check_alike
from tasks.identity import code_of_data_sets, code_of_runs
from tasks.request import Request
from tasks.running.progress import progress
from tasks.versions import code_version

_OPENCV = "opencv-contrib-python-headless"
_COMPUTE = ("torch", "numpy", _OPENCV, "av")
_OTHERS = ("scipy", "zarr", "pyarrow", "prefect", "distributed")
_BYTES_A_VOXEL = {"frame": 3, "flow": 4, "cube": 2}
_SAMPLED_VIDEOS = 20
# Hashing more than this takes seconds.
_MANY_BYTES = 2**30
# Videos that a note names.
_NAMED = 5


@dataclass(frozen=True)
class Plan:
    """A checked request, and where its results go.

    Attributes
    ----------
    root, dataset_id, run
        The root URL, the data set's id and the run's name.
    dataset, description
        What `dataset.json` and `run.json` say.
    notes
        Lines to show to the person who asked.
    fingerprints
        Of the videos; `publish` keeps them for the next start.
    """

    root: str
    dataset_id: str
    run: str
    dataset: dict[str, Any]
    description: dict[str, Any]
    notes: tuple[str, ...] = ()
    fingerprints: Fingerprints = field(default_factory=Fingerprints)

    @property
    def data(self) -> str:
        """The directory that holds the videos."""
        return str(self.description["data"])

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
    made, recognised, profile = named(request)
    if not made.finished:
        root = Root(made.root, patient=False)
        paths = root.dataset(made.dataset_id), root.run(made.run)
        free = root.free_bytes()
        if free is not None:
            there = sum(root.size_of(path.directory) for path in paths)
            needed = estimated_bytes(made, estimated_clips(made)) - there
            if needed > free:
                raise UnusableRoot(
                    f"too little disk under {root.url}: {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB "
                    "free; free some, use another root, or fewer videos (--videos)"
                )
        # What can't work fails before anything is decoded.
        Explainer(recognised.model, profile).rehearse(made.description["settings"]["methods"])
        root.check_writable()
    return made


def named(request: Request) -> tuple[Plan, Recognised, Profile]:
    """Name the data set and the run of a request, as `plan` does, without trying whether it can be done."""
    # A wrong address should be told at once.
    root = Root(request.root, patient=False)
    on_disk = read_dataset(request.data, split=request.split, subset=request.subset)
    checkpoint = read_checkpoint(request.checkpoint)
    recognised = make_model(checkpoint.state, family=request.family, factory=request.model)
    # What is left of a data set: the classes that the model tells apart, and the videos asked for.
    found = _told_apart(on_disk, request, checkpoint, recognised.n_outputs)
    if request.classes is not None:
        found = only_classes(found, request.classes)
    if request.held_out_groups:
        _, held_out = hold_out(found.videos, request.held_out_groups, seed=request.seed)
        found = replace(found, videos=held_out)
    check_outputs(recognised.n_outputs, len(found.classes))
    request = replace(request, target=_target(request.target, found.classes))
    profile = recognised.profile.override(**request.profile)
    videos: Sequence[Video] = found.videos
    if request.videos is not None:
        videos = draw_subset(videos, request.videos, seed=request.seed)
    read = _read(root, request, videos)
    dataset = {
        "videos": [
            [v.name, v.class_name, v.label, v.group, v.split, v.size_bytes, read.of[v.name].sha256]
            for v in videos
        ],
        "classes": list(found.classes),
        "view": profile.view.as_dict(),
        **request.kept()["dataset"],
        "code": code_of_data_sets(),
        "opencv": metadata.version(_OPENCV),
        "pyav": metadata.version("av"),
    }
    dataset_id = content_hash(dataset)
    description = _description(request, checkpoint, recognised, profile, dataset_id)
    if request.against is not None:
        check_alike(request.against, description)
    passing = ("data", "checkpoint", "drawn", "others", "gate")
    run_id = content_hash({key: value for key, value in description.items() if key not in passing})
    stem = Path(request.checkpoint).name
    for suffix in (".tar", ".pth", ".pt", ".ckpt", ".safetensors"):
        stem = stem.removesuffix(suffix)
    name = name_of_run(root, run_id) or run_name(stem, run_id)
    notes = _notes(request, on_disk, dataset, read)
    return Plan(root.url, dataset_id, name, dataset, description, notes, read), recognised, profile


def _told_apart(on_disk: Dataset, request: Request, checkpoint: Checkpoint, n_outputs: int) -> Dataset:
    """The classes that the model has outputs for, with their videos."""
    if checkpoint.classes and set(checkpoint.classes) < set(on_disk.classes):
        return choose_classes(on_disk, checkpoint.classes)
    asked, n_classes = request.classes, len(on_disk.classes)
    if asked is None or n_outputs == n_classes:
        return on_disk
    of_these = choose_classes(on_disk, asked)
    if n_outputs != len(asked):
        raise ValueError(
            f"the checkpoint has {n_outputs} outputs, neither one for each of the {n_classes} classes of "
            f"classInd.txt nor for each of the {len(asked)} of --classes; name those that it was trained on"
        )
    return of_these


def publish(made: Plan, *, work: Mapping[str, Any]) -> None:
    """Write what the workers read: `dataset.json` and `run.json`; `work` says where the work is done."""
    root = Root(made.root)
    keep(root, made.data, made.fingerprints)
    description = root.dataset(made.dataset_id).description
    try:
        is_written = root.read_json(description) == made.dataset
    except (FileNotFoundError, ValueError):
        is_written = False
    if not is_written:
        root.write_json(description, made.dataset)
    write_run(root, root.run(made.run), {**made.description, "work": dict(work)})


def _read(root: Root, request: Request, videos: Sequence[Video]) -> Fingerprints:
    """What videos and lists hold; what may have changed is read, with a bar or a line if that takes long."""
    with ExitStack() as shown:

        def advance(n_files: int, n_bytes: int) -> Callable[[], object]:
            if n_bytes < _MANY_BYTES:
                return lambda: None
            show = shown.enter_context(progress("hash", n_files, done=0, unit="videos"))
            return lambda: show(1)

        paths = {video.name: video.path for video in videos}
        paths |= list_files(request.data, split=request.split, subset=request.subset)
        path_of = partial(file_path, request.data)
        return fingerprints(root, request.data, paths, path_of=path_of, advance=advance)


def _description(
    request: Request, checkpoint: Checkpoint, recognised: Recognised, profile: Profile, dataset_id: str
) -> dict[str, Any]:
    kept = request.kept()
    return {
        "dataset_id": dataset_id,
        "data": os.path.abspath(request.data),
        "checkpoint": place_of(request.checkpoint),
        "checkpoint_sha256": checkpoint.sha256,
        "family": recognised.family,
        "profile": profile.as_dict(),
        **{name: kept[name] for name in ("model", "settings", "drawn")},
        "gate": {**kept["gate"], "against": request.against and Root(request.against).url},
        **machinery(),
        "others": {
            "selrel": code_version(),
            "python": platform.python_version(),
            **{n: metadata.version(n) for n in _OTHERS},
        },
    }


def machinery() -> dict[str, Any]:
    """What computes results here, and is part of a run's identity: code, libraries, kind of device."""
    return {
        "code": code_of_runs(),
        "versions": {name: metadata.version(name) for name in _COMPUTE},
        "device": "cuda" if torch.cuda.is_available() else "cpu",
    }


def place_of(checkpoint: str) -> str:
    """A checkpoint's absolute path or URL, which means the same on every machine that sees the file."""
    return checkpoint if checkpoint.startswith("s3://") else os.path.abspath(checkpoint)


def _target(target: str, classes: Sequence[str]) -> str:
    """A target in its one form: a class is called as in classInd.txt."""
    if target in ("predicted", "true", "video"):
        return target
    label = class_label(target, tuple(classes))
    if label is None:
        raise ValueError(
            f"target {target!r} is unknown; use predicted, true, video, or the name of a class: "
            f"{unknown_class(target, classes)}"
        )
    return classes[label]


def _notes(
    request: Request, found: Dataset, dataset: Mapping[str, Any], read: Fingerprints
) -> tuple[str, ...]:
    notes = [f"{len(dataset['videos']):,} of {len(found.videos):,} videos on disk chosen"]
    n_asked, n_classes = len(request.classes or dataset["classes"]), len(dataset["classes"])
    if n_asked < n_classes:
        notes.append(f"of the {n_classes} classes that the model tells apart, videos of {n_asked} are chosen")
    if request.classes is None and n_classes < len(found.classes):
        notes.append(
            f"the checkpoint was trained on {n_classes} of the {len(found.classes)} classes, "
            "so there are no others"
        )
    if found.absent:
        notes.append(
            f"{found.absent:,} videos that the lists name (split {request.split}, {request.subset}) are not "
            f"in {request.data}; they are left out"
        )
    if found.passed_over:
        notes.append(found.passed_over_note)
    changed = {
        kind: [name for name in read.changed if name.startswith(f"{LISTS}/") == (kind == "list")]
        for kind in ("video", "list")
    }
    if changed["video"]:
        told = f"{_some(changed['video'], 'video')} changed since {read.since}"
        notes.append(f"{told}, which makes another data set")
    if changed["list"]:
        told = f"{_some(changed['list'], 'list')} changed since {read.since}"
        notes.append(f"{told}; a video of another class or split makes another data set")
    if read.gone:
        notes.append(f"{_some(read.gone, 'file')} gone since {read.since}")
    return tuple(notes)


def _some(names: Sequence[str], kind: str) -> str:
    """How many files of a kind, and which, up to a few."""
    some = ", ".join(names[:_NAMED]) + (", .." if len(names) > _NAMED else "")
    return f"1 {kind} ({some}) has" if len(names) == 1 else f"{len(names):,} {kind}s ({some}) have"


def estimated_clips(made: Plan) -> int:
    """The number of clips, from the headers of a sample of the videos."""
    names = [row[0] for row in made.dataset["videos"]]
    sample = names[:: max(1, len(names) // _SAMPLED_VIDEOS)]
    length = made.dataset["view"]["clip_length"]
    clips = 0.0
    for name in sample:
        with suppress(UndecodableVideo):
            n_frames = header_frames(video_path(made.data, name))
            # Headers lie; a video is taken for at most an hour, and for at least one clip.
            clips += min(max(1.0, math.ceil(n_frames / length)), 90_000 / length)
    return round(clips / len(sample) * len(names))


def estimated_bytes(made: Plan, clips: int) -> int:
    """An upper estimate of what a run of so many clips writes."""
    view = made.dataset["view"]
    voxels = int(view["clip_length"] * view["crop"][0] * view["crop"][1])
    methods = made.description["settings"]["methods"]
    # Some methods give more than one cube.
    n_cubes = sum(1 + sum(axes[-1] == "x" for axes in beside(name).values()) for name in methods)
    cubes = _BYTES_A_VOXEL["cube"] * n_cubes
    return clips * voxels * (_BYTES_A_VOXEL["frame"] + _BYTES_A_VOXEL["flow"] + cubes)
