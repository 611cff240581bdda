"""The `selrel` command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter
from rich.console import Console

if TYPE_CHECKING:
    from tasks.plan import Plan

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

app = App(
    name="selrel",
    help="Measure how much of a video classifier's decision rests on motion, and see where.",
    help_epilogue="Try `selrel demo` first. Exit codes: 0 done, 1 failed (`selrel explain` goes on where it "
    "stopped), 2 bad input, 130 interrupted.",
    help_format="markdown",
    version=lambda: metadata.version("selrel"),
    # Ours says how to go on.
    suppress_keyboard_interrupt=False,
)

_DATA = Group("Data", sort_key=1)
_EXPLANATION = Group("Explanation", sort_key=2)
_PROFILE = Group("Profile: what differs from the checkpoint family's", sort_key=3)
_WORK = Group("Work", sort_key=4)

Several = Parameter(consume_multiple=True, negative_iterable=())


@app.command
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
    """
    given = {
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
    return _explain(
        data=str(data),
        checkpoint=str(checkpoint),
        root=root,
        split=split,
        subset=subset,
        videos=videos,
        seed=seed,
        target=target,
        preset=preset,
        selective=_set(selective),
        motion_rule=motion_rule,
        tau=tau,
        method_settings={"deep_taylor": _set({"alpha": alpha, "start": start})} if alpha or start else {},
        family=family,
        model=model,
        profile=_set(given),
        cluster={"workers": workers, "scheduler": scheduler, "insecure": insecure},
        block_clips=block_clips,
        batch_clips=batch_clips,
        **_set({"methods": names, "sigmas": sigmas}),
    )


@app.command
def train(
    *,
    data: Path,
    checkpoint: Path,
    split: int = 1,
    widths: Annotated[list[int] | None, Several] = None,
    hidden: Annotated[tuple[int, int] | None, Several] = None,
    epochs: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train a C3D on a split and publish its checkpoint.

    The recipe is the paper's: stochastic gradient descent, batches of 32, the rate divided by 10 after 10
    epochs without progress.

    Example: `selrel train --data ucf --checkpoint c3d.pth.tar --widths 16 32 64 64 128 128 128 128`

    Parameters
    ----------
    data
        Directory that holds `UCF-101/` and `ucfTrainTestlist/`.
    checkpoint
        The file to write; it must not exist.
    split
        UCF-101's split: 1, 2 or 3.
    widths
        Channels of the eight convolutions; those of the published C3D by default.
    hidden
        Units of the two hidden layers; 4096 each by default.
    epochs
        Passes over all clips.
    learning_rate
        Of the first epochs.
    seed
        Seed of the weights, the order of clips, and dropout.
    device
        Where to train: `cpu`, `cuda` or `cuda:1`.
    """
    _train(
        data=str(data),
        checkpoint=str(checkpoint),
        split=split,
        recipe={"epochs": epochs, "learning_rate": learning_rate},
        seed=seed,
        device=device,
        **_set({"widths": widths, "hidden": hidden}),
    )


@app.command
def demo(directory: Path = Path("demo"), *, workers: int | None = None) -> int:
    """Make a small data set, train a C3D on it, and explain it: the whole job in minutes.

    The data set tells its classes by motion only: every scene appears in every class.

    Example: `selrel demo`

    Parameters
    ----------
    directory
        Where data set, checkpoint and results go; what is there already is used.
    workers
        Worker processes; one a CPU by default.
    """
    from flows.demo import BLOCK_CLIPS, DATA, TRAINING
    from storage.synthetic import make_dataset

    data, checkpoint = directory / "data", directory / "demo.pth.tar"
    print(f"1. A synthetic action set in UCF-101's layout: {data}")
    make_dataset(data, **DATA)
    print(f"2. A narrow C3D trained on it: {checkpoint}")
    if not checkpoint.exists():
        _train(data=str(data), checkpoint=str(checkpoint), **TRAINING)
    print("3. The checkpoint explained on the test videos")
    return _explain(
        data=str(data),
        checkpoint=str(checkpoint),
        root=str(directory / "results"),
        cluster={"workers": workers},
        block_clips=BLOCK_CLIPS,
    )


@app.command
def runs(*, root: str) -> None:
    """List the runs under a root.

    Example: `selrel runs --root results`

    Parameters
    ----------
    root
        Directory or `s3://bucket/prefix`.
    """
    from flows.printing import print_runs
    from storage.layout import Root
    from storage.runs import list_runs

    place = Root(root)
    if not place.exists(""):
        raise ValueError(f"{place} does not exist; give the --root of `selrel explain`")
    print_runs(Console(), list_runs(place))


@app.command
def report(run: str) -> None:
    """Print the tables of a finished run beside the paper's.

    Example: `selrel report results/runs/c3d-1bf523994dd872e1`

    Parameters
    ----------
    run
        Where the run lies, as `selrel runs` lists it.
    """
    from flows.printing import print_result

    print_result(Console(), run)


def _train(**arguments: Any) -> None:
    """Run the training flow on a private server."""
    from flows.local_server import temporary_server
    from flows.printing import print_training

    with temporary_server():
        from flows.train_c3d import train_c3d

        made = train_c3d(**arguments)
    print_training(Console(), made)


def _explain(*, cluster: dict[str, Any], **arguments: Any) -> int:
    """Plan, carry the plan out on a private server, and print the result."""
    from flows.cluster import check_cluster
    from flows.explain_ucf101 import request_from
    from flows.printing import print_result
    from tasks.plan import plan

    console = Console()
    check_cluster(**cluster)
    made = plan(request_from(**arguments))
    console.print(*made.notes, sep="\n", highlight=False, soft_wrap=True)
    if made.finished:
        console.print("This run is finished already; nothing to do.")
    else:
        console.print(f"Run {made.run}", highlight=False, soft_wrap=True)
        _carry_out(made, cluster)
    print_result(console, made.url)
    return 0


def _carry_out(made: Plan, cluster: dict[str, Any]) -> None:
    """Run the flow of a plan; from here on, what goes wrong is no bad input."""
    from prefect import flow

    from flows.explain_ucf101 import carry_out
    from flows.local_server import temporary_server

    try:
        with temporary_server():
            flow(name="explain-ucf101")(lambda: carry_out(made, **cluster))()
    except (ValueError, OSError) as error:
        raise Failed(f"{error} (start the same command again, it goes on where it stopped)") from error


class Failed(RuntimeError):
    """A run that stopped; the message is for a person."""


def _set(values: dict[str, Any]) -> dict[str, Any]:
    """The values that were given."""
    return {name: value for name, value in values.items() if value is not None}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    # Prefect and Dask would print a line for every request; what people want to see is ours.
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "critical")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    log = logging.getLogger("selrel")
    log.handlers = [logging.StreamHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
    return _guarded(
        lambda: app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    )


def _guarded(command: Callable[[], Any]) -> int:
    """Turn what stops a command into one line and an exit code."""
    try:
        return int(command() or 0)
    except CycloptsError:
        return BAD_INPUT
    except KeyboardInterrupt:
        return _stopped("interrupted; `selrel explain` goes on where it stopped, start it again", INTERRUPTED)
    except (ValueError, OSError) as error:
        return _stopped(str(error), BAD_INPUT)
    except RuntimeError as error:
        return _stopped(str(error), FAILED)
    except Exception as error:
        # S3's library is slow to import, and its errors share no base with Python's own.
        if type(error).__module__.startswith(("botocore.", "aiobotocore.")):
            return _stopped(f"S3: {error}; check bucket, endpoint and credentials", BAD_INPUT)
        raise


def _stopped(reason: str, code: int) -> int:
    print(f"selrel: {' '.join(reason.split())}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
