"""Gate: whether a run's motion share has fallen too far below that of the run before."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from prefect.context import FlowRunContext
from prefect.events import emit_event

from selrel.scores.compare import dropped
from storage.report.figures import difference_range, percent
from storage.runs import Run, finished_run
from storage.stores.root import run_at
from tasks.compare import comparison, headline, previous_run, read_measure, read_side

Row = dict[str, Any]

_log = logging.getLogger("selrel")

# What a run was judged by before there was another measure.
MOTION_SHARE = "motion_share"
_CALLED = {"motion_reliance": "motion reliance", MOTION_SHARE: "motion share"}


def event_of(measure: str) -> str:
    """The event of a run whose measure fell too far."""
    return f"selrel.{measure.replace('_', '-')}.dropped"


class MotionDropped(RuntimeError):
    """The gate: a finished run whose motion reliance, or share, fell by more than was allowed."""


class NotJudged(RuntimeError):
    """The gate: a finished run that can't be compared with the run before it, so it does not pass."""


def with_previous(run: Run) -> tuple[list[Row], Row | None]:
    """Compare a run, whose scores and clips are written, with the one before it, or with the one named.

    Returns
    -------
    rows : list of dict
        As `tasks.compare.comparison` gives them; none where there is nothing to compare with.
    verdict : dict or None
        ``previous`` (that run's name), ``measure`` and its ``before``, ``after``, ``difference``, ``low``,
        ``high``, ``n_clips`` and ``no_interval`` (null where it has none), ``max_drop`` (null: any fall
        passes), ``passed``; and ``error`` (why it could not be judged), where it could not.
    """
    gate = run.description.get("gate", {})
    url = gate.get("against") or previous_run(run)
    if url is None:
        return [], None
    try:
        rows = comparison(read_measure(url), read_side(run))
    except (FileNotFoundError, ValueError) as error:
        # A gate that can't judge must not pass; without one, an old damaged run stops no new one.
        if gate.get("max_drop") is not None:
            raise ValueError(f"the gate can't judge: {error}, or name another run by --against") from error
        _log.warning("not compared with the run before: %s", error)
        return [], {**_verdict(None, url, None, gate.get("measure", MOTION_SHARE)), "error": str(error)}
    measure = gate.get("measure", MOTION_SHARE)
    return rows, _verdict(headline(rows, measure), url, gate.get("max_drop"), measure)


def check_gate(
    url: str, max_drop: float | None, against: str | None = None, measure: str = MOTION_SHARE
) -> None:
    """Stop where a finished run's motion reliance, or share, fell too far, and tell Prefect.

    Parameters
    ----------
    url : str
        Where the run lies.
    max_drop : float or None
        The largest fall that passes (`selrel.scores.compare.dropped`); None: any.
    against : str, optional
        The run to compare with, instead of the one before.
    measure : str
        "motion_reliance" or "motion_share".

    Raises
    ------
    MotionDropped
        If it did. In a flow run, the event `event_of` is emitted first.
    NotJudged
        If there is a run to compare with, but it can't be compared.
    """
    if max_drop is None:
        return
    found = _found(url, max_drop, against, measure)
    if found is None:
        _log.warning("%s: nothing to compare with, the gate did not judge", url)
        return
    if not dropped(found, max_drop):
        if found.get("no_interval"):
            _log.warning("%s: judged by the mean alone%s", url, difference_range(found))
        return
    if FlowRunContext.get() is not None:
        emit_event(
            event_of(measure),
            resource={"prefect.resource.id": f"selrel.run.{run_at(url)[1].name}", "selrel.run": url},
            payload={**found, "max_drop": max_drop, "passed": False},
        )
    raise MotionDropped(
        f"the {_CALLED[measure]} fell from {percent(found['before'])} in {found['previous']} to "
        f"{percent(found['after'])}: by {percent(-found['difference'], '')} points{difference_range(found)}, "
        f"where at most {100 * max_drop:g} are allowed; the run is complete: {url}"
    )


def judgement(run: Run) -> str:
    """What the gate said about a finished run; empty if it let it pass."""
    found = run.summary.get("comparison")
    if found is None or found["passed"]:
        return ""
    if "error" in found:
        return f"the gate could not judge it: {found['error']}"
    fall = 100 * (found["before"] - found["after"])
    # Older runs were judged by nothing else.
    measure = found.get("measure", MOTION_SHARE).replace("_", " ")
    return f"its {measure} fell by {fall:.1f} points against {found['previous']}"


def _found(url: str, max_drop: float, against: str | None, measure: str) -> Row | None:
    """The comparison stored with the run, or a new one where that says nothing, or of another run."""
    run = finished_run(url)
    stored: Row | None = run.summary.get("comparison")
    if stored is None and against is None:
        return None
    if stored is not None:
        against = against or Run.of(run.root, stored["previous"]).url
        alike = stored.get("measure", MOTION_SHARE) == measure
        if alike and stored["difference"] is not None and stored["previous"] == run_at(against)[1].name:
            return stored
    assert against is not None
    try:
        rows = comparison(read_measure(against), read_side(run))
        found = _verdict(headline(rows, measure), against, max_drop, measure)
    except (FileNotFoundError, ValueError) as error:
        found = {"error": str(error)}
    if "error" in found:
        raise NotJudged(
            f"the gate can't judge {url}: {found['error']}; name another run by --against, or leave "
            "--max-drop out"
        )
    return found


def _verdict(row: Mapping[str, Any] | None, previous: str, max_drop: float | None, measure: str) -> Row:
    names = ("before", "after", "difference", "low", "high", "n_clips", "no_interval")
    figures = {name: None if row is None else row[name] for name in names}
    verdict = {"previous": run_at(previous)[1].name, **figures, "max_drop": max_drop, "measure": measure}
    if max_drop is None:
        return {**verdict, "passed": True}
    if figures["difference"] is None:
        error = f"no clip of both it and {previous} has a {_CALLED[measure]}"
        return {**verdict, "passed": False, "error": error}
    return {**verdict, "passed": not dropped(figures, max_drop)}
