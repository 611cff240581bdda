"""The main job: how much of a checkpoint's decision rests on motion, and where."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.serving.cluster import check_cluster, cluster
from flows.serving.standalone import announced_end, standalone
from selrel.clips.changes import CHANGES
from selrel.selective import PRESETS, SIGMAS
from storage.stores.leases import Lease, lease
from storage.stores.root import Root
from tasks.gate import check_gate
from tasks.plan import Plan, plan, publish
from tasks.request import PAPER_METHODS, Request
from tasks.running.blocks import Quarantined
from tasks.running.retries import RETRY
from tasks.running.stage import do
from tasks.stages import STAGES
from tasks.stages.report import report


@standalone(name="explain-ucf101", flow_run_name="{checkpoint}", validate_parameters=True)
def explain_ucf101(
    data: str,
    checkpoint: str,
    root: str,
    split: int = 1,
    subset: Literal["train", "test", "all"] = "test",
    classes: Sequence[str] | None = None,
    held_out_groups: int = 0,
    videos: int | None = None,
    methods: Sequence[str] = PAPER_METHODS,
    method_settings: dict[str, dict[str, Any]] | None = None,
    sigmas: Sequence[float] = SIGMAS,
    preset: Literal["default", "paper"] = "default",
    selective: dict[str, Any] | None = None,
    motion_rule: Literal["tau", "frame_std"] = "tau",
    tau: float = 0.5,
    target: str = "predicted",
    changes: Sequence[str] = tuple(CHANGES),
    family: str | None = None,
    model: str | None = None,
    profile: dict[str, Any] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    insecure: bool = False,
    block_clips: int = 64,
    batch_clips: int = 8,
    seed: int = 0,
    max_drop: float | None = None,
    against: str | None = None,
    gate: Literal["motion_reliance", "motion_share"] = "motion_reliance",
) -> str:
    """Explain a checkpoint on UCF-101 and measure how much of its relevance follows motion.

    Args:
        data: Directory that holds UCF-101/ and ucfTrainTestlist/.
        checkpoint: The checkpoint: a file, or s3://bucket/key.
        root: Directory or s3:// URL under which all results lie.
        split: UCF-101's split, 1 to 3.
        subset: Which of the split's videos: train, test, or all on disk.
        classes: Only videos of these classes, of those that the model tells apart; all if empty. A model that
            has an output for just these, and doesn't say what it was trained on, tells no others apart.
        held_out_groups: Only the groups of each class that a training with as many, and the same seed, split
            and subset (train or all), held out.
        videos: How many videos to draw, evenly over the classes; all of them if empty.
        methods: The explanations.
        method_settings: Settings of methods by name, such as {"deep_taylor": {"alpha": 2}}.
        sigmas: Thresholds of the selective step, in standard deviations.
        preset: The choices that the paper leaves open: this project's, or those that fit the paper.
        selective: Single choices that differ from the preset: edge, border, floor, scaling.
        motion_rule: When a voxel moves: tau (|flow| > tau) or frame_std (the authors' code).
        tau: Pixels per frame.
        target: The class to explain: predicted, video, true, or a class name.
        changes: Also ask the model about clips that are frozen, shuffled or reversed, for one forward pass
            each; none by itself leaves it out.
        family: The checkpoint's family, if its keys don't tell.
        model: package.module:factory of a model of your own, instead of a family.
        profile: Changes to the family's profile, such as {"mean": [90, 98, 102]}.
        workers: Worker processes on this machine; one a CPU if empty.
        scheduler: Address of an existing Dask scheduler to use instead, such as tls://host:8786.
        insecure: Accept an unencrypted scheduler on another machine.
        block_clips: Clips of a block, the unit of work, storage and resuming.
        batch_clips: Clips of one forward pass.
        seed: Seed of the draw of videos, and of the held-out groups.
        max_drop: The largest fall of the motion reliance that passes, such as 0.05 for five percentage
            points; a run that falls by more, and by more than chance where three groups of videos or more can
            tell, is complete, but its flow run fails and emits the event selrel.motion-reliance.dropped.
        against: The run to compare with, instead of the last one on the same data set and settings.
        gate: What must not fall, motion_reliance or motion_share.

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
            classes=classes,
            held_out_groups=held_out_groups,
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
            changes=changes,
            family=family,
            model=model,
            profile=profile,
            block_clips=block_clips,
            batch_clips=batch_clips,
            max_drop=max_drop,
            against=against,
            gate=gate,
        )
    )
    carry_out(made, workers=workers, scheduler=scheduler, insecure=insecure)
    return made.url


def carry_out(
    made: Plan, *, workers: int | None = None, scheduler: str | None = None, insecure: bool = False
) -> None:
    """Do what is left of a plan: open a cluster and go through the stages."""
    log = get_run_logger()
    # Prefect forwards this logger's lines, but leaves its level at that of the root, which is WARNING.
    logging.getLogger("selrel").setLevel(logging.INFO)
    for note in made.notes:
        log.info(note)
    with announced_end():
        if made.finished:
            log.info("%s is finished already; nothing to do", made.url)
        else:
            check_cluster(workers, scheduler=scheduler, insecure=insecure)
            _make(made, workers=workers, scheduler=scheduler, insecure=insecure)
        check_gate(made.url, **made.description["gate"])


def _make(made: Plan, *, workers: int | None, scheduler: str | None, insecure: bool) -> None:
    with hold_run(made) as held:
        # Whom this one waited for may have finished it.
        if not made.finished:
            publish(made, work={"workers": workers, "scheduler": scheduler, "insecure": insecure})
            with cluster(workers, scheduler=scheduler, insecure=insecure):
                run_stages(made, held)


def hold_run(made: Plan) -> AbstractContextManager[Lease]:
    """Be the only process that works on a run."""
    root = Root(made.root)
    return _alone(root, root.run(made.run).lease, f"run {made.run}")


def run_stages(made: Plan, held: Lease) -> None:
    """Go through the stages; each does only what has no sound receipt, and none begins on a lost lease.

    Raises
    ------
    LostLease
        If another process took the run or its data set over.
    """
    root = Root(made.root)
    with _alone(root, root.dataset(made.dataset_id).lease, f"data set {made.dataset_id}") as shared:
        left_out = _do(made, "dataset", held, shared)
    left_out += _do(made, "run", held)
    held.check()
    report(made.root, made.run, left_out, check=held.check)


def _do(made: Plan, of: str, *leases: Lease) -> list[Quarantined]:
    left_out = []
    for stage in STAGES:
        if stage.of == of and stage.asked(made.description["settings"]):
            _check(*leases)
            left_out += _stage.with_options(name=stage.name)(stage.name, made.root, made.run, made.data)
    return left_out


@task(cache_policy=NO_CACHE, **RETRY)
def _stage(name: str, root: str, run: str, data: str) -> list[Quarantined]:
    (stage,) = (stage for stage in STAGES if stage.name == name)
    return do(stage, root, run, data)


def _check(*leases: Lease) -> None:
    for held in leases:
        held.check()


def _alone(root: Root, path: str, what: str) -> AbstractContextManager[Lease]:
    """Hold a lease, and say so if there is somebody to wait for."""
    tell = logging.getLogger("selrel").warning
    return lease(root, path, on_wait=lambda holder: tell("waiting for %s, which works on %s", holder, what))


def request_from(
    *,
    methods: Sequence[str] = PAPER_METHODS,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    preset: str = "default",
    selective: Mapping[str, Any] | None = None,
    profile: Mapping[str, Any] | None = None,
    sigmas: Sequence[float] = SIGMAS,
    classes: Sequence[str] | None = None,
    **others: Any,
) -> Request:
    """Make the request of a flow's arguments; where the work is done is no part of it.

    Raises
    ------
    ValueError
        If a setting belongs to no chosen method or to no choice of the selective step, or is not allowed.
    """
    if isinstance(methods, str):
        raise ValueError(f"methods is {methods!r}; give a list of names, also of a single one")
    settings, choices = method_settings or {}, selective or {}
    _check_names("method settings", settings, methods)
    _check_names("selective", choices, ("edge", "border", "floor", "scaling"))
    return Request(
        methods={name: settings.get(name, {}) for name in methods},
        selective=dataclasses.replace(PRESETS[preset], **choices),
        profile=profile or {},
        sigmas=sigmas,
        classes=classes,
        **others,
    )


def _check_names(what: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    if unknown := sorted(given.keys() - set(known)):
        raise ValueError(f"{what} names {', '.join(unknown)}; allowed here: {', '.join(known)}")
