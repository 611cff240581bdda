"""Precision: the share of the relevant voxels that move (Hiley et al. 2020, equation 4.3.1).

A precision means nothing without the base rate, the share of all counted voxels that move, which is
what an explanation that points anywhere gets. Lift is precision over base rate, where enough moves: over a
base rate near 0, a handful of voxels would make it any number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.metric import (
    CLIPS,
    EMPTY,
    MAP,
    METHOD,
    Bools,
    Column,
    Columns,
    Counts,
    Maps,
    Metric,
    Part,
    Ratios,
    Row,
    Table,
    interval,
    share,
)  # fmt: skip
from selrel.scores.nested import reach, tally
from selrel.scores.summaries import interval_of, joined, summary

SHARES = (0.02, 0.05, 0.10, 0.20)
# A clip in which fewer of the voxels move has no lift.
LEAST_BASE_RATE = 0.01
NO_LIFT = f"fewer than {100 * LEAST_BASE_RATE:g} % of the voxels move in every clip that counts"
NOTHING_RELEVANT = "in no clip is anything relevant"

# Section 5: C3D of 74 % accuracy, 12,219 clips of 1,010 videos of UCF-101. The selective maps are taken to be
# those of 2 sigma, which Table 3 fits.
_PAPER = (
    {"method": "deep_taylor", "sigma": 0.0, "mean": 0.2779, "std": 0.1672},
    {"method": "deep_taylor", "sigma": 2.0, "mean": 0.4109, "std": 0.1889},
    {"method": "grad_cam", "sigma": 0.0, "mean": 0.2817, "std": 0.1678},
    {"method": "grad_cam", "sigma": 2.0, "mean": 0.3612, "std": 0.1711},
    {"method": "guided_backprop", "sigma": 0.0, "mean": 0.4748, "std": 0.1744},
    {"method": "guided_grad_cam", "sigma": 0.0, "mean": 0.4289, "std": 0.1703},
    {"method": "guided_grad_cam", "sigma": 2.0, "mean": 0.4576, "std": 0.1712},
)
_AREAS = tuple(f"area_precision_{100 * area:g}" for area in SHARES)


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


def _top_precision(ranks: npt.NDArray[Any], moves: Bools, area: int) -> float | None:
    """Share of movers among the first ``area`` voxels, ranks ascending; ties count in equal parts."""
    if not 0 < area <= len(ranks):
        return None
    first = int(np.searchsorted(ranks, ranks[area - 1], side="left"))
    last = int(np.searchsorted(ranks, ranks[area - 1], side="right"))
    certain = np.count_nonzero(moves[:first])
    tied = np.count_nonzero(moves[first:last])
    return float((certain + tied * (area - first) / (last - first)) / area)


def lift_sums(kind: str = "") -> tuple[str, str]:
    """Names of the scores whose sums make a lift: precision and base rate of the clips that have one."""
    return f"{kind}lift_precision", f"{kind}lift_base_rate"


def of_lift(columns: Columns, kind: str = "") -> Columns:
    """The base rates of the clips that have a precision, and both of those that have a lift."""
    precision, rate = (np.asarray(columns[f"{kind}{n}"], np.float64) for n in ("precision", "base_rate"))
    rate = np.where(np.isnan(precision), np.nan, rate)
    of_precision, of_base_rate = (
        np.where(rate >= LEAST_BASE_RATE, values, np.nan) for values in (precision, rate)
    )
    names = lift_sums(kind)
    return {f"{kind}base_rate": rate, names[0]: of_precision, names[1]: of_base_rate}


def lift(part: Part, kind: str = "") -> Row:
    """Mean precision over mean base rate of the clips that have a lift.

    A mean of the clips' own lifts would be ruled by clips in which next to nothing moves.
    """
    ours, base = (part[name] for name in lift_sums(kind))
    base_rate = part[f"{kind}base_rate"].mean
    value = share(float(ours.total.sum()), float(base.total.sum()))
    found = interval_of(ours.total, base.total, "positive")
    row = {
        "base_rate": base_rate,
        "lift": value,
        "lift_low": found["low"],
        # Of clips that have a lift, none has a larger one.
        "lift_high": None if found["high"] is None else min(found["high"], 1 / LEAST_BASE_RATE),
        "lift_clips": int(ours.n.sum()),
        "no_lift": None if value is not None else NOTHING_RELEVANT if base_rate is None else NO_LIFT,
    }
    reason = None if value is None else found["no_interval"]
    return {**{f"{kind}{name}": value for name, value in row.items()}, "no_interval": reason}


def _count(maps: Maps) -> list[Row]:
    counted = nested_counts(maps.relevance, maps.moving, maps.reached, maps.n)
    areas = nested_area_matched(maps.relevance, maps.moving, maps.reached, maps.n)
    return [{**row, **area} for row, area in zip(counted, areas, strict=True)]


def _row(part: Part) -> Row:
    """The values of Table 1.

    ``mean``, ``std``, ``low``, ``high`` of the precision; ``n_clips`` that have one, ``n_empty`` where
    nothing is relevant, ``n_uncounted`` without any voxel of known flow; ``base_rate`` of the clips that
    have a precision; ``lift`` with ``lift_low`` and ``lift_high``: mean precision over mean base rate of
    the ``lift_clips`` that have a lift; means of ``weighted_precision`` and of each ``area_precision_*``,
    the latter with ``area_clips_*``, the clips that could fill the area; ``no_interval`` and ``no_lift``.
    """
    areas: Row = {}
    for name in _AREAS:
        areas |= {name: part[name].mean, name.replace("precision", "clips"): int(part[name].n.sum())}
    row = {**summary(part, "precision"), "weighted_precision": part["weighted_precision"].mean, **areas}
    return joined(row, lift(part))


_BASE_RATE = Column("base_rate", "Base rate, %", term="base_rate", short="base")
_LIFT = Column("lift", "Lift", "ratio", "lift", short="lift", reason="no_lift")
_TABLE1 = Table(
    name="table1",
    title="Table 1. Precision: how much of what a map marks does move",
    short_title="Table 1. Precision: the share of relevant voxels that move (%)",
    note="The share of marked voxels (relevance above 0) that move. The base rate is the share of all "
    "voxels that move, which is what a map that points anywhere at random scores; lift is precision over "
    "base rate, so 1 is chance, of the clips in which at least 1 % of the voxels move. Weighted: the "
    "precision with every voxel counted by its relevance. Empty: clips in which nothing is relevant.",
    order=10,
    columns=(
        METHOD,
        MAP,
        Column("mean", "Precision, % (sd)", "mean", "precision", short="mean (sd)"),
        interval("low"),
        Column("mean", "Paper, % (sd)", "mean", short="paper (sd)", paper=True),
        _BASE_RATE,
        _LIFT,
        Column("lift_low", "Lift, 95 %", "ratio range", "interval", reason="no_interval", drawn=True),
        Column("weighted_precision", "Weighted, %", term="weighted"),
        CLIPS,
        EMPTY,
    ),
    row=_row,
    needed=("precision", *lift_sums(), "base_rate", "weighted_precision", *_AREAS),
    paper=_PAPER,
)
_EQUAL_AREAS = Table(
    name="areas",
    title="Table 1, at equal areas: the precision of only the most relevant voxels",
    note="Dense and sparse maps compare only when as many voxels of each are taken: the 2 to 20 % of all "
    "voxels with the highest relevance. A clip counts only where the map marks that many voxels; [n] is how "
    "many clips do, where not all. A selective map rarely marks 20 %: its last columns are of few, "
    "untypical clips, and must not be read against the baseline's.",
    order=11,
    columns=(
        METHOD,
        MAP,
        *(
            Column(name, f"Top {100 * area:g} %", "filled", "area")
            for name, area in zip(_AREAS, SHARES, strict=True)
        ),
        _BASE_RATE,
        CLIPS,
    ),
    rows_of="table1",
)
METRIC = Metric(
    terms={
        "precision": ("Precision", "Of the points that a map marks, the share that moves."),
        "weighted": ("Weighted precision", "Precision with every point counted by its relevance."),
        "area": (
            "Top 2 to 20 %",
            "Precision of only the most relevant points, as many as that share of the clip.",
        ),
        "base_rate": (
            "Base rate",
            "The share of all points that move: the precision of marking points at random.",
        ),
        "lift": (
            "Lift",
            "Precision over base rate. 1 is no better than chance, 2 is twice as good. Where fewer than 1 % "
            "of the points move there is none: a handful of points would make it any number.",
        ),
        "empty": ("Empty", "Clips in which a map has no positive point at all."),
    },
    tables=(_TABLE1, _EQUAL_AREAS),
    count=_count,
    ratios=ratios,
    scores=("precision", "base_rate", "weighted_precision", *_AREAS),
    derived=lift_sums(),
    derive=of_lift,
    swept=(
        Column("precision", "Precision, %", term="precision", chart="Precision: marked voxels that move"),
        _BASE_RATE,
        replace(_LIFT, chart="Lift over the base rate (1 is chance)"),
    ),
    compared=("precision", "lift"),
)
