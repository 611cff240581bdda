"""A metric is one file: what it exports reaches scores, sums, tables, pages, consoles and comparisons."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import main
from selrel import scores
from selrel.scores import metrics
from storage.runs import finished_run
from storage.tables import read_table
from tasks import views
from tests.made_run import make_run

ADDED = """
from selrel.scores.metric import CLIPS, MAP, METHOD, Column, Metric, Table, share
from selrel.scores.summaries import summary


def ratios(counts):
    still = counts["counted_voxels"] - counts["moving_voxels"]
    marked = counts["relevant_voxels"] - counts["relevant_moving_voxels"]
    return {"specificity": share(still - marked, still)}


METRIC = Metric(
    terms={"specificity": ("Specificity", "Of the points that are still, the share that no map marks.")},
    tables=(
        Table(
            name="specificity",
            title="Specificity: how much of what is still stays unmarked",
            short_title="Specificity (%)",
            note="The counterpart of recall.",
            order=25,
            columns=(
                METHOD,
                MAP,
                Column("mean", "Specificity, % (sd)", "mean", "specificity", short="mean (sd)"),
                CLIPS,
            ),
            row=lambda part: summary(part, "specificity"),
            needed=("specificity",),
        ),
    ),
    ratios=ratios,
    scores=("specificity",),
    swept=(Column("specificity", "Specificity, %", term="specificity", chart="Unmarked where still"),),
    compared=("specificity",),
)
"""


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "added"
    folder.mkdir()
    (folder / "specificity.py").write_text(ADDED)
    caches = (metrics.metrics, metrics.tables, views.views)
    monkeypatch.setattr(scores, "__path__", [*scores.__path__, str(folder)])
    for cache in caches:
        cache.cache_clear()
    importlib.invalidate_caches()
    yield
    for cache in caches:
        cache.cache_clear()


def test_a_metric_is_one_file(
    added: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    url = make_run(tmp_path / "root", n_clips=8, size=(12, 16), sigmas=(2.0,)).url
    run = finished_run(url)
    rows = read_table(run.root, run.paths.table("specificity")).to_pylist()
    assert all(0 <= row["mean"] <= 1 and row["low"] <= row["mean"] <= row["high"] for row in rows[:2])
    swept = read_table(run.root, run.paths.table("sweep")).to_pylist()
    assert [row["specificity"] for row in swept[:2]] == pytest.approx([row["mean"] for row in rows[:2]])
    page = run.root.read_bytes(run.paths.report.page).decode()
    assert "Specificity, % (sd)" in page and "Unmarked where still" in page
    assert "Of the points that are still, the share that no map marks." in page
    assert main(["report", url]) == 0
    assert "Specificity (%)" in capsys.readouterr().out
    assert main(["export", url, "--figures", str(tmp_path / "figures"), "--format", "svg"]) == 0
    other = make_run(tmp_path / "other", n_clips=8, size=(12, 16), sigmas=(2.0,)).url
    assert main(["compare", url, other]) == 0
    assert "specificity, deep_taylor" in " ".join(capsys.readouterr().out.split())


def test_metrics_agree_on_names() -> None:
    """Tables, scores and terms are found by their names, so no two metrics may use the same."""
    found = metrics.metrics()
    names = [name for metric in found for name in (*metric.scores, *metric.derived)]
    shown = [table.name for metric in found for table in metric.tables]
    terms = [term for metric in found for term in metric.terms]
    for one in (names, shown, terms):
        assert len(one) == len(set(one))
    orders = [table.order for table in metrics.tables().values()]
    assert len(orders) == len(set(orders))
