"""`selrel explain`: plan, carry out, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Group, Parameter
from rich.console import Console

from flows.commands.arguments import Several, given
from flows.exits import EXCLUDED, GATE, stopped

if TYPE_CHECKING:
    from tasks.plan import Plan

_DATA = Group("Data", sort_key=1)
_EXPLANATION = Group("Explanation", sort_key=2)
_PROFILE = Group("Profile: what differs from the checkpoint family's", sort_key=3)
_WORK = Group("Work", sort_key=4)
_GATE = Group("Gate", sort_key=5)


def explain(
    *,
    data: Annotated[Path, Parameter(group=_DATA)],
    checkpoint: Annotated[Path, Parameter(group=_DATA)],
    root: Annotated[str, Parameter(group=_DATA)],
    split: Annotated[int, Parameter(group=_DATA)] = 1,
    subset: Annotated[Literal["train", "test", "all"], Parameter(group=_DATA)] = "test",
    videos: Annotated[int | None, Parameter(group=_DATA)] = None,
    seed: Annotated[int, Parameter(group=_DATA)] = 0,
    methods: Annotated[list[str] | None, Several, Parameter(group=_EXPLANATION)] = None,
    sigmas: Annotated[list[float] | None, Several, Parameter(group=_EXPLANATION)] = None,
    target: Annotated[str, Parameter(group=_EXPLANATION)] = "predicted",
    preset: Annotated[Literal["default", "paper"], Parameter(group=_EXPLANATION)] = "default",
    edge: Annotated[Literal["magnitude", "rising", "falling"] | None, Parameter(group=_EXPLANATION)] = None,
    border: Annotated[Literal["replicate", "zero"] | None, Parameter(group=_EXPLANATION)] = None,
    floor: Annotated[float | None, Parameter(group=_EXPLANATION)] = None,
    scaling: Annotated[Literal["none", "max"] | None, Parameter(group=_EXPLANATION)] = None,
    motion_rule: Annotated[Literal["tau", "frame_std"], Parameter(group=_EXPLANATION)] = "tau",
    tau: Annotated[float, Parameter(group=_EXPLANATION)] = 0.5,
    alpha: Annotated[float | None, Parameter(group=_EXPLANATION)] = None,
    start: Annotated[Literal["one", "logit"] | None, Parameter(group=_EXPLANATION)] = None,
    family: Annotated[str | None, Parameter(group=_PROFILE)] = None,
    model: Annotated[str | None, Parameter(group=_PROFILE)] = None,
    colour_order: Annotated[Literal["RGB", "BGR"] | None, Parameter(group=_PROFILE)] = None,
    resize: Annotated[tuple[int, int] | None, Several, Parameter(group=_PROFILE)] = None,
    crop: Annotated[tuple[int, int] | None, Several, Parameter(group=_PROFILE)] = None,
    mean: Annotated[tuple[float, float, float] | None, Several, Parameter(group=_PROFILE)] = None,
    std: Annotated[tuple[float, float, float] | None, Several, Parameter(group=_PROFILE)] = None,
    scale: Annotated[float | None, Parameter(group=_PROFILE)] = None,
    label_order: Annotated[Literal["classInd", "sorted"] | None, Parameter(group=_PROFILE)] = None,
    workers: Annotated[int | None, Parameter(group=_WORK)] = None,
    scheduler: Annotated[str | None, Parameter(group=_WORK)] = None,
    insecure: Annotated[bool, Parameter(group=_WORK, negative="")] = False,
    block_clips: Annotated[int, Parameter(group=_WORK)] = 64,
    batch_clips: Annotated[int, Parameter(group=_WORK)] = 8,
    max_drop: Annotated[float | None, Parameter(group=_GATE)] = None,
    against: Annotated[str | None, Parameter(group=_GATE)] = None,
) -> int:
    """Explain a checkpoint on a data set and measure how much of its relevance follows motion.

    Nothing has to be set up, and nothing keeps running afterwards. A finished run is found and not
    repeated; an interrupted one goes on where it stopped.

    Example: `selrel explain --data ucf --checkpoint c3d.pth.tar --root results --videos 1010`

    Parameters
    ----------
    data
        Directory that holds `UCF-101/` and `ucfTrainTestlist/`.
    checkpoint
        The checkpoint file.
    root
        Directory or `s3://bucket/prefix` under which all results lie.
    split
        UCF-101's split: 1, 2 or 3.
    subset
        Which of the split's videos; `all` takes every video on disk.
    videos
        How many videos to draw, evenly over the classes; all of them by default.
    seed
        Seed of the draw.
    methods
        Explanations; by default the paper's four: `deep_taylor grad_cam guided_backprop guided_grad_cam`.
        Also `gradient_x_input` and `sensitivity`.
    sigmas
        Thresholds of the selective step in standard deviations; 2 is always among them.
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
        Worker processes; one a CPU by default.
    scheduler
        An existing Dask scheduler to use instead, such as `tls://host:8786`.
    insecure
        Accept an unencrypted scheduler on another machine.
    block_clips
        Clips of a block, the unit of work, storage and resuming.
    batch_clips
        Clips of one forward pass.
    max_drop
        The largest fall of the motion share that passes: 0.05 is five percentage points. A run that falls by
        more, with the whole 95 % interval of the paired difference below 0, is complete but ends with exit
        code 4.
    against
        The run to compare with; by default the last one on the same data set with the same settings.
    """
    preprocessing = {
        "colour_order": colour_order,
        "resize": resize,
        "crop": crop,
        "mean": mean,
        "std": std,
        "scale": scale,
        "label_order": label_order,
    }
    selective = {"edge": edge, "border": border, "floor": floor, "scaling": scaling}
    names = list(dict.fromkeys(methods)) if methods is not None else None
    return run_explain(
        data=str(data),
        checkpoint=str(checkpoint),
        root=root,
        split=split,
        subset=subset,
        videos=videos,
        seed=seed,
        target=target,
        preset=preset,
        selective=given(selective),
        motion_rule=motion_rule,
        tau=tau,
        method_settings={"deep_taylor": given({"alpha": alpha, "start": start})} if alpha or start else {},
        family=family,
        model=model,
        profile=given(preprocessing),
        cluster={"workers": workers, "scheduler": scheduler, "insecure": insecure},
        block_clips=block_clips,
        batch_clips=batch_clips,
        max_drop=max_drop,
        against=against,
        **given({"methods": names, "sigmas": sigmas}),
    )


def run_explain(*, cluster: dict[str, Any], **arguments: Any) -> int:
    """Plan, carry the plan out on a private server, and print the result."""
    from flows.cluster import check_cluster
    from flows.explain_ucf101 import request_from
    from flows.printing import print_result
    from tasks.gate import MotionShareDropped
    from tasks.plan import plan

    console = Console()
    check_cluster(**cluster)
    made = plan(request_from(**arguments))
    console.print(*made.notes, sep="\n", highlight=False, soft_wrap=True)
    console.print(
        "This run is finished already; nothing to do." if made.finished else f"Run {made.run}",
        highlight=False,
        soft_wrap=True,
    )
    try:
        _carry_out(made, cluster)
    except MotionShareDropped as error:
        print_result(console, made.url)
        return stopped(str(error), GATE)
    return EXCLUDED if print_result(console, made.url)["left_out_clips"] else 0


def _carry_out(made: Plan, cluster: dict[str, Any]) -> None:
    """Run the flow of a plan; from here on, what goes wrong is no bad input."""
    from prefect import flow

    from flows.explain_ucf101 import carry_out
    from flows.local_server import temporary_server
    from tasks.gate import check_gate

    if made.finished:
        check_gate(made.url, **made.description["gate"])
        return
    try:
        with temporary_server():
            flow(name="explain-ucf101")(lambda: carry_out(made, **cluster))()
    except (ValueError, OSError) as error:
        raise Failed(f"{error} (start the same command again, it goes on where it stopped)") from error


class Failed(RuntimeError):
    """A run that stopped; the message is for a person."""
