"""How much of the workers' time is arithmetic, from what the stages note."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from storage.stores.root import Root
from tasks.running.effort import arithmetic, overhead, record_effort, with_seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is read."""
    monkeypatch.setattr("tasks.running.effort.time.perf_counter", itertools.count().__next__)


def test_only_the_time_inside_counts(clock: None) -> None:
    def work() -> str:
        with arithmetic():
            pass
        with arithmetic():
            return "done"

    assert with_seconds(lambda: None) == (None, 0.0)
    assert with_seconds(work) == ("done", 2.0)
    assert with_seconds(work) == ("done", 2.0)


def test_it_counts_when_the_work_fails(clock: None) -> None:
    def work() -> None:
        with pytest.raises(ValueError, match="no"), arithmetic():
            raise ValueError("no")

    assert with_seconds(work) == (None, 1.0)


def test_starts_of_a_stage_add_up(tmp_path: Path) -> None:
    root = Root(str(tmp_path))
    run, dataset = root.run("r"), root.dataset("d")
    assert overhead(root, {"explain": run}) == {"share": None, "stages": {}}
    record_effort(root, run, "explain", blocks=3, worker_seconds=20.0, arithmetic=19.0)
    record_effort(root, run, "explain", blocks=1, worker_seconds=10.0, arithmetic=8.0)
    record_effort(root, dataset, "decode", blocks=4, worker_seconds=10.0, arithmetic=5.0)
    found = overhead(root, {"decode": dataset, "motion": dataset, "explain": run})
    assert found["stages"].keys() == {"decode", "explain"}
    assert found["stages"]["explain"] == {
        "share": pytest.approx(0.1),
        "blocks": 4,
        "worker_seconds": 30.0,
    }
    assert found["share"] == pytest.approx(1 - 32 / 40)
