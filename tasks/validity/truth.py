"""Truth: what a model does and where its relevance lies, where a synthetic set knows what decides."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from selrel.behaviour import CHANGES, changed
from selrel.clips.profiles import View, crop, resize_frame
from selrel.clips.windows import loop_pad
from selrel.engine.ties import first_highest
from selrel.models import recognise
from selrel.scores.aggregate import SIGMA
from selrel.scores.localisation import swept
from selrel.selective import SelectiveParameters, selective_mask
from selrel.training.fitting import measure
from storage.arrays.cubes import read_relevance
from storage.checkpoints.files import read_checkpoint
from storage.datasets.ucf101 import read_dataset
from storage.drawn.synthetic import Truth, read_truth
from storage.runs import read_run
from storage.stores.root import run_at
from tasks.clips import clips_of
from tasks.train import read_samples

Masks = dict[str, npt.NDArray[np.bool_]]


def truths_of(truth: Truth, view: View) -> Masks:
    """Bring a video's true masks to the model's view: bool (time, y, x) each.

    Returns
    -------
    dict
        ``object``: the object that decides; ``swept``: where it is now, was, or will be one frame apart;
        ``moving``: everything that moves by itself.
    """
    mask = as_seen(truth.mask, view)
    return {"object": mask, "swept": swept(mask), "moving": as_seen(truth.moving, view)}


def as_seen(mask: npt.NDArray[np.bool_], view: View) -> npt.NDArray[np.bool_]:
    """Resize and crop a mask as the view does its frames; a pixel is in it that is mostly covered."""
    frames = [crop(resize_frame(frame.astype(np.uint8) * 255, view), view) for frame in mask]
    return np.stack(frames) > 127


def accuracies(data: str | Path, checkpoint: str | Path, *, split: int = 1) -> Mapping[str, float]:
    """Measure a checkpoint on a split's test clips, as they are and changed in time.

    Returns
    -------
    mapping of str to float
        Share of right answers by change (`selrel.behaviour.CHANGES`).
    """
    recognised = recognise(read_checkpoint(checkpoint).state)
    samples = read_samples(read_dataset(data, split=split, subset="test"), recognised.profile)
    found = {
        change: measure(recognised.model, changed(samples, change), profile=recognised.profile)
        for change in CHANGES
    }
    return {
        change: float((first_highest(torch.from_numpy(logits)).numpy() == samples.labels).mean())
        for change, logits in found.items()
    }


def on_the_object(url: str, data: str | Path, *, method: str = "deep_taylor") -> Mapping[str, float]:
    """Measure how much of a run's positive relevance lies on the objects whose motion decides.

    Returns
    -------
    mapping of str to float
        Means over the clips: ``area`` of the object, its share of the voxels; ``baseline`` and ``selective``,
        its share of the positive relevance of each.
    """
    root, paths = run_at(url)
    description = read_run(root, paths)
    clips = clips_of(root, description["dataset_id"])
    parameters = SelectiveParameters(**description["settings"]["selective"], sigma=SIGMA)
    rows = []
    for start, stop in clips.ranges:
        cubes = read_relevance(root, paths.relevance, method, start, stop)
        for cube, clip in zip(cubes, clips.table.iloc[start:stop].to_dict("records"), strict=True):
            truth = as_seen(read_truth(data, clip["video"]).mask, clips.view)[clip["start_frame"] :]
            n = clip["n_valid_frames"]
            mask = loop_pad(truth[: clips.view.clip_length], clips.view.clip_length)[:n]
            kept = selective_mask(torch.from_numpy(np.array(cube)), n, parameters).numpy()[:n]
            relevance = np.maximum(cube[:n], 0).astype(np.float64)
            rows.append((mask.mean(), _part(relevance, mask), _part(relevance * kept, mask)))
    return dict(zip(("area", "baseline", "selective"), np.nanmean(rows, axis=0).tolist(), strict=True))


def _part(relevance: npt.NDArray[np.float64], mask: npt.NDArray[np.bool_]) -> float:
    total = relevance.sum()
    return float(relevance[mask].sum() / total) if total else np.nan
