"""Rank statistics: whether one number rises with another, and whether it tells two kinds apart."""

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Interval = tuple[float, float]

DRAWS = 1000
CONFIDENCE = 0.95


def ranks(values: npt.NDArray[Any]) -> Floats:
    """Rank values from 1 on; equal ones share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: Floats = (counts.cumsum() - (counts - 1) / 2)[place]
    return shared


def spearman(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> float | None:
    """Spearman's rank correlation, -1..1; None where one side is constant or there are fewer than 3 pairs."""
    if len(first) < 3:
        return None
    found = _correlation(ranks(first)[None], ranks(second)[None])[0]
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


def spearman_interval(
    first: npt.NDArray[Any], second: npt.NDArray[Any], *, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """Bootstrap interval (95 %) of Spearman's correlation over few pairs, which are resampled.

    None where fewer than half of the draws have a correlation.
    """
    if len(first) < 3:
        return None
    drawn = np.random.default_rng(seed).integers(0, len(first), (draws, len(first)))
    return _interval(_correlation(_row_ranks(first[drawn]), _row_ranks(second[drawn])))


def auc_interval(
    positive: npt.NDArray[Any], negative: npt.NDArray[Any], *, draws: int = DRAWS, seed: int = 0
) -> Interval | None:
    """Bootstrap interval (95 %) of `auc` over few values; each kind is resampled by itself."""
    if min(len(positive), len(negative)) < 2:
        return None
    rng = np.random.default_rng(seed)
    ours, theirs = (kind[rng.integers(0, len(kind), (draws, len(kind)))] for kind in (positive, negative))
    above = ours[:, :, None] > theirs[:, None]
    level = ours[:, :, None] == theirs[:, None]
    return _interval((above + 0.5 * level).mean(axis=(1, 2)))


def _row_ranks(values: npt.NDArray[Any]) -> Floats:
    """Rank each row of few values: (draw, value)."""
    below = (values[:, None] < values[:, :, None]).sum(axis=2)
    level = (values[:, None] == values[:, :, None]).sum(axis=2)
    shared: Floats = below + (level + 1) / 2
    return shared


def _correlation(first: Floats, second: Floats) -> Floats:
    """Pearson's correlation of each row; NaN where a side is constant."""
    a, b = (side - side.mean(axis=1, keepdims=True) for side in (first, second))
    scale = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    found: Floats = np.divide((a * b).sum(axis=1), scale, out=np.full(len(a), np.nan), where=scale > 0)
    return found


def _interval(values: Floats) -> Interval | None:
    held = values[~np.isnan(values)]
    if 2 * len(held) < len(values):
        return None
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(held, [tail, 1 - tail])
    return float(low), float(high)
