"""What rounding the cubes to float16 changes in the tables, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from selrel.scores import score_clip
from selrel.scores.aggregate import build
from selrel.scores.cells import score_cells
from selrel.scores.metrics import tables
from selrel.selective import SIGMAS, SelectiveParameters
from storage.arrays.cubes import decode, encode

Cubes = Mapping[str, np.ndarray]
Tables = dict[str, list[dict[str, Any]]]


def tables_of(cubes: Cubes, flow: np.ndarray, *, n_groups: int = 4) -> Tables:
    """Tables 1 to 3 and the sweep of float32 cubes (clip, time, y, x) by method."""
    scores: list[dict[str, Any]] = []
    agreements: list[dict[str, Any]] = []
    for clip in range(len(flow)):
        found = score_clip(
            {name: cube[clip] for name, cube in cubes.items()},
            flow[clip],
            flow.shape[1],
            sigmas=SIGMAS,
            parameters=SelectiveParameters(),
        )
        labels = {"clip": clip, "class": "all", "group": f"all/g{clip % n_groups:02d}"}
        for rows, new in zip((scores, agreements), found, strict=True):
            rows.extend({**labels, **row} for row in new)
    of_scores, of_pairs = score_cells([columns(scores)]), score_cells([columns(agreements)], pairs=True)
    return {
        name: build(tables()[name], of_pairs if name == "table2" else of_scores)
        for name in ("table1", "table2", "table3", "sweep")
    }


def columns(rows: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    frame = pd.DataFrame(rows)
    return {str(name): frame[name].to_numpy() for name in frame.columns}


def rounded(cubes: Cubes) -> dict[str, np.ndarray]:
    """The cubes as they come back from a store."""
    return {name: decode(*encode(cube)) for name, cube in cubes.items()}


def changes(before: Tables, after: Tables) -> Iterator[tuple[str, float]]:
    """How much every entry changes: shares in points of a hundred, lifts in tenths.

    The tables are printed with shares to 0.1 points and lifts to 0.01: 0.05 is half a printed digit of both.
    An end of an interval of few groups is Student's t away from the mean, and moves by that much more: where
    the interval is wider than 5 points or tenths, 0.05 stands for a hundredth of its width.
    """
    for name, rows in before.items():
        for row, other in zip(rows, after[name], strict=True):
            where = f"{name} {row.get('method') or row['method_a']} {row.get('sigma', '')}"
            for key, value in row.items():
                if isinstance(value, float) and key != "sigma":
                    unit = 10 if key.startswith("lift") else 100
                    change = unit * abs(value - other[key])
                    if key.endswith(("low", "high")):
                        of = key.removesuffix("low").removesuffix("high")
                        change /= max(1.0, unit * (row[f"{of}high"] - row[f"{of}low"]) / 5)
                    yield f"{where} {key}", change
