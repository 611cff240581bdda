"""Selectivity: what a selective map keeps of its baseline (Hiley et al. 2020, section 4.3.2, Table 3)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.cells import Cells, check_columns
from selrel.scores.metric import (
    CLIPS,
    EMPTY,
    METHOD,
    Bools,
    Column,
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
from selrel.scores.nested import tally
from selrel.scores.summaries import COUNTS, STATISTICS, summary

SIGMA = 2.0
# Section 5: C3D of 74 % accuracy, 12,219 clips of 1,010 videos of UCF-101. The selective maps are taken to be
# those of 2 sigma, which Table 3 fits.
_PAPER = (
    {
        "method": "deep_taylor",
        "sigma": 2.0,
        "voxels_mean": 0.077,
        "voxels_std": 0.041,
        "relevance_mean": 0.105,
        "relevance_std": 0.071,
    },
    {
        "method": "grad_cam",
        "sigma": 2.0,
        "voxels_mean": 0.047,
        "voxels_std": 0.007,
        "relevance_mean": 0.026,
        "relevance_std": 0.003,
    },
    {
        "method": "guided_grad_cam",
        "sigma": 2.0,
        "voxels_mean": 0.419,
        "voxels_std": 0.078,
        "relevance_mean": 0.369,
        "relevance_std": 0.076,
    },
)


def counts(baseline: npt.NDArray[Any], selected: Bools, counted: Bools) -> Counts:
    """Count what the selectivity of one map is made of.

    Parameters
    ----------
    baseline : float array, (time, y, x)
        Signed baseline relevance.
    selected : bool array, (time, y, x)
        The selective mask.
    counted : bool array, (time, y, x)
        Voxels that take part.

    Returns
    -------
    dict
        ``relevant_voxels`` and ``positive_relevance`` of the selective map, ``baseline_voxels`` and
        ``baseline_relevance`` of the baseline; sums in float64. All add up over clips.
    """
    positive = counted & (baseline > 0)
    kept = positive & selected
    return {
        "relevant_voxels": int(np.count_nonzero(kept)),
        "positive_relevance": float(baseline[kept].sum(dtype=np.float64)),
        "baseline_voxels": int(np.count_nonzero(positive)),
        "baseline_relevance": float(baseline[positive].sum(dtype=np.float64)),
    }


def ratios(counts: Mapping[str, int | float]) -> Ratios:
    """Divide the counts of `counts`, of one clip or of a sum of clips.

    Returns
    -------
    dict
        ``kept_voxels``, the share of the baseline's positive voxels, and ``kept_relevance``, the share
        of its positive relevance, that the map keeps: 0..1, None where the baseline has none.
    """
    return {
        "kept_voxels": share(counts["relevant_voxels"], counts["baseline_voxels"]),
        "kept_relevance": share(counts["positive_relevance"], counts["baseline_relevance"]),
    }


def motion_share(cells: Cells, *, method: str = "deep_taylor", sigma: float = SIGMA) -> Row:
    """Compute a checkpoint's motion share: the part of the positive relevance that changes over time.

    Parameters
    ----------
    cells : Cells
        Those of `selrel.scores.cells.score_cells`.
    method : str
        The explanation.
    sigma : float
        Threshold of the selective map; it must have been scored.

    Returns
    -------
    dict
        ``method``, ``sigma``; ``mean``, ``std``, ``low``, ``high`` of the share of relevance kept;
        ``n_clips``, ``n_empty``, ``n_uncounted``; ``no_interval``.

    Raises
    ------
    ValueError
        If a score is missing or the method was not scored at sigma.
    """
    needed = ("kept_relevance", "uncounted")
    check_columns(cells.names, ("method", "sigma", *needed))
    labels = cells.labels
    chosen = np.flatnonzero((labels["method"] == method) & (labels["sigma"] == sigma))
    if not len(chosen):
        scored = ", ".join(sorted(set(labels["method"].tolist())))
        raise ValueError(f"no score of {method!r} at sigma {sigma}; scored methods are: {scored}")
    part = {name: cells.of_groups(name, chosen, labels["group"][chosen]) for name in needed}
    return {"method": method, "sigma": sigma, **summary(part, "kept_relevance")}


def _count(maps: Maps) -> list[Row]:
    """What the baseline has, which is the same beside every map."""
    baseline = {
        "baseline_voxels": tally(maps.reached, maps.n)[0].item(),
        "baseline_relevance": tally(maps.reached, maps.n, weights=maps.relevance)[0].item(),
    }
    return [baseline] * maps.n


def _row(part: Part) -> Row:
    """The values of Table 3.

    ``voxels_mean``, ``voxels_std``, ``voxels_low``, ``voxels_high`` of the share of voxels kept,
    ``relevance_*`` of the share of relevance kept; ``n_clips``, ``n_empty`` where the baseline has nothing
    relevant, ``n_uncounted``; ``no_interval``.
    """
    row: Row = {}
    for name in ("voxels", "relevance"):
        found = summary(part, f"kept_{name}")
        row |= {f"{name}_{statistic}": found[statistic] for statistic in STATISTICS}
    return row | {name: found[name] for name in (*COUNTS, "no_interval")}


_TABLE = Table(
    name="table3",
    title="Table 3. Selectivity: what the selective step keeps",
    short_title="Table 3. Selectivity: what the selective map of 2 sigma keeps (%)",
    note="The share of a method's marked voxels, and of its positive relevance, that changes over time.",
    order=40,
    columns=(
        METHOD,
        Column("voxels_mean", "Voxels kept, % (sd)", "mean", "kept_voxels", short="voxels (sd)"),
        interval("voxels_low", "Voxels, 95 %", short=""),
        Column("voxels_mean", "Paper: voxels", "mean", short="paper voxels", paper=True),
        Column("relevance_mean", "Relevance kept, % (sd)", "mean", "kept_relevance", short="relevance (sd)"),
        interval("relevance_low", "Relevance, 95 %"),
        Column("relevance_mean", "Paper: relevance", "mean", short="relevance", paper=True),
        CLIPS,
        EMPTY,
    ),
    row=_row,
    needed=("kept_voxels", "kept_relevance"),
    sigmas="selective",
    paper=_PAPER,
)
METRIC = Metric(
    terms={
        "share": (
            "Motion share",
            "The part of the positive relevance that the selective step keeps at the usual threshold (2 "
            "standard deviations) by deep Taylor, averaged over clips: how much of the evidence changes "
            "over time.",
        ),
        "kept_voxels": (
            "Voxels kept",
            "Of the points that a method marks, the share left by the selective step.",
        ),
        "kept_relevance": (
            "Relevance kept",
            "Of a method's positive relevance, the share left by the selective step.",
        ),
    },
    tables=(_TABLE,),
    count=_count,
    ratios=ratios,
    scores=("kept_voxels", "kept_relevance"),
    swept=(
        Column("kept_relevance", "Relevance kept, %", term="kept_relevance", chart="Relevance kept"),
        Column("kept_voxels", "Voxels kept, %", term="kept_voxels", chart="Voxels kept"),
    ),
    compared=("kept_relevance",),
    of_baseline=False,
)
