"""Precision: the share of the relevant voxels that move (Hiley et al. 2020, equation 4.3.1).

A precision means nothing without the base rate, the share of all counted voxels that move, which is
what an explanation that points anywhere gets. Lift is precision over base rate, where enough moves: over a
base rate near 0, a handful of voxels would make it any number.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.nested import reach, tally

SHARES = (0.02, 0.05, 0.10, 0.20)
# A clip in which fewer of the voxels move has no lift.
LEAST_BASE_RATE = 0.01
NO_LIFT = f"fewer than {100 * LEAST_BASE_RATE:g} % of the voxels move in every clip that counts"
NOTHING_RELEVANT = "in no clip is anything relevant"

Counts = dict[str, int | float]
Ratios = dict[str, float | None]
Bools = npt.NDArray[np.bool_]


def counts(
    relevance: npt.NDArray[Any], moving: Bools, counted: Bools, selected: Bools | None = None
) -> Counts:
    """Count what the precision of one map is made of.

    Parameters
    ----------
    relevance : float array, (time, y, x)
        Signed baseline relevance.
    moving : bool array, (time, y, x)
        Voxels that move.
    counted : bool array, (time, y, x)
        Voxels of valid frames whose flow is known; no other is counted.
    selected : bool array, (time, y, x), optional
        A selective mask; without one the baseline is counted.

    Returns
    -------
    dict
        ``counted_voxels``, ``moving_voxels``, ``relevant_voxels``, ``relevant_moving_voxels`` (int);
        ``positive_relevance``, ``positive_relevance_moving`` (float, summed in float64). All add up
        over clips.
    """
    voxels = relevance[counted]
    levels = np.ones(voxels.shape, np.uint8) if selected is None else selected[counted].view(np.uint8)
    return nested_counts(voxels, moving[counted], reach(voxels, levels), 2)[1]


def nested_counts(
    relevance: npt.NDArray[Any], moving: Bools, reached: npt.NDArray[np.uint8], n_maps: int
) -> list[Counts]:
    """Count, as `counts` does, for the baseline and every selective map in one pass.

    Parameters
    ----------
    relevance, moving, reached : arrays, (voxel,)
        Of the counted voxels of one clip; ``reached`` from `selrel.scores.nested.reach`.
    n_maps : int
        Number of maps, the baseline included.

    Returns
    -------
    list of dict
        One for each map, the baseline first.
    """
    reached_moving, relevance_moving = reached[moving], relevance[moving]
    columns = {
        "relevant_voxels": tally(reached, n_maps),
        "relevant_moving_voxels": tally(reached_moving, n_maps),
        "positive_relevance": tally(reached, n_maps, weights=relevance),
        "positive_relevance_moving": tally(reached_moving, n_maps, weights=relevance_moving),
    }
    shared: Counts = {"counted_voxels": len(relevance), "moving_voxels": len(reached_moving)}
    return [shared | {name: column[i].item() for name, column in columns.items()} for i in range(n_maps)]


def ratios(counts: Mapping[str, int | float]) -> Ratios:
    """Divide the counts of `counts`, of one clip or of a sum of clips.

    Returns
    -------
    dict
        ``precision``, ``base_rate``, ``lift``, ``weighted_precision`` (the share of the positive
        relevance that lies on moving voxels): 0..1, lift 0 or more; None where the denominator is 0, and the
        lift also where the base rate is below `LEAST_BASE_RATE`.
    """
    precision = share(counts["relevant_moving_voxels"], counts["relevant_voxels"])
    base_rate = share(counts["moving_voxels"], counts["counted_voxels"])
    lift = None
    if precision is not None and base_rate is not None and base_rate >= LEAST_BASE_RATE:
        lift = precision / base_rate
    return {
        "precision": precision,
        "base_rate": base_rate,
        "lift": lift,
        "weighted_precision": share(counts["positive_relevance_moving"], counts["positive_relevance"]),
    }


def area_matched(
    relevance: npt.NDArray[Any],
    moving: Bools,
    counted: Bools,
    selected: Bools | None = None,
    *,
    shares: Sequence[float] = SHARES,
) -> Ratios:
    """Compute the precision of the voxels with the highest relevance, at areas equal for every method.

    Parameters
    ----------
    relevance, moving, counted, selected : arrays, (time, y, x)
        As `counts` takes them.
    shares : sequence of float
        Areas, as shares of the N counted voxels; the area is round(share * N) voxels.

    Returns
    -------
    dict
        ``area_precision_2`` for the share 0.02, and so on: 0..1. None where fewer voxels than the area
        have positive relevance, since the area could then only be matched by voxels that the
        explanation does not point at, or where the area rounds to none.

    Notes
    -----
    Voxels of equal relevance across the area's limit are taken in equal parts: the result is the
    expected precision of a random choice among them, and does not depend on their order.
    """
    voxels = relevance[counted]
    levels = np.ones(voxels.shape, np.uint8) if selected is None else selected[counted].view(np.uint8)
    return nested_area_matched(voxels, moving[counted], reach(voxels, levels), 2, shares=shares)[1]


def nested_area_matched(
    relevance: npt.NDArray[Any],
    moving: Bools,
    reached: npt.NDArray[np.uint8],
    n_maps: int,
    *,
    shares: Sequence[float] = SHARES,
) -> list[Ratios]:
    """Compute `area_matched` for the baseline and every selective map from one sort.

    Parameters
    ----------
    relevance, moving, reached, n_maps
        As `nested_counts` takes them.
    shares : sequence of float
        Areas, as shares of the counted voxels.

    Returns
    -------
    list of dict
        One for each map, the baseline first.
    """
    relevant = reached > 0
    ranks, moves, reaches = -relevance[relevant], moving[relevant], reached[relevant]
    falling = np.argsort(ranks)
    ranks, moves, reaches = ranks[falling], moves[falling], reaches[falling]
    areas = {f"area_precision_{100 * area:g}": round(area * len(relevance)) for area in shares}
    result = []
    for i in range(n_maps):
        # Each map lies in the one before, so what is left gets shorter from map to map.
        held = np.flatnonzero(reaches > i)
        ranks, moves, reaches = ranks[held], moves[held], reaches[held]
        result.append({name: _top_precision(ranks, moves, area) for name, area in areas.items()})
    return result


def share(part: float, whole: float) -> float | None:
    """Divide, and give None where the whole is 0."""
    return part / whole if whole else None


def _top_precision(ranks: npt.NDArray[Any], moves: Bools, area: int) -> float | None:
    """Share of movers among the first ``area`` voxels, ranks ascending; ties count in equal parts."""
    if not 0 < area <= len(ranks):
        return None
    first = int(np.searchsorted(ranks, ranks[area - 1], side="left"))
    last = int(np.searchsorted(ranks, ranks[area - 1], side="right"))
    certain = np.count_nonzero(moves[:first])
    tied = np.count_nonzero(moves[first:last])
    return float((certain + tied * (area - first) / (last - first)) / area)
