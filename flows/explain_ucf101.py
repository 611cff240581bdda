"""The main job: how much of a checkpoint's decision rests on motion, and where."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from prefect import flow

from flows.cluster import cluster
from selrel.selective import PRESETS, SIGMAS
from tasks.decode import decode
from tasks.explain import explain
from tasks.index import index
from tasks.motion import motion
from tasks.plan import Plan, plan, publish
from tasks.report import report
from tasks.request import PAPER_METHODS, Request
from tasks.score import score


@flow(name="explain-ucf101", flow_run_name="{checkpoint}", validate_parameters=True)
def explain_ucf101(
    data: str,
    checkpoint: str,
    root: str,
    split: int = 1,
    subset: Literal["train", "test", "all"] = "test",
    videos: int | None = None,
    methods: Sequence[str] = PAPER_METHODS,
    method_settings: dict[str, dict[str, Any]] | None = None,
    sigmas: Sequence[float] = SIGMAS,
    preset: Literal["default", "paper"] = "default",
    selective: dict[str, Any] | None = None,
    motion_rule: Literal["tau", "frame_std"] = "tau",
    tau: float = 0.5,
    target: str = "predicted",
    family: str | None = None,
    profile: dict[str, Any] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    block_clips: int = 64,
    batch_clips: int = 8,
    seed: int = 0,
) -> str:
    """Explain a checkpoint on UCF-101 and measure how much of its relevance follows motion.

    Args:
        data: Directory that holds UCF-101/ and ucfTrainTestlist/.
        checkpoint: The checkpoint file.
        root: Directory or s3:// URL under which all results lie.
        split: UCF-101's split, 1 to 3.
        subset: Which of the split's videos: train, test, or all on disk.
        videos: How many videos to draw, evenly over the classes; all of them if empty.
        methods: The explanations.
        method_settings: Settings of methods by name, such as {"deep_taylor": {"alpha": 2}}.
        sigmas: Thresholds of the selective step, in standard deviations.
        preset: The choices that the paper leaves open: this project's, or those that fit the paper.
        selective: Single choices that differ from the preset: edge, border, floor, scaling.
        motion_rule: When a voxel moves: tau (|flow| > tau) or frame_std (the authors' code).
        tau: Pixels per frame.
        target: The class to explain: predicted, video, true, or a class name.
        family: The checkpoint's family, if its keys don't tell.
        profile: Changes to the family's profile, such as {"mean": [90, 98, 102]}.
        workers: Worker processes on this machine; one a CPU if empty.
        scheduler: Address of an existing Dask scheduler to use instead.
        block_clips: Clips of a block, the unit of work, storage and resuming.
        batch_clips: Clips of one forward pass.
        seed: Seed of the draw of videos.

    Returns
    -------
        Where the run lies.
    """
    made = plan(
        request_from(
            data=data,
            checkpoint=checkpoint,
            root=root,
            split=split,
            subset=subset,
            videos=videos,
            seed=seed,
            methods=methods,
            method_settings=method_settings,
            sigmas=sigmas,
            preset=preset,
            selective=selective,
            motion_rule=motion_rule,
            tau=tau,
            target=target,
            family=family,
            profile=profile,
            block_clips=block_clips,
            batch_clips=batch_clips,
        )
    )
    if not made.finished:
        publish(made)
        with cluster(workers, scheduler=scheduler):
            run_stages(made)
    return made.url


def run_stages(made: Plan) -> None:
    """Go through the stages; each does only what has no receipt."""
    index(made.root, made.dataset_id)
    decode(made.root, made.dataset_id)
    motion(made.root, made.dataset_id)
    explain(made.root, made.run)
    score(made.root, made.run)
    report(made.root, made.run)


def request_from(
    *,
    methods: Sequence[str] = PAPER_METHODS,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    preset: str = "default",
    selective: Mapping[str, Any] | None = None,
    profile: Mapping[str, Any] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    sigmas: Sequence[float] = SIGMAS,
    **others: Any,
) -> Request:
    """Make the request of a flow's arguments; where the work is done is no part of it."""
    return Request(
        methods={name: (method_settings or {}).get(name, {}) for name in methods},
        selective=dataclasses.replace(PRESETS[preset], **(selective or {})),
        profile=profile or {},
        sigmas=tuple(sigmas),
        **others,
    )
