"""Intervals (95 %) over UCF groups (gNN), since clips of one group are not independent.

They leave out each group in turn (the jackknife) and take Student's t; percentiles of a bootstrap are far too
narrow where there are few groups. Shares are taken on the scale of their log-odds, ratios on that of their
logarithm: there the estimates of skewed values are nearly symmetric, and no end leaves the values' range.
"""

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]
from scipy.special import expit, logit  # type: ignore[import-untyped]

from selrel.scores.sums import group_sums

CONFIDENCE = 0.95
# With two, t is 12.7 and depends on a single difference; with one, nothing is known of other groups.
LEAST_GROUPS = 3

Interval = tuple[float, float]
Ratio = tuple[npt.NDArray[Any], npt.NDArray[Any]]
# What a ratio can be: a share of 0 to 1, 0 or more, or any number.
Range = Literal["share", "positive", "any"]


def mean_interval(
    values: npt.NDArray[Any], groups: npt.NDArray[Any], *, of: Range = "any"
) -> Interval | None:
    """Compute the interval of the mean of a score over clips.

    Parameters
    ----------
    values : float array, (clip,)
        NaN, or None in an array of objects, where the score is null.
    groups : array, (clip,)
        Label of the group that each clip is from; clips of a group need not be independent.
    of : "share", "positive" or "any"
        What the score can be.

    Returns
    -------
    (low, high) or None
        As `ratio_interval` gives it.
    """
    sums = group_sums(values, groups)
    return ratio_interval(sums.total, sums.n, of=of)


def ratio_interval(
    numerator: npt.NDArray[Any], denominator: npt.NDArray[Any], *, of: Range = "any"
) -> Interval | None:
    """Compute the interval of a ratio of two sums.

    Parameters
    ----------
    numerator, denominator : float or int arrays, (group,)
        Sum of each group; the ratio is that of the totals. Denominators are 0 or more.
    of : "share", "positive" or "any"
        What the ratio can be.

    Returns
    -------
    (low, high) or None
        None where fewer than `LEAST_GROUPS` groups have a denominator (`no_interval` says it in words). A
        point where all groups have the same ratio, which says no more than that. A positive ratio that one
        group rules may have no end above (infinity).

    References
    ----------
    Tukey 1958, *Bias and confidence in not quite large samples*; Kish 1965, *Survey sampling*: groups of
    unequal weight tell as much as fewer equal ones, and those, less one, are the degrees of freedom.
    """
    if count_groups(denominator) < LEAST_GROUPS:
        return None
    ratio, left_out = _left_out(numerator, denominator)
    reach = student(_freedom(denominator)) * jackknife_error(left_out)
    if of == "any" or ratio <= 0 or (of == "share" and ratio >= 1):
        return ratio - reach, ratio + reach
    if of == "positive":
        with np.errstate(over="ignore"):
            factor = float(np.exp(reach / ratio))
        return ratio / factor, ratio * factor
    low, high = expit(logit(ratio) + np.array([-1, 1]) * reach / (ratio * (1 - ratio)))
    return float(low), float(high)


def difference_interval(before: Ratio, after: Ratio) -> Interval | None:
    """Compute the interval of a paired difference: the ratio after minus the ratio before.

    Both ratios leave out the same group, so that what is hard or easy for both cancels.

    Parameters
    ----------
    before, after : pair of float or int arrays, (group,) each
        Numerator and denominator of each group, the groups in the same order in all four.

    Returns
    -------
    (low, high) or None
        As `ratio_interval` gives it, on the scale of the difference itself; None where fewer than
        `LEAST_GROUPS` groups have both denominators.
    """
    both = (before[1] > 0) & (after[1] > 0)
    if np.count_nonzero(both) < LEAST_GROUPS:
        return None
    (first, first_left_out), (second, second_left_out) = (
        _left_out(numerator[both], denominator[both]) for numerator, denominator in (before, after)
    )
    freedom = min(_freedom(before[1][both]), _freedom(after[1][both]))
    reach = student(freedom) * jackknife_error(second_left_out - first_left_out)
    return second - first - reach, second - first + reach


def count_groups(denominator: npt.NDArray[Any]) -> int:
    """How many groups have a value."""
    return int(np.count_nonzero(denominator > 0))


def no_interval(n_groups: int) -> str | None:
    """Why so many groups give no interval; None if they give one."""
    if n_groups >= LEAST_GROUPS:
        return None
    if n_groups == 0:
        return "no clip has a value"
    have = "1 group of videos has" if n_groups == 1 else f"{n_groups} groups of videos have"
    return f"only {have} a value, and it takes {LEAST_GROUPS} to tell how far apart groups lie"


def jackknife_error(left_out: npt.NDArray[np.float64]) -> float:
    """Standard error of an estimate from those that leave out one block each, (block,)."""
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()))


def student(freedom: float) -> float:
    """Student's t of the confidence, for 1 or more degrees of freedom, whole or not."""
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, max(freedom, 1.0)))


def _left_out(
    numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]
) -> tuple[float, npt.NDArray[np.float64]]:
    """The ratio, and what it is without each group that has a denominator."""
    has = denominator > 0
    above, below = numerator[has].astype(np.float64), denominator[has].astype(np.float64)
    left_out: npt.NDArray[np.float64] = (above.sum() - above) / (below.sum() - below)
    return float(above.sum() / below.sum()), left_out


def _freedom(weights: npt.NDArray[Any]) -> float:
    """Degrees of freedom of groups of these weights."""
    return float(weights.sum() ** 2 / (weights.astype(np.float64) ** 2).sum() - 1)
