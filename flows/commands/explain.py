"""`selrel explain`: plan, carry out, print."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.commands.options import flags
from flows.exits import EXCLUDED, GATE, stopped
from flows.serving.outages import work_that_goes_on
from flows.terminal import Console
from tasks.request import Cluster, Request, split

if TYPE_CHECKING:
    from tasks.plan import Plan


@flags(Request, Cluster)
def explain(**options: Any) -> int:
    """Explain a checkpoint on a data set and measure how much of its decisions rests on motion, and where.

    Nothing has to be set up, and nothing keeps running afterwards. A finished run is found and not
    repeated; an interrupted one goes on where it stopped.

    Example: `selrel explain --data ucf --checkpoint c3d.pth.tar --root results --videos 1010`
    """
    request, cluster = split(options, Request, Cluster)
    return run_explain(request, cluster)


def run_explain(request: Request, cluster: Cluster) -> int:
    """Plan, carry the plan out on a private server, and print the result."""
    from flows.printing import print_result, print_start
    from flows.serving.cluster import check_cluster
    from tasks.gate import MotionDropped
    from tasks.plan import plan

    console = Console()
    check_cluster(**vars(cluster))
    made = plan(request)
    print_start(console, made, vars(cluster))
    try:
        carry_out_here(made, cluster)
    except MotionDropped as error:
        print_result(console, made.url, tables=False)
        return stopped(str(error), GATE)
    return EXCLUDED if print_result(console, made.url, tables=False)["left_out_clips"] else 0


def carry_out_here(made: Plan, cluster: Cluster) -> None:
    """Run the flow of a plan on a private server; from here on, what goes wrong is no bad input."""
    from flows.explain_ucf101 import carry_out
    from flows.serving.local_server import temporary_server
    from flows.serving.standalone import standalone
    from tasks.gate import check_gate

    if made.finished:
        check_gate(made.url, **made.description["gate"])
        return
    with work_that_goes_on(), temporary_server():
        standalone(name="explain-ucf101")(lambda: carry_out(made, cluster))()
