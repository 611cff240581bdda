"""`selrel compare`: what changed from one checkpoint to another."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flows.terminal import Console


def compare(
    first: str,
    /,
    *others: str,
    root: str | None = None,
    by_class: Annotated[bool, Parameter(negative="")] = False,
    json: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Compare runs with the first of them on the same clips: motion reliance, accuracy, precision and lift.

    Differences are paired, clip by clip; their 95 % intervals are over UCF's groups of videos, of which they
    need three. A star marks those whose interval does not hold 0.

    Example: `selrel compare results/runs/c3d-1bf523994dd872e1 results/runs/c3d-f00b1d81c4f9d0f8`

    Parameters
    ----------
    first
        The run that the others are compared with, as `selrel runs` lists it; with `--root` also its name, or
        `latest`.
    others
        One or more other runs.
    root
        Directory or `s3://bucket/prefix` of runs that are given by their names.
    by_class
        Print the motion reliance, the motion share and the accuracy of every class, the largest fall first.
    json
        Print one JSON list instead, an object for each other run, with the rows of every class.
    """
    from flows.printing import print_comparison, print_json
    from storage.runs import find_run
    from tasks.compare import compare_runs

    if not others:
        raise ValueError(f"only one run, {first}, is given; name another to compare it with")
    console = Console()
    first = find_run(first, root)
    found = {other: compare_runs(first, other) for other in (find_run(run, root) for run in others)}
    if json:
        print_json(
            console,
            [
                {"before": first, "after": other, "notes": notes, "rows": rows}
                for other, (rows, notes) in found.items()
            ],
        )
        return
    for other, (rows, notes) in found.items():
        print_comparison(console, first, other, rows, notes, by_class=by_class)
