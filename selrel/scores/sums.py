"""Sums over the clips of one UCF group, from which means, deviations and intervals follow.

Two partial results merge into what one pass over all clips would give.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GroupSums:
    """What is kept of one score: a line for each group of clips that are not independent.

    Parameters
    ----------
    groups : array, (group,)
        Labels, ascending, each once.
    n : int array, (group,)
        Clips that have a value.
    n_null : int array, (group,)
        Clips that have none.
    total : float64 array, (group,)
        Sum of the values.
    squares : float64 array, (group,)
        Sum of the squared deviations from the group's own mean.
    """

    groups: npt.NDArray[Any]
    n: npt.NDArray[np.intp]
    n_null: npt.NDArray[np.intp]
    total: Floats
    squares: Floats

    @property
    def mean(self) -> float | None:
        """Mean over all clips that have a value; None where none has."""
        n = self.n.sum()
        return float(self.total.sum() / n) if n else None

    @property
    def std(self) -> float | None:
        """Sample standard deviation over clips (n - 1); None below two values."""
        n = self.n.sum()
        if n < 2:
            return None
        between = self.n * (_means(self.total, self.n) - self.total.sum() / n) ** 2
        return float(np.sqrt((self.squares.sum() + between.sum()) / (n - 1)))


def group_sums(values: npt.NDArray[Any], groups: npt.NDArray[Any]) -> GroupSums:
    """Sum a score over the clips of each group.

    Parameters
    ----------
    values : float array, (clip,)
        NaN, or None in an array of objects, where the score is null.
    groups : array, (clip,)
        Label of the group that each clip is from.

    Returns
    -------
    GroupSums
        Nulls are in ``n_null`` and in no sum.
    """
    values = np.asarray(values, np.float64)
    labels, member = np.unique(groups, return_inverse=True)
    has = ~np.isnan(values)
    member_has, values = member[has], values[has]
    n = np.bincount(member_has, minlength=len(labels))
    total = _add(values, member_has, len(labels))
    deviations = values - _means(total, n)[member_has]
    return GroupSums(
        groups=labels,
        n=n,
        n_null=np.bincount(member, minlength=len(labels)) - n,
        total=total,
        squares=_add(deviations**2, member_has, len(labels)),
    )


def merge(parts: Iterable[GroupSums]) -> GroupSums:
    """Merge partial sums of disjoint clips; a group may be in several.

    Parameters
    ----------
    parts : iterable of GroupSums
        At least one.

    Returns
    -------
    GroupSums
        As if made from all clips at once.

    References
    ----------
    Chan, Golub and LeVeque 1983, *Algorithms for computing the sample variance*.
    """
    parts = list(parts)
    labels, member = np.unique(np.concatenate([part.groups for part in parts]), return_inverse=True)

    n = np.concatenate([part.n for part in parts])
    n_null = np.concatenate([part.n_null for part in parts])
    total = np.concatenate([part.total for part in parts])
    squares = np.concatenate([part.squares for part in parts])
    merged_n, merged_total = _add(n, member, len(labels)), _add(total, member, len(labels))
    shift = _means(total, n) - _means(merged_total, merged_n)[member]
    return GroupSums(
        groups=labels,
        n=merged_n.astype(np.intp),
        n_null=_add(n_null, member, len(labels)).astype(np.intp),
        total=merged_total,
        squares=_add(squares + n * shift**2, member, len(labels)),
    )


def _add(column: npt.NDArray[Any], member: npt.NDArray[np.intp], n_groups: int) -> Floats:
    return np.bincount(member, column, n_groups).astype(np.float64, copy=False)


def _means(total: Floats, n: npt.NDArray[Any]) -> Floats:
    """Mean of each group; 0 for a group without values, where it multiplies with n = 0."""
    means: Floats = total / np.maximum(n, 1)
    return means
