"""`selrel report`: the tables of a finished run."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console


def report(run: str, *, json: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Print the tables of a finished run beside the paper's.

    Example: `selrel report results/runs/c3d-1bf523994dd872e1`

    Parameters
    ----------
    run
        Where the run lies, as `selrel runs` lists it.
    json
        Print one JSON object instead: the summary, every row of the tables, and where everything lies.
    """
    from flows.printing import print_json, print_result, result_of

    if json:
        print_json(Console(), result_of(run))
    else:
        print_result(Console(), run)
