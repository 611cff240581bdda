"""`selrel report`: the tables of a finished run, and its page elsewhere."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from flows.terminal import Console


def report(
    run: str,
    *,
    root: str | None = None,
    json: Annotated[bool, Parameter(negative="")] = False,
    html: str | None = None,
) -> None:
    """Print the tables of a finished run beside the paper's, and where its page lies.

    A finished run is never changed. `--html` writes its page anew, elsewhere: for a run of an older release,
    or to pass it on without the cubes.

    Example: `selrel report results/runs/c3d-1bf523994dd872e1 --html page`

    Example: `selrel report latest --root results`

    Parameters
    ----------
    run
        Where the run lies, as `selrel runs` lists it; with `--root` also its name, or `latest`.
    root
        Directory or `s3://bucket/prefix` of a run that is given by its name.
    json
        Print one JSON object instead: the summary, every row of the tables, and where everything lies.
    html
        Directory or `s3://bucket/prefix` for the page and its media; `page` in the JSON says where it lies.
    """
    from flows.printing import print_json, print_result, result_of
    from storage.runs import find_run

    console = Console()
    run = find_run(run, root)
    if json:
        found = result_of(run)
        print_json(console, found if html is None else {**found, "page": _page(run, html)})
        return
    print_result(console, run)
    if html is not None:
        console.print(f"Page     {_page(run, html)}", soft_wrap=True)


def _page(run: str, directory: str) -> str:
    from tasks.stages.report import report_elsewhere

    return report_elsewhere(run, directory)
