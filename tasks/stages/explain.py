"""Explain: one forward pass a batch of clips, all methods on it, their cubes into relevance.zarr."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from selrel.clips.profiles import Profile
from selrel.engine.ties import first_highest
from selrel.explain import beside, default_settings, units
from selrel.explainer import Explainer, Explanation
from selrel.models import make_model
from selrel.selective import SelectiveParameters, selective_mask
from storage.arrays.cubes import create_relevance, encode, read_block, write_block
from storage.checkpoints.files import read_checkpoint
from storage.datasets.ucf101 import label_index
from storage.stores.receipts import Written
from storage.tables import write_tables
from tasks.running.effort import arithmetic
from tasks.running.stage import Once, Stage, Work
from tasks.stages.decode import STAGE as DECODE

Array = npt.NDArray[Any]
Result = TypeVar("Result")
_log = logging.getLogger("selrel")


def explain_block(work: Work, block: int) -> Written:
    """Explain and write the clips of one block."""
    start, stop = work.clips.ranges[block]
    model = model_of(work)
    stopwatch = _Stopwatch(model)
    job = _Job(work, model, stopwatch, stop)
    arrays = _arrays(job, list(in_batches(job.explained, start, stop, size=batch_clips(work))))
    times = pd.DataFrame(stopwatch.rows)
    overhead = write_tables(work.place, {"overhead": (work.paths.overhead("explain", block), times)})
    # Times differ from run to run: their file is vouched for, but they are no result.
    return write_block(work.place, work.paths.relevance, start, arrays) | replace(overhead, sha256={})


@dataclass
class Model:
    """A checkpoint, ready to explain on this worker's device; warm once it has explained a batch."""

    explainer: Explainer
    warm: bool = False


def model_of(work: Work) -> Model:
    """The run's model, loaded and traced once a worker."""
    about = work.description
    profile = json.dumps(about["profile"], sort_keys=True)
    return _model(about["checkpoint"], about["checkpoint_sha256"], profile, about["device"], about["model"])


def batch_clips(work: Work) -> int:
    """The most clips of one forward pass."""
    return int(work.settings["batch_clips"])


def stored_frames(work: Work, start: int, stop: int) -> Array:
    """The frames of a range of clips, uint8 (clip, time, y, x, channel)."""
    return read_block(work.place, work.dataset.frames, start, stop, ["frames"])["frames"]


def outputs(work: Work, model: Model) -> list[int]:
    """The model's output for every label."""
    return label_index(work.clips.classes, model.explainer.profile.label_order)


@lru_cache(maxsize=1)
def _model(path: str, sha256: str, profile_key: str, device_name: str, factory: str | None) -> Model:
    checkpoint = read_checkpoint(path)
    if checkpoint.sha256 != sha256:
        raise ValueError(
            f"{path} changed since the run was planned (sha256 {checkpoint.sha256[:12]}, not {sha256[:12]}); "
            "start again: the new file makes a run of its own"
        )
    profile = Profile.from_dict(json.loads(profile_key))
    family = None if factory else profile.family
    model = make_model(checkpoint.state, family=family, factory=factory).model.to(device_name)
    return Model(Explainer(model, profile))


@dataclass
class _Stopwatch:
    """Measures steps on the device, synchronised."""

    model: Model
    clips: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    def timed(self, step: str, function: Callable[[], Result]) -> Result:
        """Call a function and note the seconds a clip that it took."""
        self._wait()
        began = time.perf_counter()
        result = function()
        self._wait()
        seconds = (time.perf_counter() - began) / self.clips
        self.rows.append({"method": step, "seconds_per_clip": seconds, "warm": self.model.warm})
        return result

    def _wait(self) -> None:
        if self.model.explainer.device.type == "cuda":
            torch.cuda.synchronize(self.model.explainer.device)


@dataclass(frozen=True)
class _Job:
    """One block's work."""

    work: Work
    model: Model
    stopwatch: _Stopwatch
    stop: int
    video_targets: dict[str, int] = field(default_factory=dict)

    def explained(self, start: int, stop: int) -> Explanation:
        """Explain one batch."""
        watch = self.stopwatch
        watch.clips = stop - start
        frames, targets = stored_frames(self.work, start, stop), self.targets(start, stop)
        with arithmetic():
            found = self.model.explainer.explain(
                frames,
                self.work.settings["methods"],
                targets=targets,
                timed=watch.timed,
            )
        # Its masks are for the clock only: once a block, on the batch that is most likely warm.
        if stop == self.stop:
            self.time_selective_step(found, start)
        self.model.warm = True
        return found

    def time_selective_step(self, found: Explanation, start: int) -> None:
        """Measure the selective step on one method's cubes, where they are."""
        parameters = SelectiveParameters(**self.work.settings["selective"])
        valid = self.work.clips.table.n_valid_frames.iloc[start:]
        pairs = list(zip(next(iter(found.cubes.values())), map(int, valid), strict=False))
        self.stopwatch.timed(
            "selective step", lambda: [selective_mask(cube, n, parameters) for cube, n in pairs]
        )

    def targets(self, start: int, stop: int) -> Tensor | None:
        """The outputs to explain; None for those that the model predicts clip by clip."""
        target = self.work.settings["target"]
        rows = self.work.clips.table.iloc[start:stop]
        if target == "predicted":
            return None
        if target == "video":
            for video in set(rows.video) - self.video_targets.keys():
                self.video_targets[video] = self.of_video(video)
            return torch.tensor([self.video_targets[video] for video in rows.video])
        labels = rows.label if target == "true" else [self.work.clips.classes.index(target)] * len(rows)
        of_label = outputs(self.work, self.model)
        return torch.tensor([of_label[label] for label in labels])

    def of_video(self, video: str) -> int:
        """The output with the highest mean logit over all clips of a video."""
        clips = self.work.clips.table.index[self.work.clips.table.video == video]
        first, last = int(clips[0]), int(clips[-1]) + 1
        totals = list(in_batches(self.total_logits, first, last, size=batch_clips(self.work)))
        return int(first_highest(torch.stack(totals).sum(dim=0, keepdim=True)))

    def total_logits(self, start: int, stop: int) -> Tensor:
        """The sum of the logits over a range of clips."""
        frames = stored_frames(self.work, start, stop)
        with arithmetic():
            return self.model.explainer.logits(frames).sum(dim=0)


def in_batches(work: Callable[[int, int], Result], start: int, stop: int, *, size: int) -> Iterator[Result]:
    """Work on a range in batches; halve them from the first that does not fit into memory."""
    while start < stop:
        end = min(start + size, stop)
        try:
            result = work(start, end)
        except torch.OutOfMemoryError:
            if end - start == 1:
                raise
            size = (end - start) // 2
            _log.warning(
                "a batch of %d clips does not fit into the device's memory: going on with %d",
                end - start,
                size,
            )
            continue
        yield result
        start = end


def _arrays(job: _Job, batches: list[Explanation]) -> dict[str, Array]:
    """The arrays of relevance.zarr; outputs in label order, whatever the checkpoint's is."""
    logits = torch.cat([batch.logits for batch in batches]).cpu()
    of_label = outputs(job.work, job.model)
    label_of = torch.tensor(of_label).argsort()
    targets = torch.cat([batch.targets for batch in batches]).cpu()
    arrays: dict[str, Array] = {
        "logits": logits[:, of_label].numpy(),
        # By output, as the explained class is: of two that are equal, the first is another one by label.
        "predicted": label_of[first_highest(logits)].to(torch.int32).numpy(),
        "target": label_of[targets].to(torch.int32).numpy(),
        "conservation_error": torch.cat([b.conservation_error for b in batches]).float().cpu().numpy(),
    }
    for name in (*batches[0].cubes, *batches[0].beside):
        values = torch.cat([(batch.cubes | batch.beside)[name] for batch in batches]).cpu()
        if name in batches[0].beside and values.shape[2:] == logits.shape[1:]:
            arrays[name] = values[..., of_label].numpy()
        else:
            arrays[name], arrays[f"{name}_scale"] = encode(values.numpy())
    return arrays


def _described(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The attributes of the arrays that methods give, with the axes of those that are no cubes."""
    methods = dict(settings["methods"])
    if settings.get("played"):
        methods.setdefault("discriminative", default_settings("discriminative"))
    arrays: dict[str, dict[str, Any]] = {}
    for name, chosen in methods.items():
        about = {"settings": chosen, "units": units(name, chosen)}
        arrays[name] = about
        arrays |= {f"{name}_{what}": {**about, "axes": list(axes)} for what, axes in beside(name).items()}
    return arrays


def _create(work: Work) -> Written:
    return create_relevance(
        work.place,
        work.paths.relevance,
        work.clips.columns(),
        methods=_described(work.settings),
        outputs=work.clips.classes,
        changes=work.settings.get("changes", ()),
        attrs={
            "run": work.run,
            "checkpoint_sha256": work.description["checkpoint_sha256"],
            "profile": work.description["profile"],
            "target": work.settings["target"],
            "comment": "relevance in real units is <method> * <method>_scale",
        },
        **work.clips.sizes(),
    )


def _ready(work: Work, decoded: set[int]) -> set[int]:
    """A target that is its video's needs all of that video's frames."""
    if work.settings["target"] != "video" or len(decoded) == len(work.clips.ranges):
        return decoded
    return {block for block in decoded if work.clips.blocks_of_videos(block) <= decoded}


STAGE: Stage = Stage(
    name="explain",
    of="run",
    block=explain_block,
    needs=(DECODE,),
    before=Once("relevance", _create),
    ready=_ready,
)
