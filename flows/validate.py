"""The validity benchmark: whether selective relevance finds the motion that a model truly uses."""

from __future__ import annotations

from flows.explain_ucf101 import hold_run, run_stages
from flows.serving.cluster import cluster
from flows.serving.standalone import standalone
from storage.stores.receipts import pending
from tasks.plan import publish
from tasks.validity.benchmark import Bench
from tasks.validity.validate import RUNS, note_run, plan_case, randomise_cases, score_cases, train_cases
from tasks.validity.verdict import verdict


@standalone(name="validate", validate_parameters=False)
def validate_relevance(bench: Bench, workers: int | None = None) -> None:
    """Train models whose use of motion is known, explain each by the main job, and compare.

    Args:
        bench: The benchmark at its place; what has a receipt there is not done again.
        workers: Worker processes on this machine; one a CPU if empty.
    """
    with cluster(workers):
        train_cases(bench)
        explain_cases(bench, workers)
        score_cases(bench)
        randomise_cases(bench)
    verdict(bench)


def explain_cases(bench: Bench, workers: int | None) -> None:
    """Run the main job, on the cluster that is open, for every case that has no receipt."""
    for number in pending(bench.place, bench.paths, RUNS, range(len(bench.settings.cases))):
        made = plan_case(bench, number)
        with hold_run(made) as held:
            if not made.finished:
                publish(made, work={"workers": workers})
                run_stages(made, held)
        note_run(bench, number, made)
