"""The report as a task: what it gathers of a run."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from markupsafe import escape

from flows.cli import main
from storage.root import run_at
from storage.runs import read_summary
from storage.tables import read_table, write_table
from tasks import report
from tests.made_run import make_run


def test_what_the_model_said_is_of_the_scored_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_BLOCKS", 2)
    place, paths = run_at(make_run(tmp_path, n_clips=70, size=(12, 16), sigmas=(2.0,)).url)
    whole, none = report.explained_clips(place, paths.name)
    assert (len(whole), len(none)) == (70, 0)
    place.delete(paths.receipts("score", 1))
    some, others = report.explained_clips(place, paths.name)
    assert others["clip"].tolist() == list(range(16, 32))
    pd.testing.assert_frame_equal(some, whole[~whole["clip"].isin(others["clip"])])


def test_a_clip_is_flagged_where_its_target_is_not_its_prediction(tmp_path: Path) -> None:
    place, paths = run_at(make_run(tmp_path, n_clips=8, size=(12, 16), sigmas=(2.0,)).url)
    clips, _ = report.explained_clips(place, paths.name)
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
        page = place.read_bytes(paths.report.page).decode()
        told.append((clips.drop(columns="target_logit").to_dict(), capsys.readouterr().out, page))
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
