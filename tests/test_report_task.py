"""When the report is written, and when a run is complete."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from storage.layout import Root
from storage.runs import is_finished
from tasks.report import report
from tests.made_run import RUN, make_run


def times(directory: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in directory.rglob("*") if file.is_file()}


def lost_at(call: int) -> Callable[[], None]:
    """A check that finds out at its n-th call that another process has taken over."""
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("taken over")

    return check


def test_a_finished_run_is_not_written_again_and_a_lost_one_not_finished(tmp_path: Path) -> None:
    made = make_run(tmp_path, n_clips=3, methods=("deep_taylor",))
    place, run = Root(str(tmp_path)), Path(made.url)
    before = times(run)
    report.fn(place.url, RUN)
    assert times(run) == before

    paths = place.run(RUN)
    place.delete(paths.success)
    place.delete(paths.receipts("report", 0))
    before = times(run)
    with pytest.raises(RuntimeError, match="taken over"):
        report.fn(place.url, RUN, check=lost_at(1))
    assert times(run) == before
    with pytest.raises(RuntimeError, match="taken over"):
        report.fn(place.url, RUN, check=lost_at(2))
    assert not is_finished(place, paths)
    assert not place.exists(paths.receipts("report", 0))
