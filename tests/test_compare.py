"""Comparison of runs: paired differences, the gate, and the commands that show them."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.events.worker import EventsWorker

from flows.cli import main
from flows.exits import BAD_INPUT
from flows.local_server import temporary_server
from selrel.scores.aggregate import SIGMA
from selrel.scores.compare import compare, dropped
from selrel.scores.intervals import difference_interval
from storage.root import Root
from storage.runs import mark_success, write_run
from storage.tables import write_table
from tasks.compare import NotComparable, check_alike, compare_runs, headline, previous_run
from tasks.gate import EVENT, MotionShareDropped, NotJudged, check_gate, with_previous

SETTINGS = {"methods": {"deep_taylor": {}, "grad_cam": {}}, "target": "predicted", "batch_clips": 8}


def columns(seed: int, shift: float = 0.0) -> dict[str, Any]:
    """Scores of 60 clips of two classes in ten groups, alike within a group, of one more checkpoint."""
    of_clip = np.random.default_rng(99)
    group = np.repeat([f"{name}/g{g:02}" for name in ("Archery", "YoYo") for g in range(5)], 6)
    hard = np.repeat(of_clip.normal(0.3, 0.1, 10), 6) + of_clip.normal(0, 0.05, 60)
    noise = np.random.default_rng(seed).normal(0, 0.02, 60)
    kept = hard + noise + shift
    return {
        "class": np.array([name.split("/")[0] for name in group]),
        "group": group,
        "kept_relevance": kept,
        "precision": 2 * kept,
        "base_rate": of_clip.uniform(0.2, 0.4, 60),
    }


def test_the_paired_interval_restated() -> None:
    before, after = columns(1), columns(2, -0.04)
    labels = sorted(set(before["group"]))
    generator = np.random.default_rng(0)
    differences, lifts = [], []
    for _ in range(2000):
        drawn = [labels[i] for i in generator.integers(0, len(labels), len(labels))]
        rows = np.concatenate([np.flatnonzero(before["group"] == label) for label in drawn])
        differences.append(after["kept_relevance"][rows].mean() - before["kept_relevance"][rows].mean())
        first, second = (s["precision"][rows].sum() / s["base_rate"][rows].sum() for s in (before, after))
        lifts.append(second - first)
    share, lift = compare(before, after, ["kept_relevance", "lift"])[:2]
    assert (share["class"], share["score"], share["n_clips"]) == (None, "kept_relevance", 60)
    assert share["difference"] == pytest.approx(np.mean(after["kept_relevance"] - before["kept_relevance"]))
    assert [share["low"], share["high"]] == pytest.approx(np.quantile(differences, [0.025, 0.975]).tolist())
    assert [lift["low"], lift["high"]] == pytest.approx(np.quantile(lifts, [0.025, 0.975]).tolist())


def test_pairing_removes_what_is_hard_for_both() -> None:
    before, after = columns(1), columns(2)
    (row,) = compare(before, after, ["kept_relevance"])[:1]
    spread = np.std([before["kept_relevance"][before["group"] == g].mean() for g in set(before["group"])])
    assert row["high"] - row["low"] < 0.3 * spread


def test_a_clip_counts_where_both_have_the_score() -> None:
    before, after = columns(1), columns(2)
    before["precision"][:7] = np.nan
    after["precision"][5:9] = np.nan
    for score in ("precision", "lift"):
        (row,) = compare(before, after, [score])[:1]
        assert row["n_clips"] == 60 - 9
        rest = slice(9, None)
        below = [1.0, 1.0] if score == "precision" else [s["base_rate"][rest].mean() for s in (before, after)]
        expected = [s["precision"][rest].mean() / b for s, b in zip((before, after), below, strict=True)]
        assert [row["before"], row["after"]] == pytest.approx(expected)


def test_classes_follow_and_nothing_to_compare_is_null() -> None:
    before, after = columns(1), columns(2)
    before["precision"][30:] = np.nan
    rows = compare(before, after, ["precision"])
    assert [row["class"] for row in rows] == [None, "Archery", "YoYo"]
    assert rows[2] == {
        "class": "YoYo", "score": "precision", "before": None, "after": None, "difference": None,
        "low": None, "high": None, "n_clips": 0,
    }  # fmt: skip
    assert not dropped(rows[2], 0.0)


def test_one_group_has_no_interval() -> None:
    ones = np.ones(1)
    assert difference_interval((ones, ones), (2 * ones, ones)) is None
    with pytest.raises(ValueError, match="0 resamples"):
        difference_interval((ones, ones), (ones, ones), n=0)


@pytest.mark.parametrize(
    ("difference", "high", "falls"),
    [
        (-0.06, -0.01, True),
        (-0.06, 0.01, False),  # as large, but it may be chance
        (-0.06, None, True),
        (-0.05, -0.01, False),  # the limit itself passes
        (0.06, 0.1, False),
        (None, None, False),
    ],
)
def test_a_drop_is_larger_than_the_limit_and_than_chance(
    difference: float | None, high: float | None, falls: bool
) -> None:
    assert dropped({"difference": difference, "high": high}, 0.05) is falls


MakeRun = Callable[..., str]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """A run as far as a comparison reads it: run.json, clips, scores, and its marker last."""

    def make(name: str, shift: float, *, finished_at: str | None = "2026-01-01", clips: slice = slice(None),
             dataset: str = "d1", gate: dict[str, Any] | None = None, **settings: Any) -> str:  # fmt: skip
        place = Root(str(tmp_path / "root"))
        paths = place.run(name)
        given = {"max_drop": None, "against": None} | (gate or {})
        write_run(place, paths, {"dataset_id": dataset, "settings": SETTINGS | settings, "gate": given})
        frame = pd.DataFrame(columns(sum(map(ord, name)), shift)).iloc[clips].reset_index(drop=True)
        number = np.arange(60)[clips]
        labels = frame[["class", "group"]].assign(
            clip=range(len(frame)), video=[f"v{n // 2}.avi" for n in number], start_frame=16 * (number % 2)
        )
        write_table(place, paths.table("clips"), labels.assign(correct=number % 3 > 0))
        rows = [
            frame.assign(method=method, sigma=sigma, clip=range(len(frame)))
            for method in SETTINGS["methods"]
            for sigma in (0.0, 0.5, SIGMA)
        ]
        write_table(place, paths.score(0), pd.concat(rows))
        if finished_at is not None:
            mark_success(place, paths, {"finished_at": finished_at, "comparison": None})
        return place.join(paths.directory)

    return make


def test_runs_are_compared_clip_by_clip(make_run: MakeRun) -> None:
    before, after = make_run("a", 0.0), make_run("b", -0.1, clips=slice(6, None), dataset="d2")
    rows, notes = compare_runs(before, after)
    found = headline(rows)
    assert found is not None
    assert found["n_clips"] == 54
    assert found["difference"] == pytest.approx(-0.1, abs=0.01)
    assert found["low"] < found["difference"] < found["high"] < 0
    names = {(row["score"], row["method"], row["sigma"]) for row in rows}
    assert len(names) == 1 + 2 * 5
    (accuracy,) = [row for row in rows if row["score"] == "accuracy" and row["class"] is None]
    assert accuracy["difference"] == 0.0
    assert notes == ["different data: only the 54 clips that both have are compared, of 60 and 54"]


def test_other_settings_are_named(make_run: MakeRun) -> None:
    before, after = make_run("a", 0.0), make_run("b", 0.0, target="true", batch_clips=4)
    _, (note,) = compare_runs(before, after)
    assert note.startswith("other settings: target;")


def test_runs_of_different_data_are_refused(make_run: MakeRun) -> None:
    before, after = make_run("a", 0.0, clips=slice(30)), make_run("b", 0.0, clips=slice(30, None))
    with pytest.raises(NotComparable, match=r"no clip in common: the one has 30 clips of 15 videos, v0\.avi"):
        compare_runs(before, after)


def test_a_run_is_not_compared_with_itself(make_run: MakeRun) -> None:
    run = make_run("a", 0.0)
    with pytest.raises(ValueError, match="is on both sides; give two runs"):
        compare_runs(run, f"{run}/")


def test_the_run_before_is_the_last_of_its_series(make_run: MakeRun, tmp_path: Path) -> None:
    place = Root(str(tmp_path / "root"))
    make_run("oldest", 0.0, finished_at="2026-01-01T00:00:00+00:00")
    expected = make_run("last", 0.0, finished_at="2026-03-01T00:00:00+00:00")
    make_run("middle", 0.0, finished_at="2026-02-01T00:00:00+00:00")
    make_run("other-data", 0.0, finished_at="2026-04-01T00:00:00+00:00", dataset="d2")
    make_run("other-settings", 0.0, finished_at="2026-04-01T00:00:00+00:00", target="true")
    make_run("unfinished", 0.0, finished_at=None)
    make_run("new", 0.0, finished_at=None, batch_clips=2)
    assert previous_run(place, "new") == expected


def finish(root: Path, name: str) -> str:
    """End a run as the report does."""
    place = Root(str(root))
    _, verdict = with_previous(place, name)
    mark_success(place, place.run(name), {"finished_at": "2026-05-01", "comparison": verdict})
    return place.join(place.run(name).directory)


def test_the_first_run_passes_but_was_not_judged(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command line keeps its lines to itself.
    monkeypatch.setattr(logging.getLogger("selrel"), "propagate", True)
    make_run("a", 0.0, finished_at=None, gate={"max_drop": 0.05})
    url = finish(tmp_path / "root", "a")
    make_run("later", 0.5)
    check_gate(url, None)
    assert caplog.messages == []
    check_gate(url, 0.05)
    # Once or twice, by what other tests have done to the logger.
    assert set(caplog.messages) == {f"{url}: nothing to compare with, the gate did not judge"}


def test_a_run_that_the_gate_refused_is_no_measure(make_run: MakeRun, tmp_path: Path) -> None:
    good = make_run("good", 0.0, finished_at="2026-01-01")
    place = Root(str(tmp_path / "root"))
    make_run("worse", -0.2, finished_at=None, gate={"max_drop": 0.05})
    finish(tmp_path / "root", "worse")
    make_run("as-bad", -0.2, finished_at=None, gate={"max_drop": 0.05})
    assert previous_run(place, "as-bad") == good
    with pytest.raises(MotionShareDropped, match="in good to"):
        check_gate(finish(tmp_path / "root", "as-bad"), 0.05)


def test_a_worse_checkpoint_trips_the_gate(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("good", 0.0)
    make_run("worse", -0.1, finished_at=None, gate={"max_drop": 0.05})
    rows, verdict = with_previous(Root(str(tmp_path / "root")), "worse")
    assert verdict is not None
    assert (verdict["previous"], verdict["max_drop"], verdict["passed"]) == ("good", 0.05, False)
    found = headline(rows)
    assert found is not None and verdict["difference"] == found["difference"]
    url = finish(tmp_path / "root", "worse")
    check_gate(url, None)
    check_gate(url, 0.2)
    with pytest.raises(
        MotionShareDropped, match=r"by \d+\.\d points \(95 %: .* at most 5 are allowed"
    ) as said:
        check_gate(url, 0.05)
    assert "\n" not in str(said.value)


def test_a_named_run_is_the_measure(make_run: MakeRun, tmp_path: Path) -> None:
    """A slow decline passes from run to run, but not against where it began."""
    first = make_run("first", 0.0, finished_at="2026-01-01")
    make_run("second", -0.04, finished_at="2026-02-01")
    make_run("third", -0.08, finished_at=None)
    third = finish(tmp_path / "root", "third")
    check_gate(third, 0.06)
    with pytest.raises(MotionShareDropped, match="in first to"):
        check_gate(third, 0.06, first)


def test_a_measure_of_another_kind_is_refused(make_run: MakeRun) -> None:
    other = make_run("other", 0.0, dataset="d2", target="true")
    with pytest.raises(ValueError, match="differ in data set, target"):
        check_alike(other, {"dataset_id": "d1", "settings": SETTINGS})


def test_a_gate_that_cannot_judge_does_not_pass(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("damaged", 0.0)
    (tmp_path / "root/runs/damaged/tables/clips.parquet").write_bytes(b"")
    make_run("free", 0.0, finished_at=None)
    make_run("gated", 0.0, finished_at=None, gate={"max_drop": 0.05})
    place = Root(str(tmp_path / "root"))
    rows, verdict = with_previous(place, "free")
    assert rows == []
    assert verdict is not None and verdict["passed"] and "damaged" in verdict["error"]
    with pytest.raises(ValueError, match=r"clips\.parquet is damaged"):
        with_previous(place, "gated")
    # Asked later of the run that finished without a gate: what is stored says nothing.
    url = finish(tmp_path / "root", "free")
    check_gate(url, None)
    with pytest.raises(NotJudged, match=r"can't judge .*/free: .*damaged/.* is damaged.*--against"):
        check_gate(url, 0.05)
    make_run("damaged", 0.2)
    with pytest.raises(MotionShareDropped, match="in damaged to"):
        check_gate(url, 0.05)
    check_gate(url, 0.05, make_run("older", 0.0))


@pytest.mark.parametrize("file", ["run.json", "_SUCCESS.json"])
def test_a_damaged_run_before_is_not_passed_over(file: str, make_run: MakeRun, tmp_path: Path) -> None:
    """Nobody can say whether it was the one to compare with."""
    place = Root(str(tmp_path / "root"))
    good, bad = make_run("good", 0.0), make_run("damaged", 0.2)
    damaged = tmp_path / "root/runs/damaged" / file
    damaged.write_text(damaged.read_text().replace("{", "{{" if file == "run.json" else '{"a": 1,', 1))
    make_run("free", 0.0, finished_at=None)
    make_run("gated", 0.0, finished_at=None, gate={"max_drop": 0.05})
    todo = rf"{bad} is damaged .*verify {bad} --repair.* remove it.*--against"
    with pytest.raises(ValueError, match=todo) as said:
        with_previous(place, "gated")
    assert "\n" not in str(said.value)
    assert with_previous(place, "free")[0] == []
    url = finish(tmp_path / "root", "free")
    with pytest.raises(NotJudged, match=todo):
        check_gate(url, 0.05)
    check_gate(url, 0.05, good)
    with pytest.raises(NotJudged, match=todo):
        check_gate(url, 0.05, bad)
    # What is not finished, or of another series, is in nobody's way.
    Path(place.join(place.run("damaged").success)).unlink()
    make_run("elsewhere", 0.0, dataset="d2")
    Path(place.join(place.run("elsewhere").success)).write_text("")
    assert previous_run(place, "gated") == url


def test_runs_without_a_motion_share_do_not_pass(make_run: MakeRun, tmp_path: Path) -> None:
    """No clip of the one run counts: it is complete, but nothing is known about it."""
    place = Root(str(tmp_path / "root"))
    make_run("good", 0.0)
    make_run("empty", np.nan, finished_at=None, gate={"max_drop": 0.05})
    _, verdict = with_previous(place, "empty")
    assert verdict is not None and not verdict["passed"] and verdict["difference"] is None
    with pytest.raises(NotJudged, match="no clip of both it and .*/good has a motion share"):
        check_gate(finish(tmp_path / "root", "empty"), 0.05)


def test_a_flow_run_tells_prefect(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("good", 0.0)
    make_run("worse", -0.1, finished_at=None)
    url = finish(tmp_path / "root", "worse")
    with temporary_server():
        with pytest.raises(MotionShareDropped):
            flow(name="gated")(check_gate)(url, 0.05)
        EventsWorker.drain_all(timeout=30, at_exit=False)
        (event,) = events(EVENT)
    assert event["resource"]["prefect.resource.id"] == "selrel.run.worse"
    assert event["payload"]["previous"] == "good"
    assert event["payload"]["passed"] is False


def events(name: str) -> list[dict[str, Any]]:
    """The events of a name that the server of this process has stored; they arrive a moment later."""
    for _ in range(100):
        with get_client(sync_client=True) as client:
            answer = client.request("POST", "/events/filter", json={"filter": {"event": {"name": [name]}}})
        found: list[dict[str, Any]] = answer.json()["events"]
        if found:
            return found
        time.sleep(0.1)
    return []


def test_the_command_prints_differences(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = make_run("a", 0.0), make_run("b", -0.1)
    assert main(["compare", before, after, "--by-class"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"motion share +\d+\.\d +\d+\.\d +-\d+\.\d\* +-\d+\.\d to -\d+\.\d +60", said)
    assert re.search(r"accuracy +66\.7 +66\.7 +\+0\.0", said)
    assert re.search(r"Archery .* 30 \n", said)


def test_comparing_needs_two_finished_runs(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    before, unfinished = make_run("a", 0.0), make_run("b", 0.0, finished_at=None)
    assert main(["compare", before]) == BAD_INPUT
    assert "name another" in capsys.readouterr().err
    assert main(["compare", before, unfinished]) == BAD_INPUT
    assert "b is not finished: the `selrel explain` command" in capsys.readouterr().err
    assert main(["compare", before, unfinished + "x"]) == BAD_INPUT
    assert "there is no run" in capsys.readouterr().err
