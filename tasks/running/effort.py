"""Effort: how much of the workers' time is the arithmetic of a stage, and how much is everything around it.

Around it are reading and writing the stores, loading the model, and waiting for blocks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from storage.stores.receipts import HasReceipts, is_sealed, sealed
from storage.stores.root import Root, UnreadableFile

Result = TypeVar("Result")

_RECORD = {"blocks": int, "worker_seconds": float, "arithmetic_seconds": float}


class _Clock:
    """The seconds of arithmetic in this process."""

    seconds = 0.0


_clock = _Clock()


@contextmanager
def arithmetic() -> Iterator[None]:
    """Count the time inside as a stage's own work; not to be nested."""
    began = time.perf_counter()
    try:
        yield
    finally:
        _clock.seconds += time.perf_counter() - began


def with_seconds(work: Callable[[], Result]) -> tuple[Result, float]:
    """Call a function in a worker, and give its result with the seconds of its arithmetic."""
    before = _clock.seconds
    return work(), _clock.seconds - before


def record_effort(
    root: Root, paths: HasReceipts, stage: str, *, blocks: int, worker_seconds: float, arithmetic: float
) -> None:
    """Keep what the blocks of a stage took, those of an earlier start of the same stage included.

    Parameters
    ----------
    blocks : int
        How many blocks were done.
    worker_seconds, arithmetic : float
        Wall time times the workers; seconds inside `arithmetic`, summed over the workers.
    """
    before = _efforts(root, paths, stage)
    root.write_json(
        paths.effort(stage),
        sealed(
            {
                "blocks": before["blocks"] + blocks,
                "worker_seconds": before["worker_seconds"] + worker_seconds,
                "arithmetic_seconds": before["arithmetic_seconds"] + arithmetic,
            }
        ),
    )


def overhead(root: Root, stages: Mapping[str, HasReceipts]) -> dict[str, Any]:
    """Work out the share of the workers' time that is not arithmetic.

    Returns
    -------
    dict
        ``share`` over all stages that left a record (None without any), and ``stages``: each one's
        ``share``, ``blocks`` and ``worker_seconds``, the wall time times the workers.
    """
    efforts = {stage: _efforts(root, paths, stage) for stage, paths in stages.items()}
    known = {stage: effort for stage, effort in efforts.items() if effort["worker_seconds"]}
    return {
        "share": _share(list(known.values())),
        "stages": {
            stage: {
                "share": _share([effort]),
                "blocks": effort["blocks"],
                "worker_seconds": effort["worker_seconds"],
            }
            for stage, effort in known.items()
        },
    }


def effort_damage(root: Root, path: str) -> str:
    """What is wrong with a record, in words; empty if it is sound or absent."""
    other = "is not what was written"
    try:
        content = root.read_json(path)
    except FileNotFoundError:
        return ""
    except UnreadableFile as error:
        return f"can't be read: {error.strerror}"
    except ValueError:
        return other
    if not isinstance(content, dict) or not (is_sealed(content) or "seal" not in content):
        return other
    # The first versions wrote no seal.
    values = {name: value for name, value in content.items() if name != "seal"}
    sound = values.keys() == _RECORD.keys() and all(
        type(values[name]) in (int, kind) and 0 <= values[name] < math.inf for name, kind in _RECORD.items()
    )
    return "" if sound else other


def _efforts(root: Root, paths: HasReceipts, stage: str) -> dict[str, Any]:
    # A record is not a result: one that is lost, or damaged as `selrel verify` tells, begins anew.
    if root.exists(paths.effort(stage)) and not effort_damage(root, paths.effort(stage)):
        found: dict[str, Any] = root.read_json(paths.effort(stage))
        return found
    return {name: kind() for name, kind in _RECORD.items()}


def _share(efforts: list[dict[str, Any]]) -> float | None:
    whole = sum(effort["worker_seconds"] for effort in efforts)
    return 1 - sum(effort["arithmetic_seconds"] for effort in efforts) / whole if whole else None
