"""Bootstrap intervals that resample UCF groups (gNN), since clips of one group are not independent."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.sums import group_sums

DRAWS = 2000
CONFIDENCE = 0.95

Interval = tuple[float, float]
Ratio = tuple[npt.NDArray[Any], npt.NDArray[Any]]


def group_bootstrap(
    values: npt.NDArray[Any],
    groups: npt.NDArray[Any],
    *,
    n: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Compute the bootstrap interval of the mean of a score over clips.

    Parameters
    ----------
    values : float array, (clip,)
        NaN, or None in an array of objects, where the score is null.
    groups : array, (clip,)
        Label of the group that each clip is from; whole groups are drawn, with replacement.
    n : int
        Number of resamples.
    seed : int
        Of the generator; the same seed gives the same interval.
    confidence : float
        Probability that the interval covers, between 0 and 1.

    Returns
    -------
    (low, high) or None
        Percentile interval of the mean over non-null clips; None where fewer than two groups have a
        value, since one group says nothing about others.
    """
    sums = group_sums(values, groups)
    return ratio_interval(sums.total, sums.n, n=n, seed=seed, confidence=confidence)


def ratio_interval(
    numerator: npt.NDArray[Any],
    denominator: npt.NDArray[Any],
    *,
    n: int = DRAWS,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Interval | None:
    """Compute the bootstrap interval of a ratio of two sums.

    Parameters
    ----------
    numerator, denominator : float or int arrays, (group,)
        Sum of each group; the ratio is that of the totals. Denominators are 0 or more.
    n, seed, confidence
        As `group_bootstrap` takes them.

    Returns
    -------
    (low, high) or None
        Percentile interval over the resamples whose denominator is not 0; None where fewer than two
        groups have a denominator.

    Raises
    ------
    ValueError
        If n is below 1 or the confidence is not between 0 and 1.
    """
    _check_draws(n, confidence)
    if np.count_nonzero(denominator) < 2:
        return None
    ratios = _ratios(_draws(len(denominator), n, seed), numerator, denominator)
    return _percentiles(ratios, confidence)


def difference_interval(
    before: Ratio, after: Ratio, *, n: int = DRAWS, seed: int = 0, confidence: float = CONFIDENCE
) -> Interval | None:
    """Compute the bootstrap interval of a paired difference: the ratio after minus the ratio before.

    Both ratios of a resample are those of the same groups, so that what is hard or easy for both cancels.

    Parameters
    ----------
    before, after : pair of float or int arrays, (group,) each
        Numerator and denominator of each group, the groups in the same order in all four.
    n, seed, confidence
        As `group_bootstrap` takes them.

    Returns
    -------
    (low, high) or None
        Percentile interval over the resamples in which both denominators are above 0; None where fewer than
        two groups have both.

    Raises
    ------
    ValueError
        If n is below 1 or the confidence is not between 0 and 1.
    """
    _check_draws(n, confidence)
    if np.count_nonzero((before[1] > 0) & (after[1] > 0)) < 2:
        return None
    draws = _draws(len(before[1]), n, seed)
    return _percentiles(_ratios(draws, *after) - _ratios(draws, *before), confidence)


def _check_draws(n: int, confidence: float) -> None:
    if n < 1 or not 0 < confidence < 1:
        raise ValueError(f"{n} resamples at confidence {confidence}; use 1 or more, between 0 and 1")


def _ratios(
    draws: npt.NDArray[np.float64], numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """The ratio of every resample; NaN where its denominator is 0."""
    numerators, denominators = (draws @ np.stack([numerator, denominator], axis=1).astype(np.float64)).T
    held = denominators > 0
    ratios = np.full(len(draws), np.nan)
    ratios[held] = numerators[held] / denominators[held]
    return ratios


def _percentiles(values: npt.NDArray[np.float64], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[~np.isnan(values)], [tail, 1 - tail])
    return float(low), float(high)


@lru_cache(maxsize=2)
def _draws(n_groups: int, n: int, seed: int) -> npt.NDArray[np.float64]:
    """How often each resample draws each group: (resample, group).

    Kept, because every score of a table resamples the same groups: 40 MB for all of UCF-101.
    """
    generator = np.random.default_rng(seed)
    draws = np.empty((n, n_groups))
    for row in draws:
        row[:] = np.bincount(generator.integers(0, n_groups, n_groups), minlength=n_groups)
    draws.setflags(write=False)
    return draws
