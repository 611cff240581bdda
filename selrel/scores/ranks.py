"""Rank statistics: whether one number rises with another, and whether it tells two kinds apart."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from selrel.scores.intervals import CONFIDENCE, LEAST_GROUPS, Interval, jackknife_error, student

Floats = npt.NDArray[np.float64]

# Of the normal distribution, at that confidence.
_Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))


def spearman(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float | None:
    """Spearman's rank correlation, -1..1; None where one side is constant or there are fewer than 3 pairs."""
    if len(first) < 3 or not np.ptp(first) or not np.ptp(second):
        return None
    return float(stats.spearmanr(first, second).statistic)


def _centred(values: npt.NDArray[Any]) -> Floats:
    """Rank values about their mean rank, which is the same whatever the values."""
    centred: Floats = stats.rankdata(values) - (len(values) + 1) / 2
    return centred


def auc(positive: npt.NDArray[Any], negative: npt.NDArray[Any]) -> float | None:
    """Probability that a value of the first kind exceeds one of the second, ties counting half.

    None where a kind is empty. It is the area under the receiver operating characteristic, by the rank sum
    of Mann and Whitney 1947.
    """
    n, m = len(positive), len(negative)
    if not n or not m:
        return None
    # Of its methods, the one that counts no orders, since only the statistic is asked for.
    return float(stats.mannwhitneyu(positive, negative, method="asymptotic").statistic / (n * m))


def spearman_of_kinds(
    first: npt.NDArray[Any], second: npt.NDArray[Any], kinds: npt.NDArray[Any]
) -> float | None:
    """Spearman's correlation that telling the kinds apart gives by itself.

    It is the mean of `spearman` over all orders of the first side within each kind: what is left of the
    correlation when the values keep their kind's place and nothing else. For n values wholly above m others
    on both sides, without ties, it is 3nm / ((n + m)^2 - 1): 0.67 for 12 above 6.

    Parameters
    ----------
    first, second : array, (value,)
        The two sides.
    kinds : array, (value,)
        Label of each value's kind.

    Returns
    -------
    float or None
        -1..1; None where `spearman` is.
    """
    if spearman(first, second) is None:
        return None
    ours, theirs = _centred(first), _centred(second)
    _, kind = np.unique(kinds, return_inverse=True)
    # Spearman's correlation is linear in the ranks of one side, so its mean is that of their mean.
    means = np.bincount(kind, ours) / np.bincount(kind)
    return float(means[kind] @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)))


def spearman_over_kinds(
    first: npt.NDArray[Any], second: npt.NDArray[Any], kinds: npt.NDArray[Any]
) -> float | None:
    """Give the part of Spearman's correlation that telling the kinds apart does not: above 0 is an order."""
    whole, of_kinds = spearman(first, second), spearman_of_kinds(first, second, kinds)
    return None if whole is None or of_kinds is None else whole - of_kinds


def left_out_interval(
    statistic: Callable[..., float | None], columns: Sequence[npt.NDArray[Any]], blocks: npt.NDArray[Any]
) -> Interval | None:
    """Interval (95 %) of a statistic over blocks of values, by leaving each block out in turn.

    The jackknife's standard error times Student's t of one degree of freedom less than there are blocks (4.3
    for three). A bootstrap of three blocks would be both too narrow and too high, since a block that is drawn
    twice agrees with itself. It covers what other blocks may give about nine times in ten where blocks differ
    no more than their values do, and less often where they differ much more.

    Parameters
    ----------
    statistic : callable
        Of the columns, such as `spearman`; None where it has no value.
    columns : sequence of array, (value,)
        The values.
    blocks : array, (value,)
        Label of the block that each value is from; values of a block need not be independent.

    Returns
    -------
    (low, high) or None
        A point where no block makes a difference, which says no more than that. None where there are fewer
        than three blocks, or no statistic without one of them.

    References
    ----------
    Tukey 1958, *Bias and confidence in not quite large samples*; Kott 2001, *The delete-a-group jackknife*,
    Journal of Official Statistics 17:521.
    """
    names = np.unique(blocks)
    estimate, n = statistic(*columns), len(names)
    left_out = [statistic(*(column[blocks != name] for column in columns)) for name in names]
    without = np.array([value for value in left_out if value is not None])
    if estimate is None or n < LEAST_GROUPS or len(without) < n:
        return None
    reach = student(n - 1) * jackknife_error(without)
    return estimate - reach, estimate + reach


def spearman_interval(
    first: npt.NDArray[Any], second: npt.NDArray[Any], blocks: npt.NDArray[Any]
) -> Interval | None:
    """Give the `left_out_interval` of Spearman's correlation over blocks of pairs, cut at -1 and 1."""
    found = left_out_interval(spearman, (first, second), blocks)
    return None if found is None else (max(-1.0, found[0]), min(1.0, found[1]))


def auc_interval(estimate: float, n: int, m: int) -> Interval:
    """Interval (95 %) of `auc` that stays honest where two small samples are fully separated.

    The score interval of Newcombe 2006, method 5: all areas from which the estimate is no farther than 1.96
    standard errors, with Hanley and McNeil's standard error at that area, not at the estimate, where it may
    be 0. Of 12 values all above 6 others, the area is 0.76 or more. It takes the values of each kind for
    independent draws.

    Parameters
    ----------
    estimate : float
        The area found, 0..1.
    n, m : int
        Values of each kind, 1 or more.

    References
    ----------
    Newcombe 2006, *Confidence intervals for an effect size measure based on the Mann-Whitney statistic.
    Part 2*, Statistics in Medicine 25:559, method 5; Hanley and McNeil 1982, Radiology 143:29.
    """
    return _farthest(estimate, 0.0, n, m), _farthest(estimate, 1.0, n, m)


def _farthest(estimate: float, edge: float, n: int, m: int) -> float:
    """The area between the estimate and an edge that is just not refuted, by bisection."""
    inside, outside = estimate, edge
    for _ in range(60):
        middle = (inside + outside) / 2
        # Variance of an area under the curve of exponential values, the kinds' sizes taken at their mean.
        others = (n + m) / 2 - 1
        spread = 1 + others * ((1 - middle) / (2 - middle) + middle / (1 + middle))
        held = (middle - estimate) ** 2 <= _Z**2 * (middle * (1 - middle) * spread / (n * m))
        inside, outside = (middle, outside) if held else (inside, middle)
    return inside


def at_edge(n: int) -> float:
    """Largest share (97.5 %) of what was never seen in n independent trials (Clopper and Pearson 1934)."""
    return float(stats.binomtest(0, n).proportion_ci(CONFIDENCE, method="exact").high)
