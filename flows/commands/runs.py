"""`selrel runs`: what lies under a root."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flows.terminal import Console


def runs(*, root: str, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """List the runs under a root.

    Example: `selrel runs --root results`

    Parameters
    ----------
    root
        Directory or `s3://bucket/prefix`.
    json
        Print one JSON list instead, an object a run.
    """
    import dataclasses

    from flows.printing import print_json, print_runs
    from storage.runs import existing_root, list_runs

    found = list_runs(existing_root(root))
    if json:
        print_json(Console(), [dataclasses.asdict(run) | {"finished": run.finished} for run in found])
    else:
        print_runs(Console(), found)
