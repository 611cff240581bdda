"""Runs one stage: the blocks that have no sound receipt, on the cluster, with progress.

What a worker does for a block writes files and says which (`storage.stores.receipts.Written`); the receipt is
written here, so that it is the last thing for every stage alike. Blocks that were done before are read
again before anything builds on them, and those that are damaged are done again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypedDict

from storage.datasets.fingerprints import ChangedVideo
from storage.stores.receipts import (
    HasReceipts,
    Written,
    discard,
    discard_damaged,
    pending,
    withdraw,
    write_receipt,
)
from storage.stores.root import Root
from tasks.running.effort import record_effort, with_seconds
from tasks.running.fanout import FanoutReport, current_client, run_blocks, threads
from tasks.running.progress import progress

_log = logging.getLogger("selrel")


class StageFailed(RuntimeError):
    """Blocks that could not be done, after several tries."""


class Quarantined(TypedDict):
    """A block that is left out, since it killed every worker that tried it."""

    stage: str
    block: int
    start: int
    stop: int
    reason: str


def run_stage(
    stage: str,
    root: Root,
    paths: HasReceipts,
    function: Callable[[int], Written],
    ranges: Sequence[tuple[int, int]],
    *,
    blocks: Iterable[int] | None = None,
    unit: str = "clips",
) -> list[Quarantined]:
    """Call a function once for every block of a stage that has no sound receipt.

    Parameters
    ----------
    stage : str
        Its name; receipts lie under it.
    root, paths
        Where the receipts lie.
    function : callable
        Called on a worker with the number of a block. It writes the block and says what it wrote.
    ranges : sequence of (start, stop)
        What each block holds, in `unit`: as many each, but for the last.
    blocks : iterable of int, optional
        The blocks whose inputs are there; all of them by default. What an earlier start made of inputs that
        have gone since is deleted.

    Returns
    -------
    list of Quarantined
        The blocks that killed their workers. The next start of an unfinished run tries them again; one that
        has ended without them is done, until `selrel verify RUN --repair` says otherwise.

    Raises
    ------
    StageFailed
        If a block raised on every try, or all that were tried killed their workers; the other blocks are
        done, and a rerun tries only the rest. At once, if a video has changed.
    """
    chosen = list(range(len(ranges)) if blocks is None else blocks)
    done_before = done_blocks(root, paths, stage, len(ranges))
    _drop_unsound(stage, root, paths, sorted(done_before - set(chosen)), sorted(done_before & set(chosen)))
    waiting = pending(root, paths, stage, chosen)
    sizes = [stop - start for start, stop in ranges]
    total = sum(sizes[block] for block in chosen)
    done = total - sum(sizes[block] for block in waiting)
    with progress(stage, total, done=done, unit=unit) as advance:
        if not waiting:
            return []
        work = partial(_do, stage, root, paths, function, size=sizes[0], n_units=ranges[-1][1])
        report = _run(stage, root, paths, work, waiting, lambda block: advance(sizes[block]))
    _raise_failures(stage, report, len(chosen), too_many_killers=len(chosen))
    left_out: list[Quarantined] = []
    for block, why in report.killers.items():
        start, stop = ranges[block]
        _log.warning("%s: block %d (%d:%d) is left out: %s", stage, block, start, stop, why)
        reason = f"{stage}: {why}"
        left_out.append({"stage": stage, "block": block, "start": start, "stop": stop, "reason": reason})
    return left_out


def done_blocks(root: Root, paths: HasReceipts, stage: str, n_blocks: int) -> set[int]:
    """Blocks of a stage that have a receipt."""
    return set(range(n_blocks)) - set(pending(root, paths, stage, range(n_blocks)))


def once(root: Root, paths: HasReceipts, stage: str, work: Callable[[], Written]) -> None:
    """Do a piece of work that is a single block, unless its receipt is there and sound."""
    if discard_damaged(root, paths, stage, 0):
        write_receipt(root, paths, stage, 0, work())


def _run(
    stage: str,
    root: Root,
    paths: HasReceipts,
    work: Callable[[int], float],
    waiting: Sequence[int],
    advance: Callable[[int], None],
) -> FanoutReport[int]:
    """Do the blocks, and keep how much of the workers' time was arithmetic."""
    client, began, arithmetic = current_client(), time.monotonic(), 0.0
    workers = threads(client)

    def done_with(block: int, seconds: float) -> None:
        nonlocal arithmetic
        arithmetic += seconds
        advance(block)

    try:
        report = run_blocks(client, work, waiting, on_done=done_with, fatal=(ChangedVideo,))
    except ChangedVideo as error:
        raise StageFailed(f"{stage}: {error}") from error
    # A worker that died may not be back yet, before or after: it has had its time all the same.
    worker_seconds = (time.monotonic() - began) * max(workers, threads(client))
    record_effort(
        root, paths, stage, blocks=report.done, worker_seconds=worker_seconds, arithmetic=arithmetic
    )
    return report


def _do(
    stage: str,
    root: Root,
    paths: HasReceipts,
    function: Callable[[int], Written],
    block: int,
    *,
    size: int,
    n_units: int,
) -> float:
    # Not the list of all ranges: it would travel with every block.
    start, stop = block * size, min((block + 1) * size, n_units)
    written, seconds = with_seconds(lambda: function(block))
    write_receipt(root, paths, stage, block, written, start=start, stop=stop)
    return seconds


def _drop_unsound(
    stage: str, root: Root, paths: HasReceipts, stale: Sequence[int], kept: Sequence[int]
) -> None:
    """Drop blocks whose inputs have gone (`stale`), and of the others those that are damaged."""
    for block in stale:
        withdraw(root, paths, stage, block)
    if stale:
        numbers = ", ".join(map(str, stale))
        _log.warning("%s: dropped, since what they were made from is gone: block %s", stage, numbers)
    if not kept:
        return
    damaged: dict[int, dict[str, str]] = {}
    check = partial(discard_damaged, root, paths, stage)
    report = run_blocks(current_client(), check, kept, on_done=damaged.__setitem__)
    # Where all of several kill their workers, the machine is to blame, and nothing is thrown away.
    _raise_failures(stage, report, len(kept), too_many_killers=max(2, len(kept)))
    for block, reason in sorted(report.killers.items()):
        discard(root, paths, stage, block, ())
        _log.warning("%s: when block %d was read again %s: it is done again", stage, block, reason)
    for block, damages in sorted(damaged.items()):
        for path, damage in damages.items():
            _log.warning("%s: %s %s: block %d is done again", stage, root.join(path), damage, block)


def _raise_failures(stage: str, report: FanoutReport[int], n_blocks: int, *, too_many_killers: int) -> None:
    failed = {block: reason for block, reason in report.failed.items() if block not in report.killers}
    if not failed and len(report.killers) >= too_many_killers:
        failed = report.killers
    if failed:
        reasons = "; ".join(f"block {block}: {reason}" for block, reason in sorted(failed.items())[:5])
        raise StageFailed(
            f"{stage}: {len(failed)} of {n_blocks} blocks failed ({reasons}); mend the cause and start the "
            "same command again, it does only what is missing"
        )
