"""Report: the tables, the page, and the marker that the run is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext

from selrel.scores.aggregate import SIGMA, build
from selrel.scores.cells import columns_read, score_cells
from selrel.scores.intervals import mean_interval, no_interval
from selrel.scores.metrics import tables as all_tables
from selrel.scores.overhead import overhead as time_rows
from selrel.scores.reliance import RELIANCE_OF, clip_decisions, clip_reliance, reliance_rows
from selrel.scores.selectivity import motion_share
from storage.arrays.cubes import FROZEN_SHARE, logits_of, read_block
from storage.layout import content_hash
from storage.report.columns import MAIN_METHOD
from storage.results import SHOWN_CLIPS, clip_rows, result_rows
from storage.runs import Run, is_finished, mark_success
from storage.stores.receipts import file_hashes, read_receipts, recorded_files, write_receipt
from storage.stores.root import Root, report_at, run_at
from storage.tables import plain_rows, read_table, read_tables, write_table
from tasks.artifacts import show_result
from tasks.clips import Clips, clips_of
from tasks.exclusions import exclusions_of_run, left_out_summary
from tasks.gate import with_previous
from tasks.page import write_page
from tasks.running.blocks import Quarantined, StageFailed, done_blocks
from tasks.running.effort import overhead
from tasks.running.progress import in_prefect
from tasks.running.retries import RETRY
from tasks.stages import STAGES
from tasks.stages.explain import STAGE as EXPLAIN
from tasks.stages.score import STAGE as SCORE

Row = dict[str, Any]
Columns = dict[str, Any]
Tables = dict[str, list[Row]]

# A cube of such a clip says what speaks for something that the model does not say.
NOT_THE_ANSWER = "the explained class is not the model's answer"
# Of a row of the table of reliances.
_HEADLINE = (
    "reliance", "low", "high", "mean_score", "n_clips", "n_groups", "no_interval", "no_decision", "reads",
    "kept", "kept_low", "kept_high", "accuracy", "accuracy_low", "accuracy_high", "intact_accuracy",
    "intact_accuracy_low", "intact_accuracy_high",
)  # fmt: skip
# Tables that follow from the clips alone, not from a clock or from other runs, in the order of their hash;
# those of further metrics come after them.
_RESULTS = ("clips", "reliance", "table1", "table2", "table3", "sweep", "object_motion")
# Whose decisions are read at a time.
_BLOCKS = 32
# Whose rows are summed at a time.
_CLIPS = 2048
# A history of many runs in a bucket is long to read.
_SECONDS_FOR_THE_RESULT = 30.0
# Of the table, the page and all that this file writes.
RECEIPT = "report"


@task(name="report", cache_policy=NO_CACHE, **RETRY)
def report(
    root: str,
    run: str,
    quarantined: Sequence[Quarantined] = (),
    *,
    check: Callable[[], object] = lambda: None,
) -> None:
    """Reduce the scores to tables, write the report, and mark the run as complete; a complete one stays.

    Parameters
    ----------
    root, run
        Where, and which.
    quarantined : sequence of Quarantined
        What the stages before had to leave out.
    check : callable
        Called before the report is written and before the run is complete; raises if another process has
        taken the run over.
    """
    place, made = Root(root), Run.of(Root(root), run)
    paths = made.paths
    check()
    if is_finished(place, paths):
        return
    clips, left_out = explained_clips(made)
    tables, share = reduced(made)
    tables["reliance"] = _reliance(made, clips)
    write_table(place, paths.table("clips"), clips)
    compared, verdict = with_previous(made)
    if compared:
        tables["comparison"] = compared
    for name, rows in tables.items():
        if rows or name != "reliance":
            write_table(place, paths.table(name), pd.DataFrame(rows))
    summary = _summary(made, clips, share) | {
        "comparison": verdict,
        "motion_reliance": motion_reliance(tables["reliance"]),
        "frozen_share": _frozen_share(made, clips),
        **left_out_summary(made, left_out, quarantined),
    }
    write_table(place, paths.exclusions, exclusions_of_run(made, clips, left_out, quarantined))
    write_page(made, clips=clips, tables=tables, summary=summary)
    written = [*place.find(paths.tables), *place.find(paths.report.directory)]
    written += [paths.run_json, paths.exclusions]
    check()
    write_receipt(place, paths, RECEIPT, 0, file_hashes(place, written))
    mark_success(place, paths, summary)
    if TaskRunContext.get() is not None:
        in_prefect("result", lambda: show_result(made, tables, summary), patience=_SECONDS_FOR_THE_RESULT)


def report_elsewhere(run: str, directory: str) -> str:
    """Write the page of a finished run anew, from its tables and cubes, outside of the run.

    A finished run is never changed, so a page of a newer release of this program goes elsewhere.

    Parameters
    ----------
    run : str
        URL of the run.
    directory : str
        Directory or ``s3://`` URL of the page and its media.

    Returns
    -------
    str
        Where the page lies.

    Raises
    ------
    FileNotFoundError
        If the run is not finished.
    ValueError
        If a URL is not one, or the directory lies in the run.
    """
    place, paths = run_at(run)
    at = report_at(directory)
    if f"{at[0].join(at[1].directory)}/".startswith(f"{place.join(paths.directory)}/"):
        raise ValueError(
            f"{directory} lies in the run, which is finished and never changed; give another directory"
        )
    made = Run(place, paths)
    summary = made.summary
    names = [name for name, table in all_tables().items() if not table.rows_of and made.has_table(name)]
    tables: Tables = {name: list(result_rows(made, name)) for name in names}
    clips = _flagged(clip_rows(made, SHOWN_CLIPS))
    write_page(made, clips=clips, tables=tables, summary=summary, at=at)
    return at[0].join(at[1].page)


def explained_clips(run: Run) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The index rows of the scored clips, and those of the others.

    The first with what the model said and how exactly its relevance is conserved.
    """
    clips = clips_of(run.root, run.description["dataset_id"])
    done = done_blocks(run.root, run.paths, SCORE.name, len(clips.ranges))
    if not done:
        raise StageFailed("report: no block was scored, so there is nothing to report; see the lines above")
    scored = np.isin(np.arange(len(clips.table)) // clips.block_clips, list(done))
    table, found = clips.table[scored], _decisions(run, clips, done)
    classes = np.array(clips.classes)
    explained = table.assign(
        predicted=classes[found["predicted"]],
        target=classes[found["target"]],
        target_logit=found["target_logit"],
        correct=found["predicted"] == table.label.to_numpy(),
        conservation_error=found["conservation_error"],
        moved=found["moved"],
        **{
            name: classes[values] if name.startswith("answer") else values
            for name, values in found.items()
            if name.startswith(("answer", "decision", FROZEN_SHARE)) or name.endswith("_reliance")
        },
    )
    return _flagged(explained), clips.table[~scored]


def _flagged(clips: pd.DataFrame) -> pd.DataFrame:
    """The clips, and in ``flag`` why the explanation of some needs care.

    That is told by classes, never by a logit's sign: a model's answers and probabilities ignore what is added
    to all logits alike.
    """
    return clips.assign(flag=np.where(clips.target == clips.predicted, "", NOT_THE_ANSWER))


def _decisions(run: Run, clips: Clips, done: set[int]) -> dict[str, Any]:
    """What the model said about the clips of the scored blocks, in order, and how much of them moves.

    Of the logits, the target's, and what is left of the decision when the clips are changed.
    """
    found, changes = [], run.settings.get("changes", ())
    for start, stop in _stretches(clips, done):
        names = ["logits", "predicted", "target", "conservation_error", *map(logits_of, changes)]
        names += [FROZEN_SHARE] if "frozen" in changes else []
        part = dict(read_block(run.root, run.paths.relevance, start, stop, names, axes=clips.axes))
        part |= read_block(run.root, run.dataset.paths.motion, start, stop, ["moved"], axes=clips.axes)
        logits = part.pop("logits")
        changed = {change: part.pop(logits_of(change)) for change in changes}
        # A model of one class decides nothing.
        if changed and logits.shape[1] > 1:
            labels = clips.table.label.to_numpy()[start:stop]
            part |= clip_decisions(logits, changed, answer=part["predicted"], labels=labels)
            for change in changes:
                lost = clip_reliance(part["decision"], part[f"decision_{change}"])
                part[RELIANCE_OF[change]] = lost
        found.append({**part, "target_logit": logits[np.arange(len(logits)), part["target"]]})
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _stretches(clips: Clips, done: set[int]) -> list[tuple[int, int]]:
    """The clip ranges of consecutive blocks, some blocks at a time."""
    ranges, stretches = clips.ranges, list[tuple[int, int]]()
    for block in sorted(done):
        start, stop = ranges[block]
        if block % _BLOCKS and block - 1 in done:
            start = stretches.pop()[0]
        stretches.append((start, stop))
    return stretches


def reduced(run: Run) -> tuple[Tables, Row | None]:
    """Reduce the scores of a run to its tables and its motion share (None without deep Taylor).

    Only some thousands of clips are held at a time, however many there are.
    """
    place, paths, methods = run.root, run.paths, run.settings["methods"]
    files = recorded_files(place, paths, SCORE.name)
    scores = score_cells(_batches(place, paths.scores, files, columns_read()))
    times = read_tables(place, paths.overheads, files=recorded_files(place, paths, EXPLAIN.name)).to_pandas()
    # The first batch of a worker pays for caches and memory; it counts only where there is no other.
    tables = {"table4": time_rows(_columns(times[times.warm] if times.warm.any() else times))}
    of_pairs = [name for name, table in all_tables().items() if table.row and "method" not in table.by]
    if len(methods) > 1:
        batches = _batches(place, paths.agreements, files, columns_read(pairs=True))
        agreements = score_cells(batches, pairs=True)
        tables |= {name: build(all_tables()[name], agreements) for name in of_pairs}
    for name, table in all_tables().items():
        if table.row and name not in of_pairs:
            tables[name] = build(table, scores)
    return tables, motion_share(scores) if "deep_taylor" in methods else None


def _reliance(run: Run, clips: pd.DataFrame) -> list[Row]:
    """The table of reliances; empty where the model was not asked about changed clips, or has one class."""
    if "decision" not in clips:
        return []
    classes = clips_of(run.root, run.description["dataset_id"]).classes
    number = {name: at for at, name in enumerate(classes)}
    columns: dict[str, npt.NDArray[Any]] = {
        name: clips[name].map(number).to_numpy() if name.startswith("answer") else clips[name].to_numpy()
        for name in map(str, clips)
        if name.startswith(("answer", "decision"))
    }
    return reliance_rows(
        columns,
        run.settings["changes"],
        answer=np.asarray(clips.predicted.map(number), np.int64),
        labels=np.asarray(clips.label, np.int64),
        groups=clips.group.to_numpy(),
        classes=clips["class"].to_numpy(),
        n_answers=len(classes),
    )


def _frozen_share(run: Run, clips: pd.DataFrame) -> Row | None:
    """The motion share of a sample of the clips, as they are and frozen, and the paired difference.

    None where there is no sample, or the share of none.
    """
    if FROZEN_SHARE not in clips or clips[FROZEN_SHARE].isna().all():
        return None
    chosen = (pc.field("method") == MAIN_METHOD) & (pc.field("sigma") == SIGMA)
    columns = ["clip", "method", "sigma", "kept_relevance"]
    scores = read_tables(run.root, run.paths.scores, columns=columns, where=chosen)
    both = clips.merge(scores.select(["clip", "kept_relevance"]).to_pandas(), on="clip").dropna(
        subset=[FROZEN_SHARE, "kept_relevance"]
    )
    more = (both.kept_relevance - both[FROZEN_SHARE]).to_numpy(np.float64)
    low, high = mean_interval(more, both.group.to_numpy()) or (None, None)
    return {
        "as_it_is": float(both.kept_relevance.mean()),
        "frozen": float(both[FROZEN_SHARE].mean()),
        "difference": float(more.mean()),
        "low": low,
        "high": high,
        "n_clips": len(both),
        "no_interval": no_interval(both.group.nunique()),
    }


def motion_reliance(rows: Sequence[Row]) -> Row | None:
    """The headline: how much of its answers' scores goes when the motion stops; None if nobody asked."""
    wanted = {"class": None, "change": "frozen", "target": "predicted"}
    found = (row for row in rows if wanted.items() <= row.items())
    return next(({name: row[name] for name in _HEADLINE} for row in found), None)


def _batches(
    place: Root, directory: str, files: Mapping[str, str], columns: Sequence[str]
) -> Iterator[Columns]:
    """The rows of a directory's tables, as the receipts say they are, a fixed number of clips at a time.

    Not of blocks: sums are rounded, so their order must not depend on how clips were cut into blocks.
    """
    held, n_batch = list[pa.Table](), 0
    for path in sorted(path for path in files if path.startswith(f"{directory}/")):
        table = read_table(place, path, sha256=files[path], columns=["clip", *columns])
        numbers = table["clip"].to_numpy() // _CLIPS
        for number in np.unique(numbers):
            if number != n_batch and held:
                yield _columns(pa.concat_tables(held, promote_options="default").to_pandas())
                held = []
            held.append(table.filter(pa.array(numbers == number)))
            n_batch = number
    yield _columns(pa.concat_tables(held, promote_options="default").to_pandas())


def _columns(frame: pd.DataFrame) -> Columns:
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def _summary(run: Run, clips: pd.DataFrame, share: Row | None) -> dict[str, Any]:
    exclusions = read_table(run.root, run.dataset.paths.exclusions).to_pandas()
    errors = clips.conservation_error.dropna()
    stages = {stage.name: stage.where(run.paths, run.dataset.paths) for stage in STAGES}
    return {
        # Where run.json is damaged, what belongs to the run can still be told.
        "dataset_id": run.description["dataset_id"],
        "motion_share": share,
        "videos": int(clips.video.nunique()),
        "clips": len(clips),
        "accuracy": float(clips.correct.mean()),
        "other_target_clips": int((clips.flag != "").sum()),
        "excluded_videos": int((exclusions.kind == "excluded").sum()),
        "largest_conservation_error": float(errors.max()) if len(errors) else None,
        # The share of the workers' time that was not arithmetic.
        "overhead": overhead(run.root, stages),
        "results_sha256": results_hash(run),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def results_hash(run: Run) -> str:
    """One hash of everything a run computed: equal for equal results, however clips were cut into blocks."""
    of_dataset, of_run = (
        [
            receipt
            for stage in STAGES
            if stage.of == of and stage.is_result
            for receipt in read_receipts(run.root, where, stage.name)
        ]
        for of, where in (("dataset", run.dataset.paths), ("run", run.paths))
    )
    # Another run may since have made blocks of the data set that this one had to do without.
    used = {r.block for r in of_run}
    receipts = [r for r in of_dataset if r.block in used] + of_run
    if not all(key.isdecimal() for r in receipts for key in r.sha256):
        # Receipts of older versions know arrays of blocks, not clips; their runs stay verifiable.
        return content_hash([[r.stage, r.block, r.sha256] for r in receipts])
    digest = hashlib.sha256()
    for receipt in receipts:
        for clip in sorted(receipt.sha256, key=int):
            digest.update(f"{receipt.stage} {clip} {receipt.sha256[clip]}\n".encode())
    further = sorted(name for name, table in all_tables().items() if table.row and name not in _RESULTS)
    for name in filter(run.has_table, (*_RESULTS, *further)):
        for rows in read_table(run.root, run.paths.table(name)).to_batches(max_chunksize=_CLIPS):
            for row in plain_rows(rows.to_pylist()):
                digest.update(f"{name} {content_hash(row)}\n".encode())
    return digest.hexdigest()[:16]
