"""Runs one stage: the blocks that have no receipt, on the cluster, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from storage.layout import Root
from storage.receipts import HasReceipts, pending
from tasks.fanout import current_client, run_blocks
from tasks.progress import progress


class StageFailed(RuntimeError):
    """Blocks that could not be done, after several tries."""


def run_stage(
    stage: str,
    root: Root,
    paths: HasReceipts,
    function: Callable[[int], object],
    ranges: Sequence[tuple[int, int]],
    *,
    unit: str = "clips",
) -> None:
    """Call a function once for every block of a stage that has no receipt.

    Parameters
    ----------
    stage : str
        Its name; receipts lie under it.
    root, paths
        Where the receipts lie.
    function : callable
        Called on a worker with the number of a block. It writes the block, then its receipt.
    ranges : sequence of (start, stop)
        What each block holds, in `unit`.

    Raises
    ------
    StageFailed
        If a block failed on every try; the other blocks are done, and a rerun tries only the rest.
    """
    sizes = [stop - start for start, stop in ranges]
    waiting = pending(root, paths, stage, range(len(ranges)))
    done = sum(sizes) - sum(sizes[block] for block in waiting)
    with progress(stage, sum(sizes), done=done, unit=unit) as advance:
        if waiting:
            report = run_blocks(
                current_client(), function, waiting, on_done=lambda block, _: advance(sizes[block])
            )
            _raise_failures(stage, report.failed, len(ranges))


def _raise_failures(stage: str, failed: dict[int, str], n_blocks: int) -> None:
    if failed:
        reasons = "; ".join(f"block {block}: {reason}" for block, reason in sorted(failed.items())[:5])
        raise StageFailed(
            f"{stage}: {len(failed)} of {n_blocks} blocks failed ({reasons}); mend the cause and start the "
            "same command again, it does only what is missing"
        )
