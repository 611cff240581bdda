"""Sums of scores in cells, one for each class, group and map: they do not grow with the number of clips."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.precision import LEAST_BASE_RATE, SHARES
from selrel.scores.sums import GroupSums, group_sums, merge

Columns = Mapping[str, npt.NDArray[Any]]

# All motion, and what is left of it without the camera's.
KINDS = ("", "object_")
# Precision and base rate of the clips that have a lift, which is the ratio of their sums.
LIFTS = {kind: (f"{kind}lift_precision", f"{kind}lift_base_rate") for kind in KINDS}
AREA_PRECISIONS = tuple(f"area_precision_{100 * area:g}" for area in SHARES)

_LABELS = ("class", "group")
_BY = ("method", "sigma")
_BASE_RATES = {f"{kind}base_rate": f"{kind}precision" for kind in KINDS}
_SCORES = (
    *_BASE_RATES.values(), *(f"{kind}recall" for kind in KINDS), "weighted_precision", *AREA_PRECISIONS,
    "kept_voxels", "kept_relevance",
)  # fmt: skip
_AGREEMENT_BY = ("method_a", "method_b", "sigma")
_AGREEMENTS = ("agreement", "iou")

# What is read of the rows that `selrel.scores.score_clip` makes.
SCORE_COLUMNS = (*_LABELS, *_BY, "counted_voxels", *_BASE_RATES, *_SCORES)
AGREEMENT_COLUMNS = (*_LABELS, *_AGREEMENT_BY, "counted_voxels", *_AGREEMENTS)


class Cells:
    """Sums of the scores of clips, by class, group and what else tells the maps of a clip apart.

    Parameters
    ----------
    by : sequence of str
        Columns that tell the maps of a clip apart.
    scores : sequence of str
        Columns that are summed.
    """

    def __init__(self, by: Sequence[str], scores: Sequence[str]) -> None:
        self._keys = (*_LABELS, *by)
        self._numbers: defaultdict[tuple[Any, ...], int] = defaultdict(count().__next__)
        # By number of the cell; every score has them all.
        self._sums = dict.fromkeys(scores, group_sums(np.empty(0), np.empty(0, np.intp)))

    @property
    def names(self) -> set[str]:
        """What the cells are told apart by, and the scores."""
        return {*self._keys, *self._sums}

    @property
    def labels(self) -> Columns:
        """Class, group and the rest of each cell, and its number, ``cell``."""
        columns = list(zip(*self._numbers, strict=True)) or [()] * len(self._keys)
        labels = {name: np.array(column) for name, column in zip(self._keys, columns, strict=True)}
        return {**labels, "cell": np.arange(len(self._numbers))}

    def add(self, columns: Columns) -> None:
        """Add clips that are not in yet: an entry a clip and map in each column, null is NaN or None."""
        # One look-up a row is ten times as fast as sorting the labels.
        labels = zip(*(columns[name].tolist() for name in self._keys), strict=True)
        cell = np.fromiter(map(self._numbers.__getitem__, labels), np.intp)
        for score, sums in self._sums.items():
            self._sums[score] = merge([sums, group_sums(columns[score], cell)])

    def of_groups(self, score: str, cells: npt.NDArray[np.intp], groups: npt.NDArray[Any]) -> GroupSums:
        """The sums of a score over some cells, by group: a group can be in several classes."""
        sums = self._sums[score]
        parts = (sums.n[cells], sums.n_null[cells], sums.total[cells], sums.squares[cells])
        return merge([GroupSums(groups, *parts)])


def score_cells(batches: Iterable[Columns]) -> Cells:
    """Sum the scores of clips that come in batches; only one batch is held at a time.

    Parameters
    ----------
    batches : iterable of mapping of name to array
        `SCORE_COLUMNS` of the rows of some clips, in one batch or in many; null is NaN or None.

    Returns
    -------
    Cells
        By class, group, method and sigma: the scores, ``uncounted`` (1 for a clip without any voxel of known
        flow), the base rates of the clips that have a precision, and both of those with a lift (`LIFTS`).

    Raises
    ------
    ValueError
        If a column is missing.
    """
    lifts = [name for names in LIFTS.values() for name in names]
    cells = Cells(_BY, (*_SCORES, *_BASE_RATES, *lifts, "uncounted"))
    for columns in batches:
        check_columns(columns, SCORE_COLUMNS)
        cells.add({**columns, **_of_lift(columns), **_uncounted(columns)})
    return cells


def agreement_cells(batches: Iterable[Columns]) -> Cells:
    """Sum the agreement of methods on clips that come in batches, as `score_cells` does.

    Parameters
    ----------
    batches : iterable of mapping of name to array
        `AGREEMENT_COLUMNS` of the rows of some clips.

    Returns
    -------
    Cells
        By class, group, both methods and sigma: the scores and ``uncounted``.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    cells = Cells(_AGREEMENT_BY, (*_AGREEMENTS, "uncounted"))
    for columns in batches:
        check_columns(columns, AGREEMENT_COLUMNS)
        cells.add({**columns, **_uncounted(columns)})
    return cells


def check_columns(names: Iterable[str], needed: Iterable[str]) -> None:
    """Check that no column is missing.

    Raises
    ------
    ValueError
        If one is.
    """
    if missing := [name for name in needed if name not in set(names)]:
        raise ValueError(
            f"columns {', '.join(missing)} are missing; give those of score_clip, with class and group"
        )


def _of_lift(columns: Columns) -> Columns:
    """The base rates of the clips that have a precision, and both of those that have a lift."""
    found: dict[str, npt.NDArray[Any]] = {}
    for kind, names in LIFTS.items():
        precision, rate = (np.asarray(columns[f"{kind}{n}"], np.float64) for n in ("precision", "base_rate"))
        rate = np.where(np.isnan(precision), np.nan, rate)
        has_lift = rate >= LEAST_BASE_RATE
        lifts = (np.where(has_lift, values, np.nan) for values in (precision, rate))
        found |= {f"{kind}base_rate": rate, **dict(zip(names, lifts, strict=True))}
    return found


def _uncounted(columns: Columns) -> Columns:
    return {"uncounted": (columns["counted_voxels"] == 0).astype(np.float64)}
