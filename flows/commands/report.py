"""`selrel report`: the tables of a finished run."""

from __future__ import annotations

from rich.console import Console


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
