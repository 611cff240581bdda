"""Bootstrap intervals that resample UCF groups (gNN), since clips of one group are not independent."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.sums import group_sums

DRAWS = 2000
CONFIDENCE = 0.95

Interval = tuple[float, float]


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
    if n < 1 or not 0 < confidence < 1:
        raise ValueError(f"{n} resamples at confidence {confidence}; use 1 or more, between 0 and 1")
    if np.count_nonzero(denominator) < 2:
        return None
    draws = _draws(len(denominator), n, seed)
    numerators, denominators = (draws @ np.stack([numerator, denominator], axis=1).astype(np.float64)).T
    held = denominators > 0
    tail = (1 - confidence) / 2
    low, high = np.quantile(numerators[held] / denominators[held], [tail, 1 - tail])
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
