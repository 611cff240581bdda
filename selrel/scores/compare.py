"""Comparison of two checkpoints on the same clips: what changed, and whether it is more than chance."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.intervals import Ratio, difference_interval, no_interval
from selrel.scores.metric import CLIPS, MAP, METHOD, Column, Metric, Row, Table
from selrel.scores.precision import LEAST_BASE_RATE, NO_LIFT, NOTHING_RELEVANT
from selrel.scores.reliance import LEAST_SCORE, RELIANCE_OF
from selrel.scores.sums import group_sums

Columns = Mapping[str, npt.NDArray[Any]]

# A lift is the ratio of their sums.
_LIFT_OF = ("precision", "base_rate")
_CHANGE_OF = {name: change for change, name in RELIANCE_OF.items()}


def compare(before: Columns, after: Columns, scores: Sequence[str]) -> list[Row]:
    """Compare scores of two checkpoints on the same clips.

    A clip counts for a score if both checkpoints have it there: precision, for one, is null where nothing is
    relevant, and lift where too little moves. So the values may differ a little from those of each run's own
    tables.

    Parameters
    ----------
    before, after : mapping of name to array, (clip,)
        A column for each score (null is NaN or None), the same clip in the same place, with ``class`` and
        ``group``.
    scores : sequence of str
        Names of columns whose means are compared; ``lift``: mean ``precision`` over mean ``base_rate``; or a
        reliance, such as ``motion_reliance``: how much of ``decision`` is not in ``decision_frozen``, of the
        sums of both.

    Returns
    -------
    list of dict
        Over all classes (``class`` None), then class by class, a row for each ``score``: ``before``,
        ``after`` and ``difference`` (after minus before; None where there is none), its 95 % interval
        ``low`` and ``high``, ``n_clips`` that count; ``no_interval``, why the ends are None, if they are, and
        ``no_lift``, why there is no lift at all to have an interval.
    """
    return [
        {"class": name, "score": score, **_difference(first, second, score)}
        for name, first, second in _by_class(before, after)
        for score in scores
    ]


def columns_read(scores: Sequence[str]) -> list[str]:
    """Return the columns of clips that `compare` reads for scores."""
    read = (name for score in scores for name in (_LIFT_OF if score == "lift" else (score,)))
    return list(dict.fromkeys(read))


def dropped(row: Mapping[str, Any], max_drop: float) -> bool:
    """Whether a score fell by more than a limit, and more than by chance.

    Parameters
    ----------
    row : mapping
        A row of `compare`.
    max_drop : float
        The largest fall that passes, as a share: 0.05 is five percentage points.

    Returns
    -------
    bool
        True if the mean fell by more than the limit and the whole 95 % interval of the paired difference lies
        below 0. Without an interval (too few groups) chance can't be told from a fall, and the mean alone
        decides: what may be a fall does not pass. Where the runs have no clip to compare, nothing fell.
    """
    if row["difference"] is None or row["difference"] >= -max_drop:
        return False
    return row["high"] is None or row["high"] < 0


def _by_class(before: Columns, after: Columns) -> Iterator[tuple[str | None, Columns, Columns]]:
    # Groups as numbers: they are compared once a row.
    numbers = {"group": np.unique(before["group"], return_inverse=True)[1]}
    before, after = {**before, **numbers}, {**after, **numbers}
    yield None, before, after
    names, member = np.unique(before["class"], return_inverse=True)
    for number, name in enumerate(names.tolist()):
        rows = np.flatnonzero(member == number)
        yield name, _rows(before, rows), _rows(after, rows)


def _rows(columns: Columns, rows: npt.NDArray[np.intp]) -> Columns:
    return {name: column[rows] for name, column in columns.items()}


def _difference(before: Columns, after: Columns, score: str) -> Row:
    both = np.flatnonzero(_has(before, score) & _has(after, score))
    first, second = (_ratio(_rows(side, both), score) for side in (before, after))
    values = [_of_totals(first), _of_totals(second)]
    low, high = difference_interval(first, second) or (None, None)
    no_lift = None
    if score == "lift" and not len(both):
        relevant = _has(before, "precision") & _has(after, "precision")
        no_lift = NO_LIFT if relevant.any() else NOTHING_RELEVANT
    if score in _CHANGE_OF:
        decisions = (group_sums(side["decision"][both], side["group"][both]).mean for side in (before, after))
        if not all(mean is not None and mean >= LEAST_SCORE for mean in decisions):
            # There is no decision to speak of.
            values, low, high = [None, None], None, None
    n_groups = int(np.count_nonzero((first[1] > 0) & (second[1] > 0)))
    return {
        "before": values[0],
        "after": values[1],
        "difference": values[1] - values[0] if values[0] is not None and values[1] is not None else None,
        "low": low,
        "high": high,
        "n_clips": len(both),
        "no_interval": None if no_lift else no_interval(n_groups),
        "no_lift": no_lift,
    }


def _has(columns: Columns, score: str) -> npt.NDArray[np.bool_]:
    """Which clips have the score."""
    if score in _CHANGE_OF:
        return ~np.isnan(np.asarray(columns["decision"], np.float64))
    if score != "lift":
        return ~np.isnan(np.asarray(columns[score], np.float64))
    return _has(columns, "precision") & (np.asarray(columns["base_rate"], np.float64) >= LEAST_BASE_RATE)


def _ratio(columns: Columns, score: str) -> Ratio:
    """Numerator and denominator of each group: of a mean over clips, or of the lift over the base rate."""
    if score == "lift":
        above, below = (group_sums(columns[name], columns["group"]) for name in _LIFT_OF)
        return above.total, below.total
    if score in _CHANGE_OF:
        whole, left = (
            group_sums(columns[name], columns["group"])
            for name in ("decision", f"decision_{_CHANGE_OF[score]}")
        )
        return whole.total - left.total, whole.total
    sums = group_sums(columns[score], columns["group"])
    return sums.total, sums.n


def _of_totals(ratio: Ratio) -> float | None:
    total = float(ratio[1].sum())
    return float(ratio[0].sum()) / total if total else None


METRIC = Metric(
    tables=(
        Table(
            name="comparison",
            title="Against the run before, clip by clip",
            note="Per cent, but for the lift; over the clips that both runs have.",
            order=2,
            columns=(
                Column("score", "Score", "words"),
                MAP,
                METHOD,
                Column("before", "Before", "score"),
                Column("after", "Now", "score"),
                Column("difference", "Difference", "score"),
                Column("low", "Difference, 95 %", "score range", "interval", reason="no_interval"),
                CLIPS,
            ),
        ),
    ),
)
