"""Sums of scores in cells, one for each class, group and map: they do not grow with the number of clips."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.metric import Columns
from selrel.scores.metrics import metrics
from selrel.scores.sums import GroupSums, group_sums, merge

_LABELS = ("class", "group")
_BY = ("method", "sigma")
_AGREEMENT_BY = ("method_a", "method_b", "sigma")


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


def columns_read(*, pairs: bool = False) -> tuple[str, ...]:
    """Return what is read of the rows that `selrel.scores.score_clip` makes: of scores, or of agreements."""
    scores = (name for metric in metrics() if metric.pairs == pairs for name in metric.scores)
    return (*_LABELS, *(_AGREEMENT_BY if pairs else _BY), "counted_voxels", *scores)


def score_cells(batches: Iterable[Columns], *, pairs: bool = False) -> Cells:
    """Sum the scores of clips that come in batches; only one batch is held at a time.

    Parameters
    ----------
    batches : iterable of mapping of name to array
        `columns_read` of the rows of some clips, in one batch or in many; null is NaN or None.
    pairs : bool
        Whether they are of two methods each: agreements.

    Returns
    -------
    Cells
        By class, group, method (or both methods) and sigma: the scores of every metric, and ``uncounted`` (1
        for a clip without any voxel of known flow).

    Raises
    ------
    ValueError
        If a column is missing.
    """
    chosen = [metric for metric in metrics() if metric.pairs == pairs]
    summed = [name for metric in chosen for name in (*metric.scores, *metric.derived)]
    cells = Cells(_AGREEMENT_BY if pairs else _BY, (*summed, "uncounted"))
    for columns in batches:
        check_columns(columns, columns_read(pairs=pairs))
        found = {**columns, "uncounted": (columns["counted_voxels"] == 0).astype(np.float64)}
        for metric in chosen:
            found |= metric.derive(columns) if metric.derive else {}
        cells.add(found)
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
