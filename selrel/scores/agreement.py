"""Agreement: how much of a clip two explanations both find relevant (Hiley et al. 2020, Table 2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.nested import reach, tally
from selrel.scores.precision import Counts, Ratios, share

Bools = npt.NDArray[np.bool_]


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
