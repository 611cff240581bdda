"""All scores of one clip: every method, every sigma."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selrel.clips.camera import Camera, object_flow
from selrel.clips.flow import Rule, known, moving
from selrel.scores import agreement, object_motion, precision, recall, selectivity
from selrel.scores.nested import reach
from selrel.selective import SelectiveParameters, check_sigmas, levels

Row = dict[str, Any]
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
        the sums and counts, then the ratios.
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
        rows = _map_rows(cube[counted], moves, by_itself, reaches[method], len(maps))
        for sigma, row in zip(maps, rows, strict=True):
            scores.append({"method": method, "sigma": sigma, **voxels, **row})
    return scores, _agreement_rows(reaches, maps)


def _map_rows(
    cube: Cube,
    moves: npt.NDArray[np.bool_],
    by_itself: npt.NDArray[np.bool_],
    reached: npt.NDArray[np.uint8],
    n: int,
) -> list[Row]:
    """Counts and ratios of one method's maps, the baseline first."""
    counts = precision.nested_counts(cube, moves, reached, n)
    areas = precision.nested_area_matched(cube, moves, reached, n)
    objects = precision.nested_counts(cube, by_itself, reached, n)
    baseline = {
        "baseline_voxels": counts[0]["relevant_voxels"],
        "baseline_relevance": counts[0]["positive_relevance"],
    }
    return [
        {
            **row,
            **baseline,
            **precision.ratios(row),
            **selectivity.ratios(row | baseline),
            **area,
            **recall.ratios(row),
            **_object_columns(row, own),
        }
        for row, area, own in zip(counts, areas, objects, strict=True)
    ]


def _object_columns(counts: precision.Counts, of_objects: precision.Counts) -> Row:
    named = object_motion.of_objects(of_objects)
    return {**named, **object_motion.ratios(counts | named)}


def _agreement_rows(reaches: Mapping[str, npt.NDArray[np.uint8]], maps: Sequence[float]) -> list[Row]:
    rows: list[Row] = []
    for a, b in combinations(reaches, 2):
        counts = agreement.nested_counts(reaches[a], reaches[b], len(maps))
        for sigma, row in zip(maps, counts, strict=True):
            rows.append({"method_a": a, "method_b": b, "sigma": sigma, **row, **agreement.ratios(row)})
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
