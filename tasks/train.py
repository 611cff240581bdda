"""Train: fit a C3D to the training videos of a split and publish its weights."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.clips import loop_pad, windows
from selrel.models import families
from selrel.models.c3d import C3D
from selrel.profiles import Profile, View, resize_frame
from selrel.training import Epoch, Recipe, Samples, fit, initialise
from storage.checkpoints import write_checkpoint
from storage.ucf101 import Dataset, Video, label_index, read_dataset
from storage.videos import UndecodableVideo, read_frames
from tasks.progress import progress

FAMILY = "c3d-jfzhang"
# Resized videos are kept in memory up to this; the others are decoded again for every clip.
KEEP_BYTES = 2 << 30

_log = logging.getLogger("selrel")


@task(name="train", cache_policy=NO_CACHE)
def train(
    data: str,
    checkpoint: str,
    *,
    split: int,
    widths: Sequence[int],
    hidden: Sequence[int],
    dropout: float,
    recipe: Mapping[str, Any],
    seed: int,
    device: str,
) -> dict[str, Any]:
    """Train a C3D from new weights on a split's training videos, and publish it.

    Parameters
    ----------
    data, split, seed, device
        The data set's directory, its split 1 to 3, the seed of everything, and torch's device.
    checkpoint : str
        The file to write, in jfzhang95's format, with a ``.sha256`` beside it; it must not exist.
    widths, hidden, dropout
        As `C3D` takes them.
    recipe : mapping
        Settings of `selrel.training.Recipe`.

    Returns
    -------
    dict
        ``checkpoint``, ``sha256``, ``classes`` (in the order of the outputs) and ``history``, one dict an
        epoch with the fields of `selrel.training.Epoch`.

    Raises
    ------
    ValueError, OSError
        For bad input, in one line, before anything is trained.
    """
    settings = recipe_of(recipe)
    _check_target(checkpoint)
    profile = families()[FAMILY][0].profile
    learn, held_out = (read_dataset(data, split=split, subset=subset) for subset in ("train", "test"))
    model = C3D(widths, hidden, len(learn.classes), dropout=dropout)
    samples = read_samples(learn, profile)
    initialise(model, samples, profile=profile, seed=seed)
    validation = read_samples(held_out, profile) if held_out.videos else None
    epochs = fit(
        model, samples, profile=profile, recipe=settings, validation=validation, seed=seed, device=device
    )
    history = [dataclasses.asdict(epoch) for epoch in _shown(epochs, settings.epochs)]
    outputs = label_index(learn.classes, profile.label_order)
    made = {
        "classes": [name for _, name in sorted(zip(outputs, learn.classes, strict=True))],
        "history": history,
    }
    how = {"recipe": dataclasses.asdict(settings), "seed": seed, "split": split, "dropout": dropout}
    meta = {"epoch": settings.epochs, "profile": profile.as_dict(), **how, **made}
    sha256 = write_checkpoint(checkpoint, model.state_dict(), meta=meta)
    return {"checkpoint": checkpoint, "sha256": sha256, **made}


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """Make the recipe of its settings; the paper's where none is given.

    Raises
    ------
    ValueError
        If a setting is unknown (the message lists the known ones) or out of range.
    """
    known = [field.name for field in dataclasses.fields(Recipe)]
    if unknown := sorted(set(settings) - set(known)):
        raise ValueError(f"the recipe has no {', '.join(unknown)}; known: {', '.join(known)}")
    return Recipe(**settings)


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
    labels = [outputs[video.label] for video in dataset.videos for _ in range(clips.add(video))]
    return Samples(clips.read, np.array(labels, dtype=np.int64))


class _Clips:
    """Reads clips from memory, or from the video where memory did not suffice."""

    def __init__(self, view: View, keep_bytes: int) -> None:
        self._view = view
        self._room = keep_bytes
        self._kept: dict[str, npt.NDArray[np.uint8]] = {}
        self._windows: list[tuple[str, int, int]] = []

    def add(self, video: Video) -> int:
        """Take a video in, and give the number of its clips."""
        try:
            frames = [resize_frame(frame, self._view) for frame in read_frames(video.path)]
        except UndecodableVideo as error:
            _log.warning("%s is left out of the training: %s", video.name, error.reason)
            return 0
        size = sum(frame.nbytes for frame in frames)
        if size <= self._room:
            self._room -= size
            self._kept[video.path] = np.stack(frames)
        cut = windows(len(frames), length=self._view.clip_length)
        self._windows += [(video.path, start, len(frames)) for start, _ in cut]
        return len(cut)

    def read(self, sample: int, shift: int) -> npt.NDArray[np.uint8]:
        """As `selrel.training.Samples.read`."""
        path, start, n_frames = self._windows[sample]
        length = self._view.clip_length
        if shift:
            start = min(max(0, start + shift), max(0, n_frames - length))
        return loop_pad(self._frames(path, start, min(start + length, n_frames)), length)

    def _frames(self, path: str, start: int, stop: int) -> npt.NDArray[np.uint8]:
        if path in self._kept:
            return self._kept[path][start:stop]
        found = read_frames(path, start=start, stop=stop)
        return np.stack([resize_frame(frame, self._view) for frame in found])


def _shown(epochs: Iterable[Epoch], n_epochs: int) -> Iterable[Epoch]:
    """Hand the epochs on, and show each."""
    with progress("train", n_epochs, done=0, unit="epochs") as advance:
        for epoch in epochs:
            held_out = epoch.validation_accuracy
            _log.info(
                "epoch %d: loss %.3f, accuracy %.0f %%%s",
                epoch.epoch,
                epoch.loss,
                100 * epoch.accuracy,
                f", held out {100 * held_out:.0f} %" if held_out is not None else "",
            )
            advance(1)
            yield epoch


def _check_target(checkpoint: str) -> None:
    directory = os.path.dirname(os.path.abspath(checkpoint))
    if os.path.exists(checkpoint):
        raise FileExistsError(f"{checkpoint} exists already; give another name, or remove it first")
    if not os.access(directory, os.W_OK):
        raise FileNotFoundError(f"{checkpoint} can't be written: {directory} is no directory to write to")
