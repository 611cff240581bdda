"""Train: fit a C3D to the training videos of a split and publish a checkpoint an epoch."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.clips.profiles import Profile, View, resize_frame
from selrel.clips.windows import loop_pad, windows
from selrel.models import families
from selrel.models.c3d import C3D, HIDDEN, WIDTHS
from selrel.training.fine_tuning import fine_tuned
from selrel.training.fitting import Epoch, Samples, Trainer, initialise
from selrel.training.recipe import Recipe
from storage.checkpoints.files import read_checkpoint
from storage.checkpoints.trainings import (
    DamagedState,
    describe,
    publish,
    read_state,
    write_history,
    write_state,
)
from storage.datasets.fingerprints import Fingerprint, fingerprint, sha256_of, still
from storage.datasets.ucf101 import Dataset, Video, choose_classes, hold_out, label_index, read_dataset
from storage.layout import TrainingPaths
from storage.stores.root import Root, training_at
from storage.videos.reader import UndecodableVideo, read_frames
from tasks.request import Training
from tasks.running.progress import progress

FAMILY = "c3d-jfzhang"
# Resized videos are kept in memory up to this; the others are decoded again for every clip.
KEEP_BYTES = 2 << 30
_PICTURE_EVERY = 10

_log = logging.getLogger("selrel")
Row = dict[str, Any]


@task(name="train", cache_policy=NO_CACHE)
def train(training: Training, recipe: Recipe) -> Row:
    """Train a C3D on a split's training videos, publish each epoch and the final weights; go on after a kill.

    Beside the checkpoint lies ``<checkpoint>.training/``: a checkpoint an epoch, history.parquet, curve.png,
    and the state that the same call goes on from.

    Returns
    -------
    dict
        ``checkpoint``, ``sha256``, ``classes`` (in the order of the outputs) and ``history``, one dict an
        epoch with the fields of `selrel.training.fitting.Epoch`.

    Raises
    ------
    ValueError, OSError
        For bad input, in one line, before anything is trained.
    """
    directory, paths = training_at(training.checkpoint)
    _check(training.device, directory, paths)
    learn, held_out = divided(training)
    profile = families()[FAMILY][0].profile
    widths, hidden, dropout = training.widths or WIDTHS, training.hidden or HIDDEN, training.dropout
    source = None
    if training.weights is None:
        model = C3D(widths, hidden, len(learn.classes), dropout=dropout)
    else:
        start = read_checkpoint(training.weights)
        source = start.sha256
        model = fine_tuned(
            start.state,
            len(learn.classes),
            colour_order=profile.colour_order,
            dropout=dropout,
            seed=training.seed,
        )
    about = {
        "model": {"widths": list(widths), "hidden": list(hidden), "dropout": dropout, "weights": source},
        "recipe": dataclasses.asdict(recipe),
        "seed": training.seed,
    }
    listed = [_listed(learn), _listed(held_out)]
    describe(directory, paths, {"data": listed, "classes": list(learn.classes), **about})
    samples = read_samples(learn, profile)
    if source is None:
        initialise(model, samples, profile=profile, seed=training.seed)
    trainer = Trainer(
        model,
        samples,
        profile=profile,
        recipe=recipe,
        validation=_judges(learn, held_out, profile),
        seed=training.seed,
        device=training.device,
        readers=torch.get_num_threads(),
    )
    outputs = label_index(learn.classes, profile.label_order)
    about |= {
        "split": training.split,
        "dropout": dropout,
        "profile": profile.as_dict(),
        # In the order of the outputs.
        "classes": [name for _, name in sorted(zip(outputs, learn.classes, strict=True))],
    }
    return _carried_out(trainer, model, directory, paths, about, every=training.every)


def divided(training: Training) -> tuple[Dataset, Dataset]:
    """Divide a data set into what is learnt from and what judges, with no group in both.

    Raises
    ------
    ValueError, OSError
        As `train`.
    """

    def read(subset: str) -> Dataset:
        found = read_dataset(training.data, split=training.split, subset=subset)
        if found.passed_over and subset != "test":
            _log.info("%s", found.passed_over_note)
        return found if training.classes is None else choose_classes(found, training.classes)

    learn = read(training.subset)
    if not training.held_out_groups:
        held_out = read("test")
    else:
        parts = hold_out(learn.videos, training.held_out_groups, seed=training.seed)
        learn, held_out = (dataclasses.replace(learn, videos=part) for part in parts)
    taught = {video.class_name for video in learn.videos}
    if training.classes is not None and (missing := [name for name in learn.classes if name not in taught]):
        raise ValueError(
            f"there is no video to learn {', '.join(missing)} from; choose other classes, another split, or "
            "subset all with held-out groups"
        )
    if both := {video.group for video in learn.videos} & {video.group for video in held_out.videos}:
        raise ValueError(
            f"group {min(both)} is in the train list and in the test list; what is learnt from can't judge: "
            "move its videos to one of them, or hold out groups of the train list"
        )
    return learn, held_out


def read_samples(dataset: Dataset, profile: Profile, *, keep_bytes: int = KEEP_BYTES) -> Samples:
    """Make every clip of the videos readable by number.

    Parameters
    ----------
    dataset : Dataset
        Its videos are decoded once, to count their frames; one that can't be decoded is logged and left out.
    profile : Profile
        Size of the frames, length of the clips, order of the outputs.
    keep_bytes : int
        Memory that may be used to keep frames.

    Returns
    -------
    Samples
        The clips: consecutive windows, the last one loop padded.
    """
    clips = _Clips(profile.view, keep_bytes)
    outputs = label_index(dataset.classes, profile.label_order)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        counts = list(pool.map(clips.decoded, dataset.videos))
    labels = [
        outputs[video.label]
        for video, n_frames in zip(dataset.videos, counts, strict=True)
        for _ in range(clips.add(video, n_frames))
    ]
    return Samples(clips.read, np.array(labels, dtype=np.int64))


class _Clips:
    """Reads clips from memory, or from the video where memory did not suffice."""

    def __init__(self, view: View, keep_bytes: int) -> None:
        self._view = view
        self._room = keep_bytes
        self._lock = Lock()
        self._kept: dict[str, npt.NDArray[np.uint8]] = {}
        self._read: dict[str, Fingerprint] = {}
        self._windows: list[tuple[str, int, int]] = []

    def decoded(self, video: Video) -> int:
        """Decode a video to its end, keep its frames if there is room, and give their number."""
        n_frames, size, kept = 0, 0, list[npt.NDArray[np.uint8]]()
        self._read[video.path] = fingerprint(video.path)
        try:
            for frame in read_frames(video.path):
                n_frames += 1
                # A long video is counted to its end, not collected.
                if size <= self._room:
                    kept.append(resize_frame(frame, self._view))
                    size += kept[-1].nbytes
        except UndecodableVideo as error:
            _log.warning("%s is left out of the training: %s", video.name, error.reason)
            return 0
        with self._lock:
            fits = size <= self._room
            self._room -= size * fits
        if fits:
            self._kept[video.path] = np.stack(kept)
        return n_frames

    def add(self, video: Video, n_frames: int) -> int:
        """Cut a video into clips, and give their number."""
        cut = windows(n_frames, length=self._view.clip_length) if n_frames else []
        self._windows += [(video.path, start, n_frames) for start, _ in cut]
        return len(cut)

    def read(self, sample: int, shift: int) -> npt.NDArray[np.uint8]:
        """As `selrel.training.fitting.Samples.read`."""
        path, start, n_frames = self._windows[sample]
        length = self._view.clip_length
        if shift:
            start = min(max(0, start + shift), max(0, n_frames - length))
        stop = min(start + length, n_frames)
        if path in self._kept:
            frames = self._kept[path][start:stop]
        else:
            frames = np.stack(
                [resize_frame(f, self._view) for f in read_frames(path, start=start, stop=stop)]
            )
            self._read[path] = still(path, self._read[path])
        return loop_pad(frames, length)


def _carried_out(
    trainer: Trainer,
    model: C3D,
    place: Root,
    paths: TrainingPaths,
    about: Mapping[str, Any],
    *,
    every: int,
) -> Row:
    """Train what is left, publishing every epoch; the state last, since it says that the epoch is done."""
    history, epochs = _resume(trainer, place, paths), about["recipe"]["epochs"]
    profile = {name: about[name] for name in ("profile", "classes")}

    def published(path: str) -> str:
        meta = {**about, "epoch": trainer.epoch, "history": history}
        return publish(place, path, model.state_dict(), meta=meta, profile=profile)

    with progress("train", epochs, done=trainer.epoch, unit="epochs") as advance:
        for epoch in trainer.epochs():
            judged = epoch.validation_accuracy
            _log.info(
                "epoch %d: loss %.3f, accuracy %.0f %%%s",
                epoch.epoch,
                epoch.loss,
                100 * epoch.accuracy,
                f", held out {100 * judged:.0f} %" if judged is not None else "",
            )
            advance(1)
            history.append(dataclasses.asdict(epoch))
            if trainer.epoch % every == 0:
                published(paths.epoch(trainer.epoch))
            drawn = trainer.epoch % _PICTURE_EVERY == 0 or trainer.epoch == epochs
            write_history(place, paths, history, picture=drawn)
            write_state(place, paths, {**trainer.state(), "history": history})
    sha256 = published(paths.name)
    made = {"checkpoint": place.join(paths.name), "sha256": sha256, "classes": about["classes"]}
    return {**made, "history": history}


def _resume(trainer: Trainer, place: Root, paths: TrainingPaths) -> list[Row]:
    """Bring a training to where it stopped, if it did, and give its epochs."""
    state = read_state(place, paths)
    if state is None:
        return []
    # In this order, on which the bytes of a checkpoint depend.
    fields = [field.name for field in dataclasses.fields(Epoch)]
    try:
        if missing := trainer.state()["schedule"].keys() - state["schedule"].keys():
            raise KeyError(f"schedule {min(missing)}")
        trainer.restore(state)
        history = [{name: row[name] for name in fields} for row in state["history"]]
        sound = trainer.epoch == len(history) and all(
            value is None or isinstance(value, int | float) for row in history for value in row.values()
        )
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        raise DamagedState(_not_this(place, paths, f"{type(error).__name__}: {error}")) from error
    if not sound:
        raise DamagedState(_not_this(place, paths, "its history is not that of its epochs"))
    _log.info("%s goes on after epoch %d", paths.name, trainer.epoch)
    return history


def _not_this(place: Root, paths: TrainingPaths, reason: str) -> str:
    return (
        f"{place.join(paths.state)} is no state of this training ({reason.splitlines()[0]}); remove it, and "
        "the same command starts anew"
    )


def _listed(dataset: Dataset) -> list[list[Any]]:
    """The videos by name and content."""
    found = sha256_of({video.name: video.path for video in dataset.videos})
    return [[video.name, found[video.name]] for video in dataset.videos]


def _judges(learn: Dataset, held_out: Dataset, profile: Profile) -> Samples | None:
    """The clips that judge; None if none are held out."""
    unjudged = {video.class_name for video in learn.videos} - {video.class_name for video in held_out.videos}
    if unjudged:
        _log.warning("no held-out video judges %s", ", ".join(sorted(unjudged)))
    if not held_out.videos:
        return None
    samples = read_samples(held_out, profile)
    if not len(samples.labels):
        raise ValueError(
            f"none of the {len(held_out.videos)} held-out videos can be decoded, so nothing could judge; "
            "see the lines above, and copy them again"
        )
    return samples


def _check(device: str, place: Root, paths: TrainingPaths) -> None:
    """Refuse a device or a target that can't be used before any video is read."""
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    usable = ["cpu", *(["cuda"] if n_gpus else []), *(f"cuda:{number}" for number in range(n_gpus))]
    if device not in usable:
        raise ValueError(
            f"device is {device!r}; usable here: {', '.join(usable)} (`selrel doctor` says why no GPU is)"
        )
    # What its own training has published may be published again: it is the same.
    if place.exists(paths.name) and not place.exists(paths.description):
        raise FileExistsError(
            f"{place.join(paths.name)} exists already; give another name, or remove it first"
        )
    if place.is_local and not os.access(place.url, os.W_OK):
        raise FileNotFoundError(
            f"{place.join(paths.name)} can't be written: {place.url} is no directory to write to"
        )
    place.check_writable()
