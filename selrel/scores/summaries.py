"""What the rows of tables are made of: means over clips, their deviations, and intervals over UCF groups.

Where there are too few groups, the ends of an interval are None and ``no_interval`` says why.
"""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from selrel.scores.intervals import Range, count_groups, no_interval, ratio_interval
from selrel.scores.metric import Part, Row
from selrel.scores.sums import Floats

COUNTS = ("n_clips", "n_empty", "n_uncounted")
STATISTICS = ("mean", "std", "low", "high")


def summary(part: Part, name: str) -> Row:
    """Mean, deviation and interval of one score, a share, and how many clips have it."""
    sums = part[name]
    n_uncounted = int(part["uncounted"].total.sum())
    return {
        "mean": sums.mean,
        "std": sums.std,
        **interval_of(sums.total, sums.n, "share"),
        "n_clips": int(sums.n.sum()),
        "n_empty": int(sums.n_null.sum()) - n_uncounted,
        "n_uncounted": n_uncounted,
    }


def means(part: Part, names: Sequence[str]) -> Row:
    """Means with their intervals, by name; the counts are of the first."""
    row: Row = {}
    for name in names:
        found = summary(part, name)
        ends = {f"{name}_{end}": found[end] for end in ("low", "high")}
        counts = {count: found[count] for count in COUNTS} if not row else {}
        row = joined(row, {name: found["mean"], **ends, **counts, "no_interval": found["no_interval"]})
    return row


def joined(row: Row, other: Row) -> Row:
    """Both, with the first reason for which one of their intervals is missing."""
    return {**row, **other, "no_interval": row.get("no_interval") or other["no_interval"]}


def interval_of(numerator: Floats, denominator: npt.NDArray[Any], of: Range) -> Row:
    """``low`` and ``high`` of a ratio of sums by group, or in ``no_interval`` why there is none."""
    low, high = ratio_interval(numerator, denominator, of=of) or (None, None)
    return {"low": low, "high": high, "no_interval": no_interval(count_groups(denominator))}
