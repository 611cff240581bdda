"""All scores of one clip: every method, every sigma."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selrel.clips.camera import Camera, object_flow
from selrel.clips.flow import Rule, known, moving
from selrel.scores import agreement
from selrel.scores.metric import Maps, Row
from selrel.scores.metrics import metrics
from selrel.scores.nested import reach
from selrel.selective import SelectiveParameters, check_sigmas, levels

Cube = npt.NDArray[np.float32]


def score_clip(
    relevance: Mapping[str, Cube],
    flow: npt.NDArray[Any],
    n_valid: int,
    *,
    sigmas: Sequence[float],
    parameters: SelectiveParameters,
    camera: Camera | None = None,
    rule: Rule = "tau",
    tau: float = 0.5,
) -> tuple[list[Row], list[Row]]:
    """Score the explanations of one clip against its motion, and against each other.

    Parameters
    ----------
    relevance : mapping of method to float32 array, (time, y, x)
        Signed baseline relevance.
    flow : float array, (time, y, x, 2)
        Pixels per frame; NaN where unknown.
    n_valid : int
        Frames before the padding; no other frame is counted.
    sigmas : sequence of float
        Selective thresholds to score beside the baseline; ``parameters.sigma`` is not read.
    parameters : SelectiveParameters
        All other choices of the selective step.
    camera : float32 array, (time, 2, 3), optional
        The camera's motion (`selrel.clips.camera.camera_motion`, counted from the cube's first pixel); by
        default it stands still, and object motion is all motion.
    rule, tau
        When a voxel moves (`selrel.clips.flow.moving`).

    Returns
    -------
    scores : list of dict
        A row for each method and map, sigma ascending and 0 for the baseline: ``method``, ``sigma``,
        the sums, counts and ratios of every metric.
    agreements : list of dict
        A row for each pair of methods (``method_a``, ``method_b``, in the order given) and sigma.

    Raises
    ------
    ValueError
        If a cube's shape is not the flow's, a valid frame holds relevance that is not finite, or
        n_valid, a sigma, the rule or tau is not allowed.
    """
    check_sigmas(sigmas)
    steps = sorted(set(sigmas))
    _check_cubes(relevance, flow, n_valid)
    flow = flow.astype(np.float32, copy=False)
    counted = known(flow)
    counted[n_valid:] = False
    moves = moving(flow, rule=rule, tau=tau)[counted]
    by_itself = moves
    if camera is not None:
        by_itself = moving(object_flow(flow, camera), rule=rule, tau=tau)[counted]
    voxels = {"voxels": n_valid * flow.shape[1] * flow.shape[2]}
    maps = [0.0, *map(float, steps)]
    scores: list[Row] = []
    reaches = {}
    for method, cube in relevance.items():
        # A copy, since torch takes no read-only arrays, which is what comes out of stores and workers.
        selected = levels(torch.from_numpy(np.array(cube)), n_valid, steps, parameters).numpy()
        reaches[method] = reach(cube[counted], selected[counted])
        rows = _map_rows(Maps(cube[counted], moves, by_itself, reaches[method], len(maps)))
        for sigma, row in zip(maps, rows, strict=True):
            scores.append({"method": method, "sigma": sigma, **voxels, **row})
    agreements: list[Row] = []
    for a, b in combinations(reaches, 2):
        counts = agreement.nested_counts(reaches[a], reaches[b], len(maps))
        for sigma, counted_of in zip(maps, counts, strict=True):
            pair = {"method_a": a, "method_b": b, "sigma": sigma}
            agreements.append({**pair, **counted_of, **agreement.ratios(counted_of)})
    return scores, agreements


def _map_rows(maps: Maps) -> list[Row]:
    """Counts and ratios of one method's maps, the baseline first."""
    rows: list[Row] = [{} for _ in range(maps.n)]
    for metric in metrics():
        if metric.count is not None:
            for row, counted in zip(rows, metric.count(maps), strict=True):
                row.update(counted)
    for metric in metrics():
        if metric.ratios is not None:
            for row in rows:
                row.update(metric.ratios(row))
    return rows


def _check_cubes(relevance: Mapping[str, Cube], flow: npt.NDArray[Any], n_valid: int) -> None:
    if not 1 <= n_valid <= len(flow):
        raise ValueError(f"n_valid is {n_valid}; a clip of {len(flow)} frames has 1 to {len(flow)}")
    for method, cube in relevance.items():
        if cube.shape != flow.shape[:-1]:
            raise ValueError(
                f"relevance of {method} has shape {cube.shape}, the flow {flow.shape}; "
                "both must be of the same clip, (time, y, x) and (time, y, x, 2)"
            )
        unknown = np.count_nonzero(~np.isfinite(cube[:n_valid]))
        if unknown:
            raise ValueError(
                f"relevance of {method} has {unknown} values that are not finite in {n_valid} valid frames; "
                "its block is missing or damaged, explain it again"
            )
