"""Tables 1 to 4, the sweep and the classes: their columns, titles and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from storage.report.figures import (
    Row,
    count,
    lift,
    map_name,
    mean_and_deviation,
    milliseconds,
    number,
    number_range,
    percent,
    percent_range,
    reasons,
    same_row,
    without_interval,
)

Cell = Callable[[Row, Row], str]

MAIN_METHOD = "deep_taylor"


def main_method(methods: Iterable[str]) -> str:
    """The method that stands for a run where one has to do: deep Taylor, or the first by name."""
    return MAIN_METHOD if MAIN_METHOD in methods else min(methods)


def _top(share: int) -> Cell:
    def cell(row: Row, paper: Row) -> str:
        """The precision at an area, and in how many clips the map marks that much."""
        clips, value = row.get(f"area_clips_{share}"), row[f"area_precision_{share}"]
        filled = "" if value is None or clips in (None, row["n_clips"]) else f" [{count(clips)}]"
        return percent(value, "") + filled

    return cell


def _compared(row: Row, name: str) -> str:
    """A score of a comparison, per cent but for the lift."""
    return number(row[name]) if row["score"] == "lift" else percent(row[name], "")


# Column heading to what stands in it, given our row and the paper's row (empty where it has none).
COLUMNS: dict[str, dict[str, Cell]] = {
    "reliance": {
        "Change": lambda row, paper: row["change"],
        "Asked about": lambda row, paper: f"the {row['target']} class",
        "Reliance, %": lambda row, paper: "none" if row["reliance"] is None else percent(row["reliance"], ""),
        "95 % interval": lambda row, paper: percent_range(row),
        "Answers kept, %": lambda row, paper: percent(row["kept"], ""),
        "Right as it is, %": lambda row, paper: percent(row["intact_accuracy"], ""),
        "Right when changed, %": lambda row, paper: percent(row["accuracy"], ""),
        "Clips": lambda row, paper: count(row["n_clips"]),
    },
    "table1": {
        "Method": lambda row, paper: row["method"],
        "Map": lambda row, paper: map_name(row["sigma"]),
        "Precision, % (sd)": lambda row, paper: mean_and_deviation(row),
        "95 % interval": lambda row, paper: percent_range(row),
        "Paper, % (sd)": lambda row, paper: mean_and_deviation(paper),
        "Base rate, %": lambda row, paper: percent(row["base_rate"], ""),
        "Lift": lambda row, paper: lift(row),
        "Lift, 95 %": lambda row, paper: number_range(row, "lift_low", "lift_high"),
        "Weighted, %": lambda row, paper: percent(row["weighted_precision"], ""),
        "Clips": lambda row, paper: count(row["n_clips"]),
        "Empty": lambda row, paper: count(row["n_empty"]),
    },
    "areas": {
        "Method": lambda row, paper: row["method"],
        "Map": lambda row, paper: map_name(row["sigma"]),
        "Top 2 %": _top(2),
        "Top 5 %": _top(5),
        "Top 10 %": _top(10),
        "Top 20 %": _top(20),
        "Base rate, %": lambda row, paper: percent(row["base_rate"], ""),
        "Clips": lambda row, paper: count(row["n_clips"]),
    },
    "object_motion": {
        "Method": lambda row, paper: row["method"],
        "Map": lambda row, paper: map_name(row["sigma"]),
        "Recall of all motion, %": lambda row, paper: percent(row["recall"], ""),
        "Object precision, %": lambda row, paper: percent(row["object_precision"], ""),
        "95 % interval": lambda row, paper: percent_range(
            row, "object_precision_low", "object_precision_high"
        ),
        "Object base rate, %": lambda row, paper: percent(row["object_base_rate"], ""),
        "Object lift": lambda row, paper: lift(row, "object_"),
        "Object recall, %": lambda row, paper: percent(row["object_recall"], ""),
        "Recall, 95 %": lambda row, paper: percent_range(row, "object_recall_low", "object_recall_high"),
    },
    "table2": {
        "Methods": lambda row, paper: f"{row['method_a']} / {row['method_b']}",
        "Map": lambda row, paper: map_name(row["sigma"]),
        "Agreement, % (sd)": lambda row, paper: mean_and_deviation(row),
        "95 % interval": lambda row, paper: percent_range(row),
        "Paper, % (sd)": lambda row, paper: mean_and_deviation(paper),
        "Intersection over union, % (sd)": lambda row, paper: mean_and_deviation(row, "iou_mean", "iou_std"),
        "Clips": lambda row, paper: count(row["n_clips"]),
    },
    "table3": {
        "Method": lambda row, paper: row["method"],
        "Voxels kept, % (sd)": lambda row, paper: mean_and_deviation(row, "voxels_mean", "voxels_std"),
        "Voxels, 95 %": lambda row, paper: percent_range(row, "voxels_low", "voxels_high"),
        "Paper: voxels": lambda row, paper: mean_and_deviation(paper, "voxels_mean", "voxels_std"),
        "Relevance kept, % (sd)": lambda row, paper: mean_and_deviation(
            row, "relevance_mean", "relevance_std"
        ),
        "Relevance, 95 %": lambda row, paper: percent_range(row, "relevance_low", "relevance_high"),
        "Paper: relevance": lambda row, paper: mean_and_deviation(paper, "relevance_mean", "relevance_std"),
        "Clips": lambda row, paper: count(row["n_clips"]),
        "Empty": lambda row, paper: count(row["n_empty"]),
    },
    "table4": {
        "Step": lambda row, paper: row["method"],
        "Median, ms": lambda row, paper: milliseconds(row, "median"),
        "Quartiles, ms": lambda row, paper: milliseconds(row, "low", "high"),
        "Measured": lambda row, paper: count(row["n"]),
        "Paper, ms (in all)": lambda row, paper: milliseconds(paper, "low", "high"),
    },
    "comparison": {
        "Score": lambda row, paper: row["score"].replace("_", " "),
        "Map": lambda row, paper: "" if row["sigma"] is None else map_name(row["sigma"]),
        "Method": lambda row, paper: row["method"] or "",
        "Before": lambda row, paper: _compared(row, "before"),
        "Now": lambda row, paper: _compared(row, "after"),
        "Difference": lambda row, paper: _compared(row, "difference"),
        "Difference, 95 %": lambda row, paper: (
            without_interval(row)
            if row["low"] is None
            else f"{_compared(row, 'low')} to {_compared(row, 'high')}"
        ),
        "Clips": lambda row, paper: count(row["n_clips"]),
    },
    "sweep": {
        "Method": lambda row, paper: row["method"],
        "Sigma": lambda row, paper: "baseline" if row["sigma"] == 0 else f"{row['sigma']:g}",
        "Precision, %": lambda row, paper: percent(row["precision"], ""),
        "Lift": lambda row, paper: lift(row),
        "Voxels kept, %": lambda row, paper: percent(row["kept_voxels"], ""),
        "Relevance kept, %": lambda row, paper: percent(row["kept_relevance"], ""),
        "Left empty, %": lambda row, paper: percent(row["empty_share"], ""),
    },
}
# Column heading to the word of `storage.report.words` that it is; what says itself has none.
TERMS = {
    "Reliance, %": "reliance",
    "Method": "method", "Methods": "method", "Map": "map", "Sigma": "sigma", "Clips": "clip",
    "Precision, % (sd)": "precision", "Precision, %": "precision", "Weighted, %": "weighted",
    "Base rate, %": "base_rate", "Lift": "lift",
    **dict.fromkeys(("Top 2 %", "Top 5 %", "Top 10 %", "Top 20 %"), "area"),
    "Recall of all motion, %": "recall", "Object recall, %": "recall", "Object precision, %": "object_motion",
    "Object base rate, %": "object_motion", "Object lift": "object_motion",
    "Agreement, % (sd)": "agreement", "Intersection over union, % (sd)": "iou",
    "Voxels kept, % (sd)": "kept_voxels", "Voxels kept, %": "kept_voxels",
    "Relevance kept, % (sd)": "kept_relevance", "Relevance kept, %": "kept_relevance",
    "Empty": "empty", "Left empty, %": "empty",
    **dict.fromkeys(
        (
            "95 % interval", "Lift, 95 %", "Recall, 95 %", "Voxels, 95 %", "Relevance, 95 %",
            "Difference, 95 %",
        ),
        "interval",
    ),
}  # fmt: skip
TITLES = {
    "reliance": "Reliance: what is left of the decision when the clips are changed",
    "table1": "Table 1. Precision: how much of what a map marks does move",
    "areas": "Table 1, at equal areas: the precision of only the most relevant voxels",
    "object_motion": "Object motion: the same with the camera's motion taken off",
    "table2": "Table 2. Agreement: how much two maps mark in common",
    "table3": "Table 3. Selectivity: what the selective step keeps",
    "table4": "Table 4. Time per clip",
    "comparison": "Against the run before, clip by clip",
    "sweep": "The sweep over the threshold",
}
NOTES = {
    "reliance": "The part of a class's score (its logit less the mean of the others') that goes when a clip "
    "is frozen at its middle frame, its frames are shuffled, or time runs backwards: 0 if nothing is lost, "
    "100 if all is, more if the changed clips speak against the class, less than 0 if they speak for it even "
    "more. No model was trained on such clips. For the predicted class chance is on the side of the intact "
    "clips; for the true one it isn't.",
    "table1": "The share of marked voxels (relevance above 0) that move. The base rate is the share of all "
    "voxels that move, which is what a map that points anywhere at random scores; lift is precision over "
    "base rate, so 1 is chance, of the clips in which at least 1 % of the voxels move. Weighted: the "
    "precision with every voxel counted by its relevance. "
    "Empty: clips in which nothing is relevant.",
    "areas": "Dense and sparse maps compare only when as many voxels of each are taken: the 2 to 20 % of all "
    "voxels with the highest relevance. A clip counts only where the map marks that many voxels; [n] is how "
    "many clips do, where not all. A selective map rarely marks 20 %: its last columns are of few, untypical "
    "clips, and must not be read against the baseline's.",
    "object_motion": "What moves against the background, beside what moves in the picture. Recall: the share "
    "of the moving voxels that a map marks; with the camera's motion in it, it says little.",
    "table2": "The share of all voxels that both maps mark; beside it, that share of the voxels which at "
    "least one of them marks.",
    "table3": "The share of a method's marked voxels, and of its positive relevance, that changes over time.",
    "table4": "On top of the steps before it, on the device of this run, without the first batch of each "
    "worker. The paper's times are of its own device, and of the whole way.",
    "comparison": "Per cent, but for the lift; over the clips that both runs have.",
    "sweep": "Means over clips; the charts show the same with 95 % intervals.",
}


def shown_table(name: str, rows: Sequence[Row], paper: Sequence[Row]) -> dict[str, Any]:
    """One table as a page shows it: ``id``, ``title``, ``note``, ``columns``, ``terms``, and ``rows``.

    ``reasons`` are sentences: why some rows have no interval or no lift. The note ends with them.
    """
    columns, of_all = COLUMNS[name], overall(rows)
    why = reasons(of_all)
    return {
        "id": name,
        "title": TITLES[name],
        "note": " ".join([NOTES[name], *why]),
        "reasons": why,
        "columns": list(columns),
        "terms": [TERMS.get(column) for column in columns],
        "text_columns": 2 if "Map" in columns else 1,
        "rows": [[cell(row, same_row(row, paper)) for cell in columns.values()] for row in of_all],
    }


def overall(rows: Sequence[Row]) -> list[Row]:
    """The rows over all classes."""
    return [row for row in rows if row.get("class") is None]


def class_rows(tables: Mapping[str, Sequence[Row]], method: str) -> list[dict[str, Any]]:
    """One row a class with its figures as text, those with the highest motion share first."""
    selective = {
        row["class"]: row for row in tables.get("table1", ()) if row["method"] == method and row["sigma"] > 0
    }
    rows = [row for row in tables.get("table3", ()) if row["class"] is not None and row["method"] == method]
    rows.sort(key=lambda row: (row["relevance_mean"] is None, -(row["relevance_mean"] or 0), row["class"]))
    return [_class_row(row, selective.get(row["class"], {})) for row in rows]


def _class_row(row: Row, selective: Row) -> dict[str, Any]:
    return {
        "class": row["class"],
        "share": percent(row["relevance_mean"], ""),
        "bar": f"{100 * (row['relevance_mean'] or 0):.1f}%",
        "interval": percent_range(row, "relevance_low", "relevance_high"),
        "voxels": percent(row["voxels_mean"], ""),
        "base_rate": percent(selective.get("base_rate"), ""),
        "lift": lift(selective),
        "clips": count(row["n_clips"]),
    }
