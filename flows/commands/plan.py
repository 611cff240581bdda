"""`selrel plan`: what a run would do, without doing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flows.commands.options import flags
from flows.terminal import Console
from tasks.request import Cluster, Request, split

if TYPE_CHECKING:
    from tasks.plan import Plan


@flags(Request, Cluster)
def plan(*, json: Annotated[bool, Parameter(negative="")] = False, **options: Any) -> None:
    """Check everything that `selrel explain` would check, and say how much it would do, without doing it.

    A few clips go through every stage in a temporary directory, which gives the time. Nothing is left.

    Example: `selrel plan --data ucf --checkpoint c3d.pth.tar --root results --videos 1010`

    Parameters
    ----------
    json
        Print one JSON object instead.
    """
    from flows.printing import print_json, print_plan
    from flows.serving.cluster import check_cluster
    from tasks.plan import plan as plan_of

    request, cluster = split(options, Request, Cluster)
    check_cluster(**vars(cluster))
    found = _measured(plan_of(request), cluster)
    console = Console()
    if json:
        print_json(console, found)
    else:
        print_plan(console, found)


def _measured(made: Plan, where: Cluster) -> dict[str, Any]:
    import dataclasses
    import logging

    from flows.serving.cluster import in_process, local_size
    from flows.serving.scratch import scratch_directory
    from tasks.trial import extent, measure

    workers, threads = local_size(where.workers)
    size = extent(made)
    seconds = {}
    if not made.finished:
        logging.getLogger("selrel").setLevel(logging.WARNING)
        with scratch_directory("trial") as directory, in_process():
            seconds = measure(made, str(directory), threads=threads)
    whole = sum(seconds.get(stage, 0.0) * clips for stage, clips in size.left.items()) / workers
    return {
        "run": made.url,
        "dataset": made.dataset_id,
        "finished": made.finished,
        "notes": list(made.notes),
        **dataclasses.asdict(size),
        "workers": workers,
        "threads_per_worker": threads,
        "scheduler": where.scheduler,
        "seconds_per_clip": seconds,
        "seconds": whole,
        "settings": made.description["settings"],
    }
