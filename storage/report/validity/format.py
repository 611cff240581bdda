"""How the page of a validity benchmark writes numbers and tables, and which of the maps is the default."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from storage.text import decimal

SIGMA = 2.0
# What a control is called; it takes as many voxels as the map it stands beside.
CONTROLS = {
    "random": "random voxels",
    "centre": "the frame's centre",
    "luma": "the brightest",
    "contrast": "the contrast to the frame",
    "change": "the picture's change",
    "flow": "the longest flow",
    "object_flow": "the longest flow less the camera's",
}


def default_map(table: pd.DataFrame, *, sigma: float | None = SIGMA) -> pd.DataFrame:
    """Give the rows of the default map: positive relevance, edge by magnitude, 2 sigma (None: every one)."""
    chosen = table[(table.edge == "magnitude") & (table["sign"] == "positive")]
    return chosen if sigma is None else chosen[chosen.sigma == sigma]


def of_use(validity: pd.DataFrame) -> pd.DataFrame:
    """Give the rows that hold the motion share against motion use, over all videos."""
    chosen = (validity.camera == "all") & (validity.measure == "motion_use") & (validity.what == "share")
    return validity[chosen]


def controls_of(localisation: pd.DataFrame) -> list[str]:
    """Give the controls that a table of localisation has, in its order."""
    return [name.removesuffix("_gain") for name in localisation.columns if name.endswith("_gain")]


def called(control: str) -> str:
    """What a control is called."""
    return CONTROLS.get(control, control)


def rows_of(frame: pd.DataFrame) -> list[Any]:
    """Give the rows, whose values have as many types as their columns."""
    return list(frame.itertuples())


def markdown(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a table."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def number(value: float | None) -> str:
    """Write a number of about 1; a dash for none."""
    return "-" if value is None or pd.isna(value) else decimal(value, 2)


def percent(value: float | None) -> str:
    """Write a share."""
    return "-" if value is None or pd.isna(value) else f"{decimal(100 * value, 0)} %"


def interval(row: Any, name: str) -> str:
    """Write a column's value of a row with its interval, where it has one."""
    value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
    if low is None or pd.isna(low):
        return number(value)
    return f"{number(value)} [{number(low)}, {number(high)}]"


def span(values: Any) -> str:
    """Write a mean with the least and the most."""
    return f"{number(values.mean())} ({number(values.min())} to {number(values.max())})"
