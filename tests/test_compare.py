"""Comparison of runs: paired differences, the gate, and the commands that show them."""

from __future__ import annotations

import json
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
from scipy import stats  # type: ignore[import-untyped]

from flows.cli import main
from flows.exits import BAD_INPUT
from flows.serving.local_server import temporary_server
from selrel.scores.aggregate import SIGMA
from selrel.scores.compare import compare, dropped
from selrel.scores.intervals import difference_interval, no_interval
from selrel.scores.precision import NO_LIFT, NOTHING_RELEVANT
from storage.runs import Run, mark_success, write_run
from storage.stores.root import Root
from storage.tables import write_table
from tasks.compare import NotComparable, check_alike, compare_runs, headline, previous_run
from tasks.gate import MOTION_SHARE, MotionDropped, NotJudged, check_gate, event_of, with_previous

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
    kept, lifts = [], []
    for label in sorted(set(before["group"])):
        rows = before["group"] != label
        kept.append(after["kept_relevance"][rows].mean() - before["kept_relevance"][rows].mean())
        first, second = (s["precision"][rows].sum() / s["base_rate"][rows].sum() for s in (before, after))
        lifts.append(second - first)
    share, lift = compare(before, after, ["kept_relevance", "lift"])[:2]
    assert (share["class"], share["score"], share["n_clips"]) == (None, "kept_relevance", 60)
    assert share["difference"] == pytest.approx(np.mean(after["kept_relevance"] - before["kept_relevance"]))
    # Ten groups of six clips each; their base rates weigh nearly the same.
    for row, without, near in ((share, kept, 1e-6), (lift, lifts, 0.01)):
        reach = stats.t.ppf(0.975, 9) * 9 * np.std(without, ddof=1) / np.sqrt(10)
        expected = [row["difference"] - reach, row["difference"] + reach]
        assert [row["low"], row["high"]] == pytest.approx(expected, rel=near)
        assert row["no_interval"] is None


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
        "low": None, "high": None, "n_clips": 0, "no_interval": no_interval(0), "no_lift": None,
    }  # fmt: skip
    assert not dropped(rows[2], 0.0)


@pytest.mark.parametrize("n_groups", [1, 2])
def test_few_groups_have_no_interval(n_groups: int) -> None:
    ones = np.ones(n_groups)
    assert difference_interval((ones, ones), (2 * ones, ones)) is None
    # A group counts if both have it.
    apart = np.r_[np.zeros(2), ones], np.r_[ones, np.zeros(2)]
    assert difference_interval((apart[0], apart[0]), (apart[1], apart[1])) is None


def test_clips_in_which_next_to_nothing_moves_are_in_no_lift() -> None:
    before, after = columns(1), columns(2)
    before["base_rate"][:30] = after["base_rate"][:30] = 0.009
    lifts = {row["class"]: row for row in compare(before, after, ["lift"])}
    assert (lifts[None]["n_clips"], lifts["YoYo"]["n_clips"], lifts["Archery"]["n_clips"]) == (30, 30, 0)
    assert lifts[None]["before"] == lifts["YoYo"]["before"]
    assert lifts["Archery"]["before"] is None
    assert (lifts["Archery"]["no_lift"], lifts["Archery"]["no_interval"]) == (NO_LIFT, None)
    assert (lifts["YoYo"]["no_lift"], lifts["YoYo"]["no_interval"]) == (None, None)


def test_where_nothing_is_relevant_that_is_why_there_is_no_lift() -> None:
    before, after = columns(1), columns(2)
    before["precision"][:] = np.nan
    assert {row["no_lift"] for row in compare(before, after, ["lift"])} == {NOTHING_RELEVANT}


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
             dataset: str = "d1", read: dict[str, Any] | None = None, gate: dict[str, Any] | None = None,
             groups: int = 5, size: Callable[[int], object] = lambda number: 1000 + number,
             **settings: Any) -> str:  # fmt: skip
        place = Root(str(tmp_path / "root"))
        paths = place.run(name)
        given = {"max_drop": None, "against": None} | (gate or {})
        write_run(place, paths, {"dataset_id": dataset, "settings": SETTINGS | settings, "gate": given})
        numbers = range(*clips.indices(60))
        videos = [[f"v{n}.avi", "", 0, "", "test", size(n)] for n in sorted({n // 2 for n in numbers})]
        about = {"classes": ["Archery", "YoYo"], "videos": videos, "view": {"resize": 112}}
        place.write_json(place.dataset(dataset).description, about | (read or {}))
        frame = pd.DataFrame(columns(sum(map(ord, name)), shift)).iloc[clips].reset_index(drop=True)
        frame["group"] = frame["group"].str.replace(r"g0(\d)", lambda g: f"g{int(g[1]) % groups}", regex=True)
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
    found = headline(rows, MOTION_SHARE)
    assert found is not None
    assert found["n_clips"] == 54
    assert found["difference"] == pytest.approx(-0.1, abs=0.01)
    assert found["low"] < found["difference"] < found["high"] < 0
    names = {(row["score"], row["method"], row["sigma"]) for row in rows}
    assert len(names) == 1 + 2 * 5
    (accuracy,) = [row for row in rows if row["score"] == "accuracy" and row["class"] is None]
    assert accuracy["difference"] == 0.0
    assert notes == [
        "different videos: only the clips that both have are compared, 54 of 60 clips (90.0 %) and 27 of 30 "
        "videos before and 54 of 54 clips (100.0 %) and 27 of 27 videos after"
    ]


def test_videos_of_the_same_name_are_not_the_same(make_run: MakeRun) -> None:
    before = make_run("a", 0.0)
    after = make_run("b", 0.0, dataset="d2", size=lambda n: 1000 + n + (n < 6))
    rows, notes = compare_runs(before, after)
    assert {row["n_clips"] for row in rows if row["class"] is None} == {60 - 12}
    assert notes == [
        "different videos: only the clips that both have are compared, 48 of 60 clips (80.0 %) and 24 of 30 "
        "videos before and 48 of 60 clips (80.0 %) and 24 of 30 videos after",
        "6 videos have the same name in both, but are different files, such as v0.avi: they count as "
        "different",
    ]
    # A hash says nothing of a size.
    hashed = make_run("h", 0.0, dataset="d4", size=lambda n: f"{n:064x}")
    assert compare_runs(before, hashed)[1] == []
    others = make_run("c", 0.0, dataset="d3", size=lambda n: n)
    with pytest.raises(NotComparable, match="no clip in common: .* 30 videos of the same name are different"):
        compare_runs(before, others)


@pytest.mark.parametrize(
    ("read", "note"),
    [
        ({"view": {"resize": 171}}, "the clips were read in another way (resize, crop or clip length)"),
        ({"code": "b", "opencv": "6"}, "the clips were read in another way (the code; OpenCV)"),
        ({"block_clips": 8}, None),
    ],
)
def test_the_same_videos_read_in_another_way(make_run: MakeRun, read: dict[str, Any], note: str) -> None:
    before, after = make_run("a", 0.0), make_run("b", 0.0, dataset="d2", read=read)
    assert compare_runs(before, after)[1] == ([note] if note else [])


def test_a_data_set_that_is_gone_is_said(make_run: MakeRun, tmp_path: Path) -> None:
    before, after = make_run("a", 0.0), make_run("b", 0.0, dataset="d2")
    (tmp_path / "root/datasets/d2/dataset.json").unlink()
    (note,) = compare_runs(before, after)[1]
    assert (
        note == "a data set's description is gone: whether videos of the same name are the same is not known"
    )


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
    assert previous_run(Run.of(place, "new")) == expected


def finish(root: Path, name: str) -> str:
    """End a run as the report does."""
    place = Root(str(root))
    _, verdict = with_previous(Run.of(place, name))
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
    assert previous_run(Run.of(place, "as-bad")) == good
    with pytest.raises(MotionDropped, match="in good to"):
        check_gate(finish(tmp_path / "root", "as-bad"), 0.05)


def test_a_worse_checkpoint_trips_the_gate(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("good", 0.0)
    make_run("worse", -0.1, finished_at=None, gate={"max_drop": 0.05})
    rows, verdict = with_previous(Run.of(Root(str(tmp_path / "root")), "worse"))
    assert verdict is not None
    assert (verdict["previous"], verdict["max_drop"], verdict["passed"]) == ("good", 0.05, False)
    found = headline(rows, MOTION_SHARE)
    assert found is not None and verdict["difference"] == found["difference"]
    url = finish(tmp_path / "root", "worse")
    check_gate(url, None)
    check_gate(url, 0.2)
    with pytest.raises(MotionDropped, match=r"by \d+\.\d points \(95 %: .* at most 5 are allowed") as said:
        check_gate(url, 0.05)
    assert "\n" not in str(said.value)


def test_too_few_groups_are_judged_by_the_mean_alone(
    make_run: MakeRun, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chance can't be told from a fall, so what may be a fall does not pass, and it is said."""
    monkeypatch.setattr(logging.getLogger("selrel"), "propagate", True)
    make_run("good", 0.0, groups=1)
    make_run("worse", -0.1, groups=1, finished_at=None, gate={"max_drop": 0.05})
    _, verdict = with_previous(Run.of(Root(str(tmp_path / "root")), "worse"))
    assert verdict is not None
    assert (verdict["passed"], verdict["low"], verdict["no_interval"]) == (False, None, no_interval(2))
    url = finish(tmp_path / "root", "worse")
    with pytest.raises(MotionDropped, match=r"no 95 % interval: only 2 groups .*at most 5 are allowed"):
        check_gate(url, 0.05)
    assert caplog.messages == []
    check_gate(url, 0.2)
    assert "judged by the mean alone (no 95 % interval: only 2 groups of videos" in caplog.messages[0]


def test_a_named_run_is_the_measure(make_run: MakeRun, tmp_path: Path) -> None:
    """A slow decline passes from run to run, but not against where it began."""
    first = make_run("first", 0.0, finished_at="2026-01-01")
    make_run("second", -0.04, finished_at="2026-02-01")
    make_run("third", -0.08, finished_at=None)
    third = finish(tmp_path / "root", "third")
    check_gate(third, 0.06)
    with pytest.raises(MotionDropped, match="in first to"):
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
    rows, verdict = with_previous(Run.of(place, "free"))
    assert rows == []
    assert verdict is not None and verdict["passed"] and "damaged" in verdict["error"]
    with pytest.raises(ValueError, match=r"clips\.parquet is damaged"):
        with_previous(Run.of(place, "gated"))
    # Asked later of the run that finished without a gate: what is stored says nothing.
    url = finish(tmp_path / "root", "free")
    check_gate(url, None)
    with pytest.raises(NotJudged, match=r"can't judge .*/free: .*damaged/.* is damaged.*--against"):
        check_gate(url, 0.05)
    make_run("damaged", 0.2)
    with pytest.raises(MotionDropped, match="in damaged to"):
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
        with_previous(Run.of(place, "gated"))
    assert "\n" not in str(said.value)
    assert with_previous(Run.of(place, "free"))[0] == []
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
    assert previous_run(Run.of(place, "gated")) == url


def test_runs_without_a_motion_share_do_not_pass(make_run: MakeRun, tmp_path: Path) -> None:
    """No clip of the one run counts: it is complete, but nothing is known about it."""
    place = Root(str(tmp_path / "root"))
    make_run("good", 0.0)
    make_run("empty", np.nan, finished_at=None, gate={"max_drop": 0.05})
    _, verdict = with_previous(Run.of(place, "empty"))
    assert verdict is not None and not verdict["passed"] and verdict["difference"] is None
    with pytest.raises(NotJudged, match="no clip of both it and .*/good has a motion share"):
        check_gate(finish(tmp_path / "root", "empty"), 0.05)


@pytest.mark.slow
def test_a_flow_run_tells_prefect(make_run: MakeRun, tmp_path: Path) -> None:
    make_run("good", 0.0)
    make_run("worse", -0.1, finished_at=None)
    url = finish(tmp_path / "root", "worse")
    with temporary_server():
        # A private server is sent no events; a team's is.
        EventsWorker.set_client_override(None)
        with pytest.raises(MotionDropped):
            flow(name="gated")(check_gate)(url, 0.05)
        EventsWorker.drain_all(timeout=30, at_exit=False)
        (event,) = events(event_of(MOTION_SHARE))
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


def test_the_command_says_why_there_is_no_interval(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    before, after = make_run("a", 0.0, groups=1), make_run("b", -0.1, groups=1)
    assert main(["compare", before, after]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"motion share \d+\.\d \d+\.\d -\d+\.\d none 60", said)
    assert f"No 95 % interval: {no_interval(2)}." in said
    assert main(["compare", before, after, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    row = next(row for row in found["rows"] if row["score"] == "kept_relevance")
    assert (row["low"], row["high"], row["no_interval"]) == (None, None, no_interval(2))


def test_comparing_needs_two_finished_runs(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    before, unfinished = make_run("a", 0.0), make_run("b", 0.0, finished_at=None)
    assert main(["compare", before]) == BAD_INPUT
    assert "name another" in capsys.readouterr().err
    assert main(["compare", before, unfinished]) == BAD_INPUT
    assert "b is not finished: the `selrel explain` command" in capsys.readouterr().err
    assert main(["compare", before, unfinished + "x"]) == BAD_INPUT
    assert "there is no run" in capsys.readouterr().err
