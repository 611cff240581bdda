"""Prints a run for a person: the headline, and Tables 1 to 4 beside the paper's figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flows.terminal import Console
from selrel.scores.paper import PAPER
from storage.layout import RunPaths
from storage.report.figures import (
    OLDER,
    counted,
    difference_range,
    lift,
    map_name,
    mean_and_deviation,
    mean_and_interval,
    milliseconds,
    percent,
    percent_range,
    reasons,
    same_row,
    without_interval,
)
from storage.report.reliance import CHANGES, MEANING, answer, beside_frozen, right, told, value
from storage.results import result_rows
from storage.runs import Run, finished_run, read_run, read_summary
from storage.stores.root import Root
from storage.text import all_visible, visible
from tasks.command import command

if TYPE_CHECKING:
    from tasks.checkup import Finding
    from tasks.plan import Plan

Row = Mapping[str, Any]


def print_runs(console: Console, runs: Sequence[Run]) -> None:
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
    root, paths = finished_run(url)
    summary: dict[str, Any] = all_visible(read_summary(root, paths))
    reliances = result_rows(root, paths, "reliance") if root.exists(paths.table("reliance")) else []
    console.print(*_headline(summary, reliances), sep="\n", soft_wrap=True)
    if summary.get("comparison"):
        console.print(_since(summary["comparison"]), soft_wrap=True)
    for name, table in (
        ("table1", _precision),
        ("object_motion", _object_motion),
        ("table2", _agreement),
        ("table3", _selectivity),
        ("table4", _overhead),
    ):
        # A single method agrees with none.
        if tables and root.exists(paths.table(name)):
            rows = [all_visible(row) for row in result_rows(root, paths, name) if row.get("class") is None]
            console.print(table(rows), *reasons(rows), "", sep="\n")
    console.print(_places(root, paths, summary), soft_wrap=True)
    return summary


def result_of(url: str) -> dict[str, Any]:
    """Gather what a program would want of a finished run, as JSON.

    Raises
    ------
    ValueError
        If there is no finished run.
    """
    root, paths = finished_run(url)
    names = [name.removesuffix(".parquet") for name in root.listdir(paths.tables)]
    shown = [name for name in names if name != "clips"]
    return {
        "run": root.join(paths.directory),
        "report": root.join(paths.report.page),
        "description": read_run(root, paths),
        "summary": read_summary(root, paths),
        "tables": {name: _plain(result_rows(root, paths, name)) for name in shown},
    }


def _plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON knows them: a number that is none is null."""
    return [
        {name: None if isinstance(value, float) and value != value else value for name, value in row.items()}
        for row in rows
    ]


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
    of_all.sort(key=_is_detail)
    _print_differences(console, of_all, "score (%)", _score_name)
    if by_class:
        for name in ("motion reliance", "motion share", "accuracy"):
            of_score = [row for row in rows if row["class"] is not None and _score_name(row) == name]
            of_score.sort(key=lambda row: row["difference"] if row["difference"] is not None else 0.0)
            if of_score:
                _print_differences(console, of_score, name, lambda row: str(row["class"]))


def _print_differences(
    console: Console, rows: Sequence[Row], heading: str, name: Callable[[Row], str]
) -> None:
    table = _table(None, heading, "before", "after", "change", "95 %", "clips")
    table.columns[0].justify = "left"
    # Where the terminal is narrow, names are folded and no figure is cut.
    table.columns[0].no_wrap = False
    for row in rows:
        unit, digits = (1, 2) if row["score"] == "lift" else (100, 1)
        values = [
            "-" if row[key] is None else f"{unit * row[key]:{sign}.{digits}f}"
            for key, sign in (("before", ""), ("after", ""), ("difference", "+"))
        ]
        known = row["low"] is not None
        interval = (
            f"{unit * row['low']:+.{digits}f} to {unit * row['high']:+.{digits}f}"
            if known
            else without_interval(row)
        )
        # A space instead keeps the figures below each other.
        values[2] += "*" if known and not row["low"] <= 0 <= row["high"] else " "
        table.add_row(name(row), *values, interval, f"{row['n_clips']:,}")
    console.print(table, *reasons(rows), "", sep="\n")


def _is_detail(row: Row) -> bool:
    """Whether a score stands below the motion share and the accuracy."""
    return _score_name(row) not in ("motion reliance", "motion share", "accuracy")


def _score_name(row: Row) -> str:
    if row["method"] is None:
        return str(row["score"]).replace("_", " ")
    if row["score"] == "kept_relevance":
        return "motion share" if row["method"] == "deep_taylor" else f"kept relevance, {row['method']}"
    return f"{row['score']}, {row['method']}, {map_name(row['sigma'])}"


def print_json(console: Console, value: object) -> None:
    """Print a value as JSON, for a program; no line is wrapped."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    # As JSON writes out what is no sign: the text stays JSON, of the same value.
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


def _since(found: Row) -> str:
    """The line about the run before."""
    if found["difference"] is None:
        return f"The run before is {found['previous']}.\n"
    return (
        f"Since the run before, {found['previous']}: {100 * found['difference']:+.1f} points"
        f"{difference_range(found)}; "
        "`selrel compare` says more.\n"
    )


def _precision(rows: list[Row]) -> Table:
    title = "Table 1. Precision: the share of relevant voxels that move (%)"
    table = _table(title, "method", "map", "mean (sd)", "95 %", "base", "lift", "paper (sd)")
    for row in rows:
        table.add_row(
            row["method"],
            _map(row["sigma"]),
            mean_and_deviation(row),
            percent_range(row),
            percent(row["base_rate"], ""),
            lift(row),
            mean_and_deviation(same_row(row, PAPER["table1"])),
        )
    return table


def _object_motion(rows: list[Row]) -> Table:
    title = "Object motion: the same with the camera's motion taken off, and recall (%)"
    columns = ("precision", "95 %", "base", "lift", "recall", "recall, all")
    table = _table(title, "method", "map", *columns)
    for row in rows:
        table.add_row(
            row["method"],
            _map(row["sigma"]),
            percent(row["object_precision"], ""),
            percent_range(row, "object_precision_low", "object_precision_high"),
            percent(row["object_base_rate"], ""),
            lift(row, "object_"),
            percent(row["object_recall"], ""),
            percent(row["recall"], ""),
        )
    return table


def _agreement(rows: list[Row]) -> Table:
    title = "Table 2. Agreement: the share of voxels that are relevant for both (%)"
    table = _table(title, "methods", "map", "mean (sd)", "95 %", "paper (sd)")
    for row in rows:
        table.add_row(
            f"{row['method_a']} / {row['method_b']}",
            _map(row["sigma"]),
            mean_and_deviation(row),
            percent_range(row),
            mean_and_deviation(same_row(row, PAPER["table2"])),
        )
    return table


def _selectivity(rows: list[Row]) -> Table:
    title = "Table 3. Selectivity: what the selective map of 2 sigma keeps (%)"
    columns = ("method", "voxels (sd)", "relevance (sd)", "95 %", "paper voxels", "relevance")
    table = _table(title, *columns)
    for row in rows:
        paper = same_row(row, PAPER["table3"])
        table.add_row(
            row["method"],
            mean_and_deviation(row, "voxels_mean", "voxels_std"),
            mean_and_deviation(row, "relevance_mean", "relevance_std"),
            percent_range(row, "relevance_low", "relevance_high"),
            mean_and_deviation(paper, "voxels_mean", "voxels_std"),
            mean_and_deviation(paper, "relevance_mean", "relevance_std"),
        )
    return table


def _overhead(rows: list[Row]) -> Table:
    title = "Table 4. Time a clip, on top of the steps before (ms)"
    table = _table(title, "step", "median", "quartiles", "paper (its device)")
    for row in rows:
        table.add_row(
            row["method"],
            milliseconds(row, "median"),
            milliseconds(row, "low", "high"),
            milliseconds(same_row(row, PAPER["table4"]), "low", "high"),
        )
    return table


def _overhead_lines(summary: Mapping[str, Any]) -> list[str]:
    """How much of the workers' time was not arithmetic; nothing for a run that kept no record of it."""
    found = summary.get("overhead") or {}
    if found.get("share") is None:
        return []
    stages = ", ".join(f"{stage} {percent(row['share'])}" for stage, row in found["stages"].items())
    return [
        f"Overhead {percent(found['share'])} of the workers' time was not arithmetic ({stages}).\n"
        "         Starting and waiting weigh most where there are few blocks."
    ]


def _places(root: Root, paths: RunPaths, summary: Mapping[str, Any]) -> str:
    odd = []
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
    return "\n".join(
        [
            *odd,
            *_overhead_lines(summary),
            "",
            f"Report   {root.join(paths.report.page)}",
            f"Tables   {root.join(paths.tables)} (`selrel report RUN` prints them)",
            f"Cubes    {root.join(paths.relevance)}",
            f"Results  sha256 {summary['results_sha256']}..",
        ]
    )


def _map(sigma: float) -> str:
    """A name short enough for 80 columns, as `storage.report.figures.map_name` is not."""
    return "all" if sigma == 0 else f"{sigma:g} sigma"


def _table(title: str | None, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(
            column,
            justify="left" if column in ("method", "methods", "map", "step") else "right",
            no_wrap=True,
        )
    return table
