"""Selectivity: what a selective map keeps of its baseline (Hiley et al. 2020, section 4.3.2, Table 3)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.precision import Counts, Ratios, share

Bools = npt.NDArray[np.bool_]


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
