"""The report as a task: what it gathers of a run."""

from pathlib import Path

import pandas as pd
import pytest

from storage.root import run_at
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
