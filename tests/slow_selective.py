"""The selective step and the scores restated slowly, voxel by voxel in float64, from the formulas."""

import math
from collections.abc import Sequence

Voxel = tuple[int, int, int]
Cube = Sequence[Sequence[Sequence[float]]]

SMOOTHING = {-1: 1 / 4, 0: 2 / 4, 1: 1 / 4}
DERIVATIVE = {-1: -1 / 2, 1: 1 / 2}


def voxels(n_frames: int, height: int, width: int) -> list[Voxel]:
    return [(t, y, x) for t in range(n_frames) for y in range(height) for x in range(width)]


def slow_edges(cube: Cube, border: str = "replicate") -> dict[Voxel, float]:
    """Edge of every voxel of a (time, y, x) cube as a dict, by the 27 coefficients of the kernel."""
    n_frames, height, width = len(cube), len(cube[0]), len(cube[0][0])

    def value(t: int, y: int, x: int) -> float:
        if border == "zero" and not 0 <= t < n_frames:
            return 0.0
        t, y, x = (min(max(i, 0), n - 1) for i, n in ((t, n_frames), (y, height), (x, width)))
        return float(cube[t][y][x])

    return {
        (t, y, x): math.fsum(
            d * a * b * value(t + dt, y + dy, x + dx)
            for dt, d in DERIVATIVE.items()
            for dy, a in SMOOTHING.items()
            for dx, b in SMOOTHING.items()
        )
        for t, y, x in voxels(n_frames, height, width)
    }


def slow_mask(
    cube: Cube,
    n_valid: int,
    *,
    sigma: float = 2.0,
    edge: str = "magnitude",
    border: str = "replicate",
    floor: float = 1e-6,
) -> set[Voxel]:
    """Selected voxels of a (time, y, x) cube, as a set of (t, y, x)."""
    valid = cube[:n_valid]
    sign = {"magnitude": abs, "rising": lambda e: e, "falling": lambda e: -e}[edge]
    edges = {voxel: sign(e) for voxel, e in slow_edges(valid, border).items()}
    mean = math.fsum(edges.values()) / len(edges)
    deviation = math.sqrt(math.fsum((e - mean) ** 2 for e in edges.values()) / len(edges))
    largest = max(abs(float(valid[t][y][x])) for t, y, x in edges)
    return {voxel for voxel, e in edges.items() if e > sigma * deviation and e > floor * largest}


def slow_area_precision(values: list[float], moves: list[bool], n_counted: int, share: float) -> float | None:
    """Expected precision of the ``share`` of voxels with the highest of the positive values, or None."""
    area = round(share * n_counted)
    if area < 1 or area > sum(value > 0 for value in values):
        return None
    expected = 0.0
    for value, move in zip(values, moves, strict=True):
        above = sum(other > value for other in values)
        equal = sum(other == value for other in values)
        chance = min(max((area - above) / equal, 0), 1) if value > 0 else 0
        expected += chance * move
    return expected / area
