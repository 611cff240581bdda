"""`selrel runs`: what lies under a root."""

from __future__ import annotations

from rich.console import Console


def runs(*, root: str) -> None:
    """List the runs under a root.

    Example: `selrel runs --root results`

    Parameters
    ----------
    root
        Directory or `s3://bucket/prefix`.
    """
    from flows.printing import print_runs
    from storage.layout import Root
    from storage.runs import list_runs

    place = Root(root)
    if not place.exists(""):
        raise ValueError(f"{place} does not exist; give the --root of `selrel explain`")
    print_runs(Console(), list_runs(place))
