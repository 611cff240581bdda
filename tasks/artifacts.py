"""Artifacts: a finished run in Prefect, as a headline, its tables, and the history of the motion reliance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from storage.report.columns import shown_table
from storage.report.figures import counted, mean_and_interval, percent, signed
from storage.report.reliance import MEANING, answer, value
from storage.runs import Run, list_runs
from tasks.views import views

Row = Mapping[str, Any]

# Keys stay the same from run to run: an artifact's page in Prefect then shows them all.
HEADLINE, REPORT, HISTORY = "selrel-headline", "selrel-report", "selrel-history"
_LONGEST_HISTORY = 50


def show_result(run: Run, tables: Mapping[str, Sequence[Row]], summary: Row) -> None:
    """Create the artifacts of a finished run.

    Parameters
    ----------
    run : Run
        Which.
    tables, summary
        Its tables, and what its success marker says.
    """
    page = run.root.join(run.paths.report.page)
    link = Path(page).as_uri() if run.root.is_local else page
    about = f"Result of {run.name}"
    create_markdown_artifact(headline(run.name, summary, link), key=HEADLINE, description=about)
    create_link_artifact(link, link_text=f"Report of {run.name}", key=REPORT, description=about)
    for name, table in views().items():
        # The answer, and what the paper has too; the report has the rest.
        if (name == "reliance" or table["paper"]) and tables.get(name):
            shown = shown_table(table, tables[name])
            rows = [dict(zip(shown["columns"], row, strict=True)) for row in shown["rows"]]
            told = " ".join([f"{shown['title']} ({run.name}).", *shown["reasons"]])
            create_table_artifact(rows, key=f"selrel-{name}", description=told)
    create_table_artifact(
        history(run), key=HISTORY, description="Motion reliance by checkpoint, the latest first"
    )


def headline(run: str, summary: Row, link: str) -> str:
    """What a run found, as Markdown."""
    share, verdict = summary["motion_share"], summary.get("comparison")
    reliance = summary.get("motion_reliance")
    told = "Deep Taylor was not asked for: no motion share."
    if share:
        told = f"Motion share {mean_and_interval(share)}."
    lines = [
        f"# {run}",
        f"Does this model use motion? **{answer(reliance)}**",
        told,
        f"{summary['clips']:,} clips of {summary['videos']:,} videos; the model is right on "
        f"{percent(summary['accuracy'])} of the clips. "
        f"Left out: {counted(summary['excluded_videos'], 'video')}. "
        f"Explained for a class that is not the model's answer: "
        f"{counted(summary['other_target_clips'], 'clip')}.",
        f"[The report]({link}): `{link}`",
    ]
    if verdict and verdict["difference"] is not None:
        word = "passed" if verdict["passed"] else "FAILED"
        lines.insert(2, f"{word}: {signed(verdict['difference'])} points against `{verdict['previous']}`.")
    if reliance and reliance["reliance"] is not None:
        lines.insert(2, f"Motion reliance {value(reliance)}: {MEANING}.")
    if share and share.get("no_interval"):
        lines.insert(2, f"There is no 95 % interval: {share['no_interval']}.")
    return "\n\n".join(lines)


def history(run: Run) -> list[dict[str, str]]:
    """A row for every finished run on the same clips, the latest first: its checkpoint and its reliance."""
    dataset = run.description["dataset_id"]
    alike = [
        found
        for found in list_runs(run.root)
        if found.summary is not None and found.description.get("dataset_id") == dataset
    ]
    alike.sort(key=lambda found: str((found.summary or {}).get("finished_at", "")), reverse=True)
    rows = []
    for found in alike[:_LONGEST_HISTORY]:
        summary = found.summary or {}
        reliance = summary.get("motion_reliance")
        rows.append(
            {
                "finished": _text(summary.get("finished_at", "-")),
                "checkpoint": _text(Path(found.description.get("checkpoint", "-")).name),
                "sha256": _text(found.description.get("checkpoint_sha256", "-")[:12]),
                "motion reliance": value(reliance) if reliance else "-",
                "motion share": mean_and_interval(summary.get("motion_share") or {}),
                "accuracy": percent(summary.get("accuracy")),
                "run": found.name,
            }
        )
    return rows


def _text(value: str) -> str:
    """Text of another run's file without what Markdown would make a link or a picture of."""
    return re.sub(r"[^\w .:+@-]", "_", value)
