"""`selrel verify`: whether a run is still what it was."""

from __future__ import annotations

from flows.exits import FAILED
from flows.terminal import Console


def verify(run: str, *, root: str | None = None, repair: bool = False) -> int:
    """Read a run and its data set again, and compare every byte with the receipts.

    Prints a line for everything that is missing or changed, and exits with 1, as it does for a run that is
    not finished; with 0 if the run is sound. Blocks that it left out and videos that have changed since are
    told in a line each, and are no damage.

    Example: `selrel verify results/runs/c3d-1bf523994dd872e1`

    Parameters
    ----------
    run
        Where the run lies, as `selrel runs` lists it; with `--root` also its name, or `latest`.
    root
        Directory or `s3://bucket/prefix` of a run that is given by its name.
    repair
        Drop what is damaged and mark the run as unfinished, so that the `selrel explain` command that made it
        redoes just that, and tries again the blocks that were left out.
    """
    from storage.runs import find_run
    from storage.stores.root import run_at
    from storage.text import visible
    from tasks.verify import verify_run

    found = verify_run(*run_at(find_run(run, root)), repair=repair)
    lines = [*found.damaged, *found.kept]
    if found.damaged:
        what = "Damage found" if len(found.damaged) == 1 else f"{len(found.damaged):,} damages found"
        if repair and not found.kept:
            lines.append(
                f"{what} and dropped: the `selrel explain` command of this run now redoes just that."
            )
        else:
            lines.append(
                f"{what}; `selrel verify RUN --repair` drops it, so that `selrel explain` redoes just that."
            )
    else:
        receipts = f"{found.receipts:,} receipts and all their files"
        lines.append(
            f"Sound: {found.clips:,} clips, {receipts}." if found.finished else f"Sound so far: {receipts}."
        )
    if not found.finished:
        lines.append("The run is not finished: the same `selrel explain` command goes on where it stopped.")
    if found.left_out:
        what = "1 block was left out" if found.left_out == 1 else f"{found.left_out:,} blocks were left out"
        if repair:
            lines.append(f"{what}: the run is unfinished now, and its `selrel explain` command tries again.")
        else:
            again = "the `selrel explain` command of this run tries again"
            lines.append(f"{what}; after `selrel verify RUN --repair` {again}.")
    if found.videos:
        lines.append(found.videos)
    console = Console()
    for line in lines:
        console.print(visible(line), soft_wrap=True)
    return 0 if found.finished and not found.damaged else FAILED
