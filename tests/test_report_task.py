"""The report as a task: what it gathers of a run."""

import json
import shutil
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape

from flows.cli import main
from selrel.scores.intervals import no_interval
from selrel.scores.precision import NO_LIFT
from selrel.scores.reliance import RELIANCE_OF
from storage.report.figures import OLDER
from storage.runs import Run, read_summary
from storage.stores.receipts import sealed
from storage.stores.root import Root, run_at
from storage.tables import read_table, write_table
from tasks.clips import clips_of
from tasks.compare import compare_runs
from tasks.gate import MotionDropped, check_gate
from tasks.stages import report
from tests.made_run import MADE_FROZEN_SHARE, make_run


def test_what_the_model_said_is_of_the_scored_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_BLOCKS", 2)
    place, paths = run_at(make_run(tmp_path, n_clips=70, size=(12, 16), sigmas=(2.0,)).url)
    whole, none = report.explained_clips(Run(place, paths))
    assert (len(whole), len(none)) == (70, 0)
    place.delete(paths.receipts("score", 1))
    some, others = report.explained_clips(Run(place, paths))
    assert others["clip"].tolist() == list(range(16, 32))
    pd.testing.assert_frame_equal(some, whole[~whole["clip"].isin(others["clip"])])


def test_a_clip_is_flagged_where_its_target_is_not_its_prediction(tmp_path: Path) -> None:
    place, paths = run_at(make_run(tmp_path, n_clips=8, size=(12, 16), sigmas=(2.0,)).url)
    clips, _ = report.explained_clips(Run(place, paths))
    assert (clips.target != clips.predicted).tolist() == [True, False] * 4
    assert clips.flag.tolist() == [report.NOT_THE_ANSWER, ""] * 4
    assert read_summary(place, paths)["other_target_clips"] == 4


def test_a_constant_added_to_all_logits_changes_no_flag_and_no_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Softmax ignores it, so answers and probabilities are the same."""
    told = []
    for added in (0.0, -7.0, 7.0):
        url = make_run(tmp_path / "root", n_clips=8, size=(12, 16), added_to_logits=added).url
        place, paths = run_at(url)
        clips = read_table(place, paths.table("clips")).to_pandas()
        assert (clips.target_logit > 0).all() == (added > 0)
        assert main(["report", url]) == 0
        # The logits themselves are results.
        own = read_summary(place, paths)["results_sha256"]
        page, said = place.read_bytes(paths.report.page).decode(), capsys.readouterr().out
        told.append(
            (clips.drop(columns="target_logit").to_dict(), said.replace(own, ""), page.replace(own, ""))
        )
        shutil.rmtree(tmp_path / "root")
    assert told[0] == told[1] == told[2]


def test_the_page_of_an_older_run_flags_what_is_flagged_now(tmp_path: Path) -> None:
    """A first release flagged clips by the sign of a logit."""
    url = make_run(tmp_path / "root", n_clips=4, size=(12, 16)).url
    place, paths = run_at(url)
    clips = read_table(place, paths.table("clips")).to_pandas()
    write_table(place, paths.table("clips"), clips.assign(flag="target logit is not positive"))
    page = Path(report.report_elsewhere(url, str(tmp_path / "page"))).read_text()
    assert "not positive" not in page
    assert page.count(f"<td>{escape(report.NOT_THE_ANSWER)}</td>") == 2


def test_two_groups_give_no_interval_anywhere_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_run(tmp_path, n_clips=2).url
    reason = no_interval(2)
    assert main(["report", url]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "% (no interval): this part of the positive relevance changes over time" in said
    assert f"There is no 95 % interval: {reason}." in said
    assert f"No 95 % interval: {reason}." in said and "nan" not in said
    assert main(["report", url, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = [found["summary"]["motion_share"], *found["tables"]["table1"], *found["tables"]["sweep"]]
    ends = {row[name] for row in rows for name in row if name == "low" or name.endswith(("_low", "_high"))}
    assert ends == {None}
    # A class has one of the two groups.
    assert {row["no_interval"] for row in rows} == {reason, no_interval(1)}
    page = (Path(url) / "report" / "index.html").read_text()
    assert f"interval</a>: {reason}." in page and f"No 95 % interval: {reason}." in page
    assert "<td>none</td>" in page


def test_an_older_run_is_said_to_have_narrow_intervals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Such a run stays as it is, and its figures are not those that the page explains."""
    url = make_run(tmp_path / "root", n_clips=3, size=(12, 16), sigmas=(2.0,)).url
    place, paths = run_at(url)
    page = place.read_bytes(paths.report.page).decode()
    assert main(["report", url]) == 0
    assert OLDER not in page and OLDER not in " ".join(capsys.readouterr().out.split())
    summary = read_summary(place, paths)
    del summary["motion_share"]["no_interval"]
    place.write_json(paths.success, sealed(summary))
    assert main(["report", url]) == 0
    assert OLDER in " ".join(capsys.readouterr().out.split())
    assert OLDER in Path(report.report_elsewhere(url, str(tmp_path / "page"))).read_text()


def test_what_looks_like_markup_is_shown_as_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place, paths = run_at(make_run(tmp_path, n_clips=2, size=(12, 16), sigmas=(2.0,)).url)
    summary = read_summary(place, paths)
    share = {**summary["motion_share"], "no_interval": "[/x]"}
    place.write_json(paths.success, sealed({**summary, "motion_share": share}))
    assert main(["report", place.join(paths.directory)]) == 0
    assert "There is no 95 % interval: [/x]." in capsys.readouterr().out


def test_no_lift_where_nothing_moves_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = [f"v_{n // 2:04d}_g{n % 5:02d}.avi" for n in range(6)]
    url = make_run(tmp_path, n_clips=6, still=still).url
    assert main(["report", url]) == 0
    assert f"No lift: {NO_LIFT}." in " ".join(capsys.readouterr().out.split())
    place, paths = run_at(url)
    rows = read_table(place, paths.table("sweep")).to_pylist()
    assert {(row["lift"], row["no_lift"]) for row in rows} == {(None, NO_LIFT)}
    assert f"No lift: {NO_LIFT}." in (Path(url) / "report" / "index.html").read_text()


RELIANCES = {"frozen": 0.75, "shuffled": 0.5, "reversed": 0.25}


def test_the_headline_is_what_the_frozen_clips_lose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_run(tmp_path, n_clips=40, size=(12, 16), reliances=RELIANCES).url
    place, paths = run_at(url)
    rows = read_table(place, paths.table("reliance")).to_pandas()
    overall = rows[rows["class"].isna() & (rows.target == "predicted")].set_index("change")
    assert overall.reliance.to_dict() == pytest.approx(RELIANCES)
    assert (overall.kept == 1).all() and (overall.n_groups == 5).all()
    found = read_summary(place, paths)["motion_reliance"]
    assert found["reliance"] == pytest.approx(0.75) and found["reads"] == "mostly"
    clips = read_table(place, paths.table("clips")).to_pandas()
    for change, name in RELIANCE_OF.items():
        assert clips[name].to_numpy() == pytest.approx(RELIANCES[change])
    assert (clips.answer_frozen == clips.predicted).all()
    frozen = read_summary(place, paths)["frozen_share"]
    share = read_summary(place, paths)["motion_share"]["mean"]
    assert (frozen["frozen"], frozen["n_clips"]) == (MADE_FROZEN_SHARE, 40)
    assert frozen["as_it_is"] == pytest.approx(share)
    assert frozen["difference"] == pytest.approx(share - MADE_FROZEN_SHARE)
    assert frozen["low"] < frozen["difference"] < frozen["high"]
    assert main(["report", url]) == 0
    said = capsys.readouterr().out
    assert "Frozen, where nothing moves, 40 of the clips still have 12.5 %" in said
    assert "Does this model use motion? Mostly." in said
    assert "Motion reliance 75.0 % (75.0 to 75.0)" in said
    page = place.read_bytes(paths.report.page).decode()
    assert '<h1 id="result-title">Does this model use motion?</h1>' in page
    assert "75.0 %" in page and "order reliance" not in page.split("What it means")[0]


def test_a_run_that_asked_about_no_changes_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = make_run(tmp_path, n_clips=8, size=(12, 16)).url
    place, paths = run_at(url)
    assert read_summary(place, paths)["motion_reliance"] is None
    assert not place.exists(paths.table("reliance"))
    assert main(["report", url]) == 0
    assert "Nobody asked: this run left out the changed clips" in capsys.readouterr().out


def test_the_gate_is_about_the_motion_reliance(tmp_path: Path) -> None:
    before, after = (
        make_run(tmp_path / name, n_clips=40, size=(12, 16), reliances={"frozen": lost}).url
        for name, lost in (("before", 0.75), ("after", 0.5))
    )
    check_gate(after, 0.3, before, "motion_reliance")
    with pytest.raises(MotionDropped, match=r"motion reliance fell from 75.0 % .* by 25.0 points"):
        check_gate(after, 0.2, before, "motion_reliance")
    rows, _ = compare_runs(before, after)
    (row,) = (row for row in rows if (row["class"], row["score"]) == (None, "motion_reliance"))
    assert (row["before"], row["after"]) == pytest.approx((0.75, 0.5))
    assert row["high"] == pytest.approx(-0.25)


def test_one_report_reads_its_descriptions_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set's is read by the list of its clips, too, which a process keeps."""
    reads: Counter[str] = Counter()
    read_json, report_task = Root.read_json, report.report.fn

    def counted(root: Root, path: str) -> object:
        reads[path] += 1
        return read_json(root, path)

    def told(*arguments: str) -> None:
        clips_of.cache_clear()
        reads.clear()
        report_task(*arguments)

    monkeypatch.setattr(Root, "read_json", counted)
    monkeypatch.setattr(report.report, "fn", told)
    url = make_run(tmp_path / "root", n_clips=8, size=(12, 16), sigmas=(2.0,)).url
    run = Run(*run_at(url))
    # Once more where the run is marked as finished, in case the description was damaged meanwhile.
    assert reads[run.paths.run_json] <= 2
    assert reads[run.dataset.paths.description] <= 2
    clips_of.cache_clear()
    reads.clear()
    report.report_elsewhere(url, str(tmp_path / "page"))
    assert reads[run.paths.run_json] == reads[run.paths.success] == 1
    assert reads[run.dataset.paths.description] <= 2
    reads.clear()
    assert main(["report", url]) == 0
    assert reads[run.paths.run_json] == reads[run.paths.success] == 1
