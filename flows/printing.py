"""Prints a run for a person: the headline, and Tables 1 to 4 beside the paper's figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flows.terminal import Console
from storage.report.columns import shown_table
from storage.report.figures import (
    MISSING,
    OLDER,
    absent,
    count,
    counted,
    difference_range,
    map_name,
    mean_and_interval,
    percent,
    reasons,
    signed,
)
from storage.report.reliance import CHANGES, MEANING, answer, beside_frozen, right, told, value
from storage.results import result_rows
from storage.runs import ListedRun, Run, finished_run
from storage.tables import plain_rows
from storage.text import all_visible, decimal, visible
from tasks.command import command
from tasks.views import views

if TYPE_CHECKING:
    from tasks.checkup import Finding
    from tasks.plan import Plan

Row = Mapping[str, Any]

# Scores of a comparison that stand above the others, and that are given by class.
_FIRST = ("motion reliance", "motion share", "accuracy")


def print_runs(console: Console, runs: Sequence[ListedRun]) -> None:
    """Print a line a run."""
    if not runs:
        console.print("No runs here yet; `selrel explain --help` shows how to make one.")
        return
    console.print(f"{'motion reliance':24} {'accuracy':>8} {'clips':>7}  run")
    for run in runs:
        summary = run.summary or {}
        found = summary.get("motion_reliance")
        share = (value(found) if found else "-") if run.finished else run.note or "unfinished"
        clips = f"{summary['clips']:,}" if "clips" in summary else "-"
        line = visible(f"{share:24} {percent(summary.get('accuracy')):>8} {clips:>7}  {run.url}")
        # Never cut or wrapped: people copy the run from here.
        console.print(line, soft_wrap=True)


def print_result(console: Console, url: str, *, tables: bool = True) -> dict[str, Any]:
    """Print the headline of a finished run, its tables if asked for, and where everything lies.

    Returns
    -------
    dict
        The run's summary.

    Raises
    ------
    ValueError
        If there is no finished run.
    """
    run = finished_run(url)
    summary: dict[str, Any] = all_visible(run.summary)
    reliances = result_rows(run, "reliance") if run.has_table("reliance") else []
    console.print(*_headline(summary, reliances), sep="\n", soft_wrap=True)
    if found := summary.get("comparison"):
        since = f"The run before is {found['previous']}.\n"
        if found["difference"] is not None:
            since = (
                f"Since the run before, {found['previous']}: {signed(found['difference'])} points"
                f"{difference_range(found)}; `selrel compare` says more.\n"
            )
        console.print(since, soft_wrap=True)
    for name, table in views().items():
        # A single method agrees with none.
        if tables and table["short_title"] and run.has_table(name):
            shown = shown_table(table, all_visible(result_rows(run, name)), short=True)
            printed = _table(shown["title"], *shown["columns"], words=shown["text_columns"])
            for row in shown["rows"]:
                printed.add_row(*row)
            console.print(printed, *shown["reasons"], "", sep="\n")
    console.print(_places(run, summary), soft_wrap=True)
    return summary


def result_of(url: str) -> dict[str, Any]:
    """Gather what a program would want of a finished run, as JSON.

    Raises
    ------
    ValueError
        If there is no finished run.
    """
    run = finished_run(url)
    names = [name.removesuffix(".parquet") for name in run.root.listdir(run.paths.tables)]
    shown = [name for name in names if name != "clips"]
    return {
        "run": run.url,
        "report": run.root.join(run.paths.report.page),
        "description": run.description,
        "summary": run.summary,
        "tables": {name: plain_rows(result_rows(run, name)) for name in shown},
    }


def print_comparison(
    console: Console,
    before: str,
    after: str,
    rows: Sequence[Row],
    notes: Sequence[str],
    *,
    by_class: bool = False,
) -> None:
    """Print what changed from one run to another; `rows` are those of `tasks.compare.compare_runs`."""
    lines = [f"Before {before}", f"After  {after}", *(f"Note: {visible(note)}" for note in notes)]
    rows = all_visible(rows)
    console.print(*lines, "", sep="\n", soft_wrap=True)
    of_all = [row for row in rows if row["class"] is None]
    of_all.sort(key=lambda row: _score_name(row) not in _FIRST)
    console.print(_differences(of_all, "score (%)", _score_name), *reasons(of_all), "", sep="\n")
    if by_class:
        for name in _FIRST:
            of_score = [row for row in rows if row["class"] is not None and _score_name(row) == name]
            of_score.sort(key=lambda row: row["difference"] if row["difference"] is not None else 0.0)
            if of_score:
                by_name = _differences(of_score, name, lambda row: str(row["class"]))
                console.print(by_name, *reasons(of_score), "", sep="\n")


def _differences(rows: Sequence[Row], heading: str, name: Callable[[Row], str]) -> Table:
    table = _table(None, heading, "before", "after", "change", "95 %", "clips")
    # Where the terminal is narrow, names are folded and no figure is cut.
    table.columns[0].no_wrap = False
    ratios = views()["comparison"]["ratios"]
    for row in rows:
        unit, digits = (1, 2) if row["score"] in ratios else (100, 1)
        before, after, change, low, high = (
            MISSING if row[key] is None else decimal(unit * row[key], digits, sign)
            for key, sign in (("before", ""), ("after", ""), ("difference", "+"), ("low", "+"), ("high", "+"))
        )
        known = row["low"] is not None
        interval = f"{low} to {high}" if known else absent(row, "no_interval")
        # A space instead keeps the figures below each other.
        change += "*" if known and not row["low"] <= 0 <= row["high"] else " "
        table.add_row(name(row), before, after, change, interval, count(row["n_clips"]))
    return table


def _score_name(row: Row) -> str:
    if row["method"] is None:
        return str(row["score"]).replace("_", " ")
    if row["score"] == "kept_relevance":
        return "motion share" if row["method"] == "deep_taylor" else f"kept relevance, {row['method']}"
    return f"{row['score']}, {row['method']}, {map_name(row['sigma'])}"


def print_json(console: Console, value: object) -> None:
    """Print a value as JSON, for a program; no line is wrapped."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    # Escaped as JSON does, what is not printable leaves the value as it was.
    text = "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
    console.print(text, soft_wrap=True)


def print_start(console: Console, made: Plan, work: Row) -> None:
    """Print what is about to be done, and where, with every setting as it was resolved."""
    words = visible(command(made.root, made.description, made.dataset, work=work))
    lines = [
        *map(visible, made.notes),
        "This run is finished already; nothing to do." if made.finished else f"Run {made.run}",
        f"Settings, from flags, selrel.toml and SELREL_ variables: {words}",
    ]
    console.print(*lines, sep="\n", soft_wrap=True)


def print_plan(console: Console, found: Row) -> None:
    """Print what a run would do; `found` as `selrel plan --json` prints it."""
    about = "" if found["exact"] else "about "
    free = found["free_bytes"]
    lines = [
        *map(visible, found["notes"]),
        f"Run      {found['run']}",
        f"Data set {found['dataset']}: {found['videos']:,} videos, {about}{found['clips']:,} clips in "
        f"{about}{counted(found['blocks'], 'block')}",
        f"Disk     at most {_gigabytes(found['bytes'])}" + (f" of {_gigabytes(free)} free" if free else ""),
    ]
    if found["finished"]:
        lines.append("This run is finished already; nothing to do.")
    else:
        steps = ", ".join(f"{stage} {seconds:.3g}" for stage, seconds in found["seconds_per_clip"].items())
        elsewhere = f" here ({found['scheduler']} was not asked)" if found["scheduler"] else ""
        lines += [
            f"Time     about {_duration(found['seconds'])} with {counted(found['workers'], 'worker')} of "
            f"{counted(found['threads_per_worker'], 'thread')}{elsewhere}, once everything is started",
            f"         seconds a clip, measured on a few: {steps}",
        ]
    console.print(*lines, sep="\n", soft_wrap=True)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def print_findings(console: Console, findings: Sequence[Finding]) -> None:
    """Print a line a check, and below it how to mend what is not well."""
    styles = {"ok": "green", "note": "yellow", "broken": "bold red"}
    for finding in findings:
        state = Text(f"{finding.state:7}", style=styles[finding.state])
        console.print(state, Text(visible(f"{finding.check:12} {finding.found}")), soft_wrap=True)
        if finding.mend:
            console.print(Text(visible(f"{'':8}-> {finding.mend}")), soft_wrap=True)


def print_training(console: Console, made: Mapping[str, Any]) -> None:
    """Print what a training has reached, and where the checkpoint lies."""
    last = made["history"][-1]
    held_out, by_class = (percent(last[f"validation_{name}accuracy"]) for name in ("", "balanced_"))
    console.print(
        f"Trained for {last['epoch']} epochs: right on {percent(last['accuracy'])} of the training clips, "
        f"{held_out} of those held out ({by_class} as the mean of the classes; chance "
        f"{percent(1 / len(made['classes']))}).",
        f"Checkpoint {made['checkpoint']}, sha256 {made['sha256'][:12]}",
        sep="\n",
        soft_wrap=True,
    )


def _headline(summary: Row, rows: Sequence[Row]) -> list[str | Text]:
    """Whether the model uses motion, how much, and what it is right on."""
    found = summary.get("motion_reliance")
    lines: list[str | Text] = [Text(f"\nDoes this model use motion? {answer(found)}", style="bold")]
    changed = told(rows)
    if found and found["reliance"] is not None:
        lines.append(f"Motion reliance {value(found)}: {MEANING}.")
        others = [f"{CHANGES[row['change']]} {value(row)}" for row in changed[1:]]
        if others:
            lines.append(f"{', '.join(others)}.".capitalize())
    if changed:
        lines.append(f"{right(changed)} {percent(changed[0]['kept'])} of its answers stay when frozen.")
    clips = f"{summary['clips']:,} clips of {summary['videos']:,} videos"
    share = summary["motion_share"]
    if not changed:
        clips += f"; the model is right on {percent(summary['accuracy'])} of the clips"
    if share is None:
        return [*lines, f"{clips}. Deep Taylor was not asked for, so there is no motion share.\n"]
    lines.append(
        f"{clips}. Motion share {mean_and_interval(share)}: this part of the positive relevance changes over "
        "time (deep Taylor, 2 sigma). It says where, and has no zero."
    )
    if frozen := summary.get("frozen_share"):
        lines.append(beside_frozen(frozen))
    if share.get("no_interval"):
        lines.append(f"There is no 95 % interval: {share['no_interval']}.")
    if "no_interval" not in share:
        lines.append(OLDER)
    return [*lines, ""]


def _places(run: Run, summary: Mapping[str, Any]) -> str:
    root, paths, odd = run.root, run.paths, []
    if summary["excluded_videos"]:
        odd.append(f"Excluded: {counted(summary['excluded_videos'], 'video')} (exclusions.parquet says why).")
    if summary.get("left_out_clips"):
        odd.append(
            f"Completed with exclusions: {counted(summary['left_out_clips'], 'clip')} left out, for killing "
            "worker processes\n(exclusions.parquet of the run says which; after `selrel verify RUN "
            "--repair` the same command tries again)."
        )
    if summary.get("other_target_clips"):
        flagged = counted(summary["other_target_clips"], "clip")
        odd.append(f"Flagged: {flagged}, explained for a class that is not the model's answer.")
    if summary["largest_conservation_error"] is not None:
        odd.append(
            f"Largest conservation error of deep Taylor: {summary['largest_conservation_error']:.1e} (what "
            "reaches a unit\nthat only its bias drives is lost)."
        )
    overhead = summary.get("overhead") or {}
    if overhead.get("share") is not None:
        stages = ", ".join(f"{stage} {percent(row['share'])}" for stage, row in overhead["stages"].items())
        odd += [
            f"Overhead {percent(overhead['share'])} of the workers' time was not arithmetic ({stages}).",
            "         Starting and waiting weigh most where there are few blocks.",
        ]
    return "\n".join(
        [
            *odd,
            "",
            f"Report   {root.join(paths.report.page)}",
            f"Tables   {root.join(paths.tables)} (`selrel report RUN` prints them)",
            f"Cubes    {root.join(paths.relevance)}",
            f"Results  sha256 {summary['results_sha256']}..",
        ]
    )


def _table(title: str | None, *columns: str, words: int = 1) -> Table:
    """A table without rows; its first columns are words, and aligned at the left."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    for at, column in enumerate(columns):
        table.add_column(column, justify="left" if at < words else "right", no_wrap=True)
    return table
