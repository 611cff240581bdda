"""The options of a run, which `selrel explain` and `selrel plan` share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from flows.commands.arguments import Several, given

_DATA = Group("Data", sort_key=1)
_EXPLANATION = Group("Explanation", sort_key=2)
_PROFILE = Group("Profile: what differs from the checkpoint family's", sort_key=3)
_WORK = Group("Work", sort_key=4)
_GATE = Group("Gate", sort_key=5)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is explained, how, and where.

    Parameters
    ----------
    data
        Directory that holds `UCF-101/` and `ucfTrainTestlist/`.
    checkpoint
        The checkpoint: a file, or `s3://bucket/key`.
    root
        Directory or `s3://bucket/prefix` under which all results lie.
    split
        UCF-101's split: 1, 2 or 3.
    subset
        Which of the split's videos; `all` takes every video on disk.
    classes
        Only videos of these classes, of those that the model tells apart; by default of all. A model that has
        an output for just these, and doesn't say what it was trained on, tells no others apart.
    held_out_groups
        Only the groups that `selrel train` held out, if given the same of this, of `--seed`, `--split` and
        `--subset` (that of `train` is train by default) and `--classes`.
    videos
        How many videos to draw, evenly over the classes; all of them by default.
    seed
        Seed of the draw, and of the held-out groups.
    methods
        Explanations; by default the paper's four: `deep_taylor grad_cam guided_backprop guided_grad_cam`.
        Also `gradient_x_input` and `sensitivity`.
    sigmas
        Thresholds of the selective step in standard deviations; by default 0.5 to 4 in steps of 0.5. 2 is
        always among them.
    target
        Class to explain: `predicted` for the clip, `video` (for its whole video), `true`, or a name.
    preset
        Choices that the paper leaves open: ours, or those that fit the paper's figures.
    edge
        Which temporal edges count, instead of the preset's.
    border
        What comes before the first and after the last frame, instead of the preset's.
    floor
        Edges below this share of the largest relevance never count, instead of the preset's.
    scaling
        Scaling of a cube before the filter, instead of the preset's.
    motion_rule
        When a voxel moves: flow longer than tau, or the rule of the authors' code.
    tau
        Pixels per frame.
    changes
        Also ask the model about each clip frozen, shuffled and reversed, for one forward pass each: how much
        of its decision rests on motion, on the order of frames, on the direction of time. `none`: don't.
    alpha
        Deep Taylor's weight of positive contributions, 1 by default; negative ones weigh alpha - 1.
    start
        What a deep Taylor cube sums to: one (the default), or the target's logit.
    family
        The checkpoint's family, where its keys don't tell.
    model
        `package.module:factory`, which makes a model of your own and its profile; the package must be
        importable here and on the workers (`PYTHONPATH`).
    colour_order
        Order of the input channels.
    resize
        Width and height of a frame before the crop.
    crop
        Height and width of the centre crop.
    mean
        Channel means, in the colour order.
    std
        Channel deviations, in the colour order.
    scale
        Multiplier of the pixel values 0..255.
    label_order
        Order of the model's outputs.
    workers
        Worker processes; by default one a GPU, or one a CPU where there is none.
    scheduler
        An existing Dask scheduler to use instead, such as `tls://host:8786`.
    insecure
        Accept an unencrypted scheduler on another machine.
    block_clips
        Clips of a block, the unit of work, storage and resuming.
    batch_clips
        Clips of one forward pass.
    max_drop
        The largest fall of the motion reliance that passes: 0.05 is five percentage points. A run that falls
        by more, with the whole 95 % interval of the paired difference below 0, is complete but ends with exit
        code 4. With fewer than three groups of videos there is no interval, and the mean alone decides.
    gate
        What must not fall: the motion reliance, or the motion share.
    against
        The run to compare with; by default the last one on the same data set with the same settings.
    """

    data: Annotated[Path, Parameter(group=_DATA)]
    checkpoint: Annotated[str, Parameter(group=_DATA)]
    root: Annotated[str, Parameter(group=_DATA)]
    split: Annotated[int, Parameter(group=_DATA)] = 1
    subset: Annotated[Literal["train", "test", "all"], Parameter(group=_DATA)] = "test"
    classes: Annotated[list[str] | None, Several, Parameter(group=_DATA)] = None
    held_out_groups: Annotated[int, Parameter(group=_DATA)] = 0
    videos: Annotated[int | None, Parameter(group=_DATA)] = None
    seed: Annotated[int, Parameter(group=_DATA)] = 0
    methods: Annotated[list[str] | None, Several, Parameter(group=_EXPLANATION)] = None
    sigmas: Annotated[list[float] | None, Several, Parameter(group=_EXPLANATION)] = None
    target: Annotated[str, Parameter(group=_EXPLANATION)] = "predicted"
    preset: Annotated[Literal["default", "paper"], Parameter(group=_EXPLANATION)] = "default"
    edge: Annotated[Literal["magnitude", "rising", "falling"] | None, Parameter(group=_EXPLANATION)] = None
    border: Annotated[Literal["replicate", "zero"] | None, Parameter(group=_EXPLANATION)] = None
    floor: Annotated[float | None, Parameter(group=_EXPLANATION)] = None
    scaling: Annotated[Literal["none", "max"] | None, Parameter(group=_EXPLANATION)] = None
    motion_rule: Annotated[Literal["tau", "frame_std"], Parameter(group=_EXPLANATION)] = "tau"
    tau: Annotated[float, Parameter(group=_EXPLANATION)] = 0.5
    changes: Annotated[list[str] | None, Several, Parameter(group=_EXPLANATION)] = None
    alpha: Annotated[float | None, Parameter(group=_EXPLANATION)] = None
    start: Annotated[Literal["one", "logit"] | None, Parameter(group=_EXPLANATION)] = None
    family: Annotated[str | None, Parameter(group=_PROFILE)] = None
    model: Annotated[str | None, Parameter(group=_PROFILE)] = None
    colour_order: Annotated[Literal["RGB", "BGR"] | None, Parameter(group=_PROFILE)] = None
    resize: Annotated[tuple[int, int] | None, Several, Parameter(group=_PROFILE)] = None
    crop: Annotated[tuple[int, int] | None, Several, Parameter(group=_PROFILE)] = None
    mean: Annotated[tuple[float, float, float] | None, Several, Parameter(group=_PROFILE)] = None
    std: Annotated[tuple[float, float, float] | None, Several, Parameter(group=_PROFILE)] = None
    scale: Annotated[float | None, Parameter(group=_PROFILE)] = None
    label_order: Annotated[Literal["classInd", "sorted"] | None, Parameter(group=_PROFILE)] = None
    workers: Annotated[int | None, Parameter(group=_WORK)] = None
    scheduler: Annotated[str | None, Parameter(group=_WORK)] = None
    insecure: Annotated[bool, Parameter(group=_WORK, negative="")] = False
    block_clips: Annotated[int, Parameter(group=_WORK)] = 64
    batch_clips: Annotated[int, Parameter(group=_WORK)] = 8
    max_drop: Annotated[float | None, Parameter(group=_GATE)] = None
    against: Annotated[str | None, Parameter(group=_GATE)] = None
    gate: Annotated[Literal["motion_reliance", "motion_share"], Parameter(group=_GATE)] = "motion_reliance"

    def request(self) -> dict[str, Any]:
        """The arguments of `flows.explain_ucf101.request_from`."""
        deep_taylor = given({"alpha": self.alpha, "start": self.start})
        profile = ("colour_order", "resize", "crop", "mean", "std", "scale", "label_order")
        selective = ("edge", "border", "floor", "scaling")
        as_they_are = (
            "root", "split", "subset", "classes", "held_out_groups", "videos", "seed", "target", "preset",
            "motion_rule", "tau", "family", "model", "block_clips", "batch_clips", "max_drop", "against",
            "gate",
        )  # fmt: skip
        names = list(dict.fromkeys(self.methods)) if self.methods is not None else None
        return {
            "data": str(self.data),
            "checkpoint": self.checkpoint,
            **{name: getattr(self, name) for name in as_they_are},
            "selective": given({name: getattr(self, name) for name in selective}),
            "method_settings": {"deep_taylor": deep_taylor} if deep_taylor else {},
            "profile": given({name: getattr(self, name) for name in profile}),
            **given({"methods": names, "sigmas": self.sigmas, "changes": self.changes}),
        }

    def cluster(self) -> dict[str, Any]:
        """The arguments of `flows.serving.cluster.cluster`."""
        return {"workers": self.workers, "scheduler": self.scheduler, "insecure": self.insecure}
