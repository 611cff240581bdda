"""The main job: how much of a checkpoint's decision rests on motion, and where."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.options import takes
from flows.serving.cluster import check_cluster, cluster
from flows.serving.standalone import announced_end, standalone
from storage.stores.leases import Lease, lease
from storage.stores.root import Root
from tasks.gate import check_gate
from tasks.plan import Plan, plan, publish
from tasks.request import Cluster, Request, split
from tasks.running.blocks import Quarantined
from tasks.running.retries import RETRY
from tasks.running.stage import do
from tasks.stages import STAGES
from tasks.stages.report import report


@standalone(name="explain-ucf101", flow_run_name="{checkpoint}", validate_parameters=True)
@takes(Request, Cluster)
def explain_ucf101(**options: Any) -> str:
    """Explain a checkpoint on UCF-101: how much of its decisions rests on motion, and where.

    Returns
    -------
    str
        The run's directory or URL.
    """
    request, where = split(options, Request, Cluster)
    made = plan(request)
    carry_out(made, where)
    return made.url


def carry_out(made: Plan, where: Cluster) -> None:
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
            check_cluster(**vars(where))
            with hold_run(made) as held:
                # The process that this one waited for may have finished the run.
                if not made.finished:
                    publish(made, work=vars(where))
                    with cluster(**vars(where)):
                        run_stages(made, held)
        check_gate(made.url, **made.description["gate"])


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
            for held in leases:
                held.check()
            left_out += _stage.with_options(name=stage.name)(stage.name, made.root, made.run, made.data)
    return left_out


@task(cache_policy=NO_CACHE, **RETRY)
def _stage(name: str, root: str, run: str, data: str) -> list[Quarantined]:
    (stage,) = (stage for stage in STAGES if stage.name == name)
    return do(stage, root, run, data)


def _alone(root: Root, path: str, what: str) -> AbstractContextManager[Lease]:
    """Hold a lease, and say so if there is somebody to wait for."""
    tell = logging.getLogger("selrel").warning
    return lease(root, path, on_wait=lambda holder: tell("waiting for %s, which works on %s", holder, what))
