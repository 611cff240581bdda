"""Compare: two runs clip by clip, a new run with the one before it, and whether it passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import pyarrow.compute as pc  # type: ignore[import-untyped]

from selrel.scores.aggregate import SIGMA
from selrel.scores.compare import columns_read, compare
from selrel.scores.metrics import compared
from selrel.scores.reliance import RELIANCE_OF
from storage.forms import Stored
from storage.report.figures import percent
from storage.results import CLIPS, clip_rows
from storage.runs import Run, finished_run, list_runs
from storage.stores.receipts import REPAIR
from storage.stores.root import UnreadableFile
from storage.tables import DamagedTable, read_tables

Row = dict[str, Any]

# What identifies a clip in any run; its number depends on which videos were drawn.
_CLIP = ["video", "start_frame"]
_LABELS = ["class", "group"]
_SIDES = ("_before", "_after")
# So many of a video's values in dataset.json say what it is called and belongs to, the rest what it holds.
_NAMES = 5
# The parts of a data set's description that say how it was read, not what is in it.
_READING = {
    "view": "resize, crop or clip length", "code": "the code", "opencv": "OpenCV", "pyav": "PyAV",
}  # fmt: skip


class NotComparable(ValueError):
    """Runs that can't be compared: no clip in common, or other settings than the gate's measure has."""


@dataclass(frozen=True)
class Side:
    """A run to be compared, with its tables.

    Attributes
    ----------
    url : str
        Where it lies.
    description : dict
        Its run.json.
    clips : DataFrame
        A row a clip: video, start_frame, class, group, and whether the model was right.
    scores : DataFrame
        The scores at 0 and 2 sigma, with the clips' videos and first frames.
    dataset : dict
        Its dataset.json; empty if that is gone.
    """

    url: str
    description: dict[str, Any]
    clips: pd.DataFrame
    scores: pd.DataFrame
    dataset: dict[str, Any]

    def knows(self, change: str) -> bool:
        """Whether its model was asked about clips changed in this way."""
        return f"decision_{change}" in self.clips

    @property
    def methods(self) -> list[str]:
        """The explanations that were asked for."""
        return list(self.description["settings"]["methods"])


def compare_runs(before: str, after: str) -> tuple[list[Row], list[str]]:
    """Compare two finished runs on the clips that both have, told by their videos and first frames.

    Parameters
    ----------
    before, after : str
        Where the runs lie.

    Returns
    -------
    rows : list of dict
        As `comparison` gives them.
    notes : list of str
        What a reader should know: clips left out, settings that differ.

    Raises
    ------
    ValueError
        If a run is not finished, both are the same, or `NotComparable`: they share no clip.
    """
    first, second = (read_side(finished_run(url)) for url in (before, after))
    if first.url == second.url:
        raise ValueError(f"{before} is on both sides; give two runs (`selrel runs` lists them)")
    notes = _notes(first, second)
    return comparison(first, second), notes


def comparison(before: Side, after: Side) -> list[Row]:
    """Compare two runs, score by score.

    Returns
    -------
    list of dict
        ``method``, ``sigma`` and ``score``: kept_relevance (the motion share for deep Taylor), precision and
        lift at 2 sigma, precision and lift of the baseline (sigma 0), and accuracy (without method and
        sigma); ``class`` and the rest as `selrel.scores.compare.compare` gives them.
    """
    before = _without(before, _replaced(before, after))
    reliances = [name for change, name in RELIANCE_OF.items() if before.knows(change) and after.knows(change)]
    found = _compared(before.clips, after.clips, [*reliances, "accuracy"])
    rows = [{"method": None, "sigma": None, **row} for row in found]
    for method in before.methods:
        for sigma in (SIGMA, 0.0):
            names = compared(baseline=sigma == 0)
            first, second = (
                side.scores[(side.scores.method == method) & (side.scores.sigma == sigma)]
                for side in (before, after)
            )
            # A method that only one run has gets no row.
            if len(second):
                found = _compared(first, second, names)
                rows += [{"method": method, "sigma": sigma, **row} for row in found]
    return rows


def headline(rows: Sequence[Mapping[str, Any]], measure: str) -> Mapping[str, Any] | None:
    """The row of a measure over all classes; None where one of the runs has none."""
    wanted: dict[str, Any] = {"class": None, "score": measure}
    if measure == "motion_share":
        wanted |= {"method": "deep_taylor", "sigma": SIGMA, "score": "kept_relevance"}
    return next((row for row in rows if wanted.items() <= row.items()), None)


def previous_run(run: Run) -> str | None:
    """Where the run before another lies; None where there is none.

    That is the last to finish of those on the same data set with the same settings: another checkpoint, or
    the same one under an older version of the code. A run that did not pass the gate itself is skipped. A
    damaged run that may be the one comes first: nobody can say any more whether it is.
    """
    mine, others = run.description, list_runs(run.root, but=run.name)
    for other in others:
        if other.ended and other.note and not (other.description and _differing(other.description, mine)):
            return other.url
    passed = [
        (other.summary.get("finished_at", ""), other.name, other.url)
        for other in others
        if other.summary is not None
        and (other.summary.get("comparison") or {"passed": True})["passed"]
        and not _differing(other.description, mine)
    ]
    return max(passed)[-1] if passed else None


def check_alike(url: str, description: Mapping[str, Any]) -> None:
    """Check that a run to gate against is finished, on the same data set, and measured in the same way.

    Raises
    ------
    ValueError
        If it is not finished, or `NotComparable`: the message names what differs.
    """
    if differing := _differing(finished_run(url).description, description):
        raise NotComparable(
            f"{url} can't be the measure of this run: they differ in {', '.join(differing)}; name a run of "
            "the same data set and settings, or leave --against out"
        )


def read_measure(url: str) -> Side:
    """Read what is compared of the run that another one is judged by.

    Raises
    ------
    ValueError
        If it is not finished, or damaged: the message says what to do.
    """
    run = finished_run(url)
    try:
        # Reading it checks its seal.
        _ = run.summary
        return read_side(run)
    except (FileNotFoundError, UnreadableFile, ValueError) as error:
        raise ValueError(
            f"the run {url} is damaged ({error}): `selrel verify {url} --repair` and the command that made "
            "it make it anew; or remove it"
        ) from error


def read_side(run: Run) -> Side:
    """Read what is compared of a run whose scores and clips are written."""
    clips = clip_rows(run, CLIPS)
    decisions = [name for name in map(str, clips) if name.startswith("decision")]
    wanted = pc.field("sigma").isin([0.0, SIGMA])
    columns = columns_read(compared(baseline=False))
    kinds = {"clip": "integer", "method": "text", "sigma": "number"}
    kinds |= dict.fromkeys(columns, "number or none")
    scores = read_tables(
        run.root, run.paths.scores, columns=list(kinds), where=wanted, kinds=kinds
    ).to_pandas()
    if scores.duplicated(["clip", "method", "sigma"]).any():
        raise DamagedTable(f"{run.root.join(run.paths.scores)} holds a score twice: {REPAIR}")
    try:
        dataset = run.dataset.description
    except FileNotFoundError:
        dataset = Stored()
    return Side(
        url=run.url,
        description=run.description,
        clips=clips[[*_CLIP, *_LABELS, *decisions]].assign(accuracy=clips.correct.astype(float)),
        scores=scores.merge(clips[["clip", *_CLIP, *_LABELS]], on="clip"),
        dataset=dataset,
    )


def _compared(before: pd.DataFrame, after: pd.DataFrame, scores: Sequence[str]) -> list[Row]:
    """Rows of the clips that both have, in one order."""
    shared = before.merge(after, on=_CLIP, suffixes=_SIDES).sort_values(_CLIP)
    first, second = (
        {name: shared[f"{name}{side}"].to_numpy() for name in before.columns if name not in _CLIP}
        for side in _SIDES
    )
    return compare(first, second, scores)


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What keeps two runs from being a series: other clips, or another way to measure."""
    first, second = ({"data set": d.get("dataset_id"), **d.get("settings", {})} for d in (one, other))
    # How many clips share a pass changes no result.
    names = sorted((first.keys() | second.keys()) - {"batch_clips"})
    return [name for name in names if first.get(name) != second.get(name)]


def _replaced(before: Side, after: Side) -> set[str]:
    """Videos that both have by name, but whose files differ."""
    first, second = (
        {video[0]: video[_NAMES:] for video in side.dataset.get("videos", ())} for side in (before, after)
    )
    # Two files differ in what is known of both: releases know a size or a hash.
    return {
        name
        for name in first.keys() & second.keys()
        if any(type(a) is type(b) and a != b for a, b in zip(first[name], second[name], strict=False))
    }


def _without(side: Side, videos: set[str]) -> Side:
    clips, scores = (rows[~rows.video.isin(videos)] for rows in (side.clips, side.scores))
    return replace(side, clips=clips, scores=scores)


def _extent(side: Side) -> str:
    videos = sorted(set(side.clips.video))
    return f"{len(side.clips):,} clips of {len(videos):,} videos, {videos[0]} to {videos[-1]}"


def _notes(before: Side, after: Side) -> list[str]:
    notes, replaced = [], _replaced(before, after)
    shared = _without(before, replaced).clips.merge(after.clips, on=_CLIP)
    if shared.empty:
        why = f"; {len(replaced):,} videos of the same name are different files" if replaced else ""
        raise NotComparable(
            f"{before.url} and {after.url} have no clip in common: the one has {_extent(before)}, the other "
            f"{_extent(after)}{why}; compare runs of the same videos (`selrel runs` lists them)"
        )
    if not len(shared) == len(before.clips) == len(after.clips):
        notes.append(
            f"different videos: only the clips that both have are compared, {_part(shared, before)} before "
            f"and {_part(shared, after)} after"
        )
    if replaced:
        notes.append(
            f"{len(replaced):,} videos have the same name in both, but are different files, such as "
            f"{min(replaced)}: they count as different"
        )
    differing = _differing(before.description, after.description)
    if "data set" in differing:
        one, other = before.dataset, after.dataset
        ways = [words for name, words in _READING.items() if one.get(name) != other.get(name)]
        if not (one and other):
            notes.append(
                "a data set's description is gone: whether videos of the same name are the same is not known"
            )
        elif ways:
            notes.append(f"the clips were read in another way ({'; '.join(ways)})")
    if settings := [name for name in differing if name != "data set"]:
        notes.append(f"other settings: {', '.join(settings)}; the differences below may come from them")
    return notes


def _part(shared: pd.DataFrame, side: Side) -> str:
    share = percent(len(shared) / len(side.clips))
    videos = f"{shared.video.nunique():,} of {side.clips.video.nunique():,} videos"
    return f"{len(shared):,} of {len(side.clips):,} clips ({share}) and {videos}"
