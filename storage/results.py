"""The tables that a report is made of: no more rows than a run can have, of the kinds that they must be."""

from __future__ import annotations

import pandas as pd
import pyarrow.compute as pc  # type: ignore[import-untyped]

from storage.forms import Stored, rows
from storage.runs import Run
from storage.stores.receipts import REPAIR
from storage.tables import DamagedTable, check_kinds, read_table

# More than any data set of actions has.
MAX_CLASSES = 2500
# Held as Python's values, more would take gigabytes.
MAX_ROWS = 10**6
CLIPS = {
    "clip": "integer", "video": "text", "class": "text", "group": "text", "start_frame": "integer",
    "correct": "flag",
}  # fmt: skip
SHOWN_CLIPS = {
    **CLIPS, "n_valid_frames": "integer", "predicted": "text", "target": "text",
}  # fmt: skip
_NAMES = ("method", "method_a", "method_b", "score")


def result_rows(run: Run, name: str) -> list[Stored]:
    """Read the rows of one of a finished run's aggregated tables.

    Raises
    ------
    FileNotFoundError
        If it is absent.
    DamagedTable
        If it holds more rows than the run's classes, methods and thresholds make, or values of another kind.
    """
    path, where = run.paths.table(name), run.root.join(run.paths.table(name))
    methods, maps = len(run.settings["methods"]), len(run.settings["sigmas"]) + 1
    classes = min(run.summary["clips"], MAX_CLASSES)
    # Pairs of methods on each map, or five scores of each method; and the few steps that are no method.
    most = min((1 + classes) * max(methods**2 * maps, 5 * methods + 1) + 10, MAX_ROWS)
    table = read_table(run.root, path, most_rows=most)
    check_kinds(table, {column: _kind(name, column) for column in table.column_names}, where)
    for low in (column for column in table.column_names if column.endswith("low")):
        high = f"{low[:-3]}high"
        if (
            high in table.column_names
            and not pc.all(pc.equal(table[low].is_null(), table[high].is_null()), min_count=0).as_py()
        ):
            raise DamagedTable(f"{where} has ends of intervals without the other end: {REPAIR}")
    return rows(table.to_pylist(), where)


def clip_rows(run: Run, kinds: dict[str, str]) -> pd.DataFrame:
    """Read the clips of a run, a row each.

    Raises
    ------
    FileNotFoundError
        If the table is absent.
    DamagedTable
        If it lacks a column, holds values of another kind, or a clip twice.
    """
    path, where = run.paths.table("clips"), run.root.join(run.paths.table("clips"))
    table = read_table(run.root, path)
    decisions = [name for name in table.column_names if name.startswith("decision")]
    check_kinds(table, kinds | dict.fromkeys(decisions, "number or none"), where)
    clips: pd.DataFrame = table.to_pandas()
    if clips.duplicated(["clip"]).any() or clips.duplicated(["video", "start_frame"]).any():
        raise DamagedTable(f"{where} holds a clip twice: {REPAIR}")
    return clips


def _kind(table: str, column: str) -> str:
    if table == "comparison" and column in ("class", "method", "sigma"):
        return "number or none" if column == "sigma" else "text or none"
    if column == "class":
        return "text or none"
    if column.endswith(("no_interval", "no_lift", "no_decision", "reads")):
        return "text or none"
    if column in _NAMES or (table == "reliance" and column in ("change", "target")):
        return "text"
    if column == "sigma":
        return "number"
    return "integer" if column == "n" or column.startswith("n_") else "number or none"
