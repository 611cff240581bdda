"""Scores of one clip against truth that a drawn video has: every method, edge, sign and sigma."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from selrel.scores.localisation import hits_by_area
from selrel.scores.nested import reach, tally
from selrel.selective import Edge, SelectiveParameters, levels

Row = dict[str, Any]
Cube = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

EDGES: tuple[Edge, ...] = get_args(Edge)
SIGNS = {"positive": 1, "negative": -1}
# The truth that the controls are held against.
DECIDING = "object"


def score_truth(
    relevance: Mapping[str, Cube],
    truths: Mapping[str, Bools],
    orders: Mapping[str, npt.NDArray[np.intp]],
    *,
    sigmas: Sequence[float],
    parameters: SelectiveParameters,
) -> list[Row]:
    """Count what the explanations of one clip find of what is true.

    Parameters
    ----------
    relevance : mapping of method to float32 array, (time, y, x)
        Signed baseline relevance; every frame is valid.
    truths : mapping of str to bool array, (time, y, x)
        The true voxels, by what they are; ``object`` is among them.
    orders : mapping of str to int array, (voxel,)
        Controls, from `selrel.scores.localisation.control_orders`.
    sigmas : sequence of float
        Selective thresholds, ascending.
    parameters : SelectiveParameters
        All other choices but the edge, of which every one is scored.

    Returns
    -------
    list of dict
        A row for each method, ``edge``, ``sign`` of the relevance and ``sigma`` (0: the baseline, in rows of
        the edge ``magnitude`` only): ``voxels`` of the clip, ``chosen`` of the map, ``relevance`` on them and
        ``baseline_relevance``; for each truth ``<truth>_voxels``, ``<truth>_hits`` and ``<truth>_relevance``;
        for each control ``<control>_hits`` of the object. All add up over clips.
    """
    flat = {name: mask.ravel() for name, mask in truths.items()}
    controls = {name: hits_by_area(order, flat[DECIDING]) for name, order in orders.items()}
    rows: list[Row] = []
    for method, cube in relevance.items():
        for edge in EDGES:
            chosen = replace(parameters, edge=edge)
            selected = levels(torch.from_numpy(np.array(cube)), len(cube), sigmas, chosen).numpy().ravel()
            for sign, factor in SIGNS.items():
                maps = _maps(factor * cube.ravel(), selected, [0.0, *sigmas], flat, controls)
                about = {"method": method, "edge": edge, "sign": sign}
                rows += [{**about, **row} for row in maps if row["sigma"] or edge == EDGES[0]]
    return rows


def _maps(
    cube: Cube,
    selected: npt.NDArray[np.uint8],
    sigmas: Sequence[float],
    truths: Mapping[str, Bools],
    controls: Mapping[str, npt.NDArray[np.int64]],
) -> list[Row]:
    """Count the baseline and every selective map of one sign."""
    reached, n = reach(cube, selected), len(sigmas)
    columns: dict[str, npt.NDArray[Any]] = {
        "chosen": tally(reached, n),
        "relevance": tally(reached, n, weights=cube),
    }
    for name, mask in truths.items():
        columns[f"{name}_hits"] = tally(reached[mask], n)
        columns[f"{name}_relevance"] = tally(reached[mask], n, weights=cube[mask])
    for name, hits in controls.items():
        columns[f"{name}_hits"] = hits[columns["chosen"]]
    shared = {
        "voxels": len(cube),
        "baseline_relevance": float(columns["relevance"][0]),
        **{f"{name}_voxels": int(mask.sum()) for name, mask in truths.items()},
    }
    return [
        {"sigma": float(sigma), **shared, **{name: column[i].item() for name, column in columns.items()}}
        for i, sigma in enumerate(sigmas)
    ]
