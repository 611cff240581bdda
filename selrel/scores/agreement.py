"""Agreement: how much of a clip two explanations both find relevant (Hiley et al. 2020, Table 2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.metric import (
    CLIPS,
    MAP,
    Bools,
    Column,
    Counts,
    Metric,
    Part,
    Ratios,
    Row,
    Table,
    interval,
    share,
)  # fmt: skip
from selrel.scores.nested import reach, tally
from selrel.scores.summaries import STATISTICS, summary

# Section 5: C3D of 74 % accuracy, 12,219 clips of 1,010 videos of UCF-101. The selective maps are taken to be
# those of 2 sigma, which Table 3 fits.
_PAPER = (
    {"method_a": "deep_taylor", "method_b": "grad_cam", "sigma": 0.0, "mean": 0.3661, "std": 0.1384},
    {
        "method_a": "deep_taylor",
        "method_b": "guided_backprop",
        "sigma": 0.0,
        "mean": 0.0279,
        "std": 0.0178,
    },
    {
        "method_a": "grad_cam",
        "method_b": "guided_backprop",
        "sigma": 0.0,
        "mean": 0.0095,
        "std": 0.0048,
    },
)


def counts(a: npt.NDArray[Any], b: npt.NDArray[Any], counted: Bools) -> Counts:
    """Count what the agreement of two maps is made of.

    Parameters
    ----------
    a, b : float arrays, (time, y, x)
        Signed relevance of two methods on one clip, baseline or selective.
    counted : bool array, (time, y, x)
        Voxels that take part.

    Returns
    -------
    dict of int
        ``counted_voxels``, ``a_voxels`` and ``b_voxels`` (relevant in a, in b), ``both_voxels``,
        ``either_voxels``. All add up over clips.
    """
    voxels_a, voxels_b = a[counted], b[counted]
    none = np.zeros(voxels_a.shape, np.uint8)
    return nested_counts(reach(voxels_a, none), reach(voxels_b, none), 1)[0]


def nested_counts(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], n_maps: int) -> list[Counts]:
    """Count, as `counts` does, for the baselines and for the selective maps of each sigma.

    Parameters
    ----------
    a, b : uint8 arrays, (voxel,)
        Reach (`selrel.scores.nested.reach`) of two methods at the counted voxels of one clip.
    n_maps : int
        Number of maps, the baseline included.

    Returns
    -------
    list of dict
        One for each map, the baseline first.
    """
    a_voxels, b_voxels = tally(a, n_maps), tally(b, n_maps)
    both = tally(np.minimum(a, b), n_maps)
    columns = {
        "a_voxels": a_voxels,
        "b_voxels": b_voxels,
        "both_voxels": both,
        "either_voxels": a_voxels + b_voxels - both,
    }
    shared: Counts = {"counted_voxels": len(a)}
    return [shared | {name: column[i].item() for name, column in columns.items()} for i in range(n_maps)]


def ratios(counts: Mapping[str, int | float]) -> Ratios:
    """Divide the counts of `counts`, of one clip or of a sum of clips.

    Returns
    -------
    dict
        ``agreement`` = both / counted voxels, the reading that fits the paper's Table 2, and ``iou`` =
        both / either: 0..1, None where the denominator is 0.
    """
    return {
        "agreement": share(counts["both_voxels"], counts["counted_voxels"]),
        "iou": share(counts["both_voxels"], counts["either_voxels"]),
    }


def _row(part: Part) -> Row:
    """The values of Table 2.

    ``mean``, ``std``, ``low``, ``high`` of the agreement and ``iou_*`` of the intersection over union;
    ``n_clips`` that have an agreement, ``n_empty`` among them where neither finds anything relevant, so that
    the union is empty; ``n_uncounted``; ``no_interval``.
    """
    iou = summary(part, "iou")
    row = summary(part, "agreement") | {"n_empty": iou["n_empty"]}
    return row | {f"iou_{name}": iou[name] for name in STATISTICS}


_TABLE = Table(
    name="table2",
    title="Table 2. Agreement: how much two maps mark in common",
    short_title="Table 2. Agreement: the share of voxels that are relevant for both (%)",
    note="The share of all voxels that both maps mark; beside it, that share of the voxels which at least "
    "one of them marks.",
    order=30,
    columns=(
        Column("method", "Methods", "pair", "method", short="methods"),
        MAP,
        Column("mean", "Agreement, % (sd)", "mean", "agreement", short="mean (sd)"),
        interval("low"),
        Column("mean", "Paper, % (sd)", "mean", short="paper (sd)", paper=True),
        Column("iou_mean", "Intersection over union, % (sd)", "mean", "iou"),
        CLIPS,
    ),
    row=_row,
    needed=("agreement", "iou"),
    by=("method_a", "method_b", "sigma"),
    paper=_PAPER,
)
METRIC = Metric(
    terms={
        "agreement": ("Agreement", "Of all points, the share that both of two maps mark."),
        "iou": (
            "Intersection over union",
            "Of the points that at least one of two maps marks, the share that both mark.",
        ),
    },
    tables=(_TABLE,),
    scores=("agreement", "iou"),
    pairs=True,
)
