"""Rank statistics: whether one number rises with another, and whether it tells two kinds apart."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
# Of the normal distribution, at that confidence.
_Z = 1.959963984540054
_STUDENT = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622)


def ranks(values: npt.NDArray[Any]) -> Floats:
    """Rank values from 1 on; equal ones share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (counts.cumsum() - (counts - 1) / 2)[place]
    return shared


def spearman(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float | None:
    """Spearman's rank correlation, -1..1; None where one side is constant or there are fewer than 3 pairs."""
    if len(first) < 3:
        return None
    found = _correlation(ranks(first)[None], ranks(second)[None], np.ones((1, len(first))))[0]
    return None if np.isnan(found) else float(found)


def auc(positive: npt.NDArray[Any], negative: npt.NDArray[Any]) -> float | None:
    """Probability that a value of the first kind exceeds one of the second, ties counting half.

    None where a kind is empty. It is the area under the receiver operating characteristic, by the rank sum
    of Mann and Whitney 1947.
    """
    n, m = len(positive), len(negative)
    if not n or not m:
        return None
    above = ranks(np.concatenate([positive, negative]))[:n].sum() - n * (n + 1) / 2
    return float(above / (n * m))


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
    ours, theirs = (ranks(side) - (len(first) + 1) / 2 for side in (first, second))
    _, kind = np.unique(kinds, return_inverse=True)
    # Spearman's correlation is linear in the ranks of one side, so its mean is that of their mean.
    means = np.bincount(kind, ours) / np.bincount(kind)
    return float(means[kind] @ theirs / np.sqrt((ours @ ours) * (theirs @ theirs)))


def spearman_interval(
    first: npt.NDArray[Any], second: npt.NDArray[Any], blocks: npt.NDArray[Any]
) -> Interval | None:
    """Interval (95 %) of Spearman's correlation over blocks of pairs, by leaving each block out in turn.

    The jackknife's standard error times Student's t of one degree of freedom less than there are blocks (4.3
    for three), cut at -1 and 1. A bootstrap of three blocks would be both too narrow and too high, since a
    block that is drawn twice agrees with itself.

    Parameters
    ----------
    first, second : array, (pair,)
        The two sides.
    blocks : array, (pair,)
        Label of the block that each pair is from; pairs of a block need not be independent.

    Returns
    -------
    (low, high) or None
        A point where no block makes a difference, which says no more than that. None where there are fewer
        than two blocks, or no correlation without one of them.

    References
    ----------
    Tukey 1958, *Bias and confidence in not quite large samples*; Kott 2001, *The delete-a-group jackknife*,
    Journal of Official Statistics 17:521.
    """
    names, block = np.unique(blocks, return_inverse=True)
    estimate, n = spearman(first, second), len(names)
    if estimate is None or n < 2:
        return None
    weights = (np.arange(n)[:, None] != block).astype(np.float64)
    without = _correlation(_weighted_ranks(first, weights), _weighted_ranks(second, weights), weights)
    if np.isnan(without).any():
        return None
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    reach = student(n - 1) * error
    return max(-1.0, estimate - reach), min(1.0, estimate + reach)


def student(freedom: int) -> float:
    """Student's t at 97.5 %: read from a table up to 9 degrees of freedom, from there by its expansion."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    first, second = (_Z**3 + _Z) / 4, (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / 96
    third = (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / 384
    return _Z + first / freedom + second / freedom**2 + third / freedom**3


def _weighted_ranks(values: npt.NDArray[Any], weights: Floats) -> Floats:
    """Rank values that come as often as the weights say: (row of weights, value)."""
    below, level = values < values[:, None], values == values[:, None]
    shared: Floats = weights @ below.T + (weights @ level.T + 1) / 2
    return shared


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
        held = (middle - estimate) ** 2 <= _Z**2 * _auc_variance(middle, n, m)
        inside, outside = (middle, outside) if held else (inside, middle)
    return inside


def _auc_variance(area: float, n: int, m: int) -> float:
    """Variance of an area under the curve of exponential values, the kinds' sizes taken at their mean."""
    others = (n + m) / 2 - 1
    spread = 1 + others * ((1 - area) / (2 - area) + area / (1 + area))
    return area * (1 - area) * spread / (n * m)


def _correlation(first: Floats, second: Floats, weights: Floats) -> Floats:
    """Pearson's correlation of each row's weighted values; NaN where a side is constant."""
    n = weights.sum(axis=1, keepdims=True)
    a, b = (side - (weights * side).sum(axis=1, keepdims=True) / n for side in (first, second))
    spread = [(weights * side * side).sum(axis=1) for side in (a, b)]
    # Ranks are multiples of a half, so what is less than that is rounding.
    varies = np.minimum(*spread) > 1e-9
    found: Floats = np.divide(
        (weights * a * b).sum(axis=1),
        np.sqrt(spread[0] * spread[1]),
        out=np.full(len(a), np.nan),
        where=varies,
    )
    return found


def at_edge(n: int) -> float:
    """Largest share (97.5 %) of what was never seen in n independent trials (Clopper and Pearson 1934)."""
    return float(1 - ((1 - CONFIDENCE) / 2) ** (1 / n))
