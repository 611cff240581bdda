"""Tables as people read them: the cells of any table that says what its columns are, and the classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storage.report.figures import (
    Row,
    absent,
    count,
    map_name,
    number,
    percent,
    percent_range,
    reasons,
    same_row,
)
from storage.text import decimal

MAIN_METHOD = "deep_taylor"
# Forms of columns that hold words, and are aligned at the left.
_WORDS = ("text", "words", "pair", "map")


def main_method(methods: Iterable[str]) -> str:
    """The method that stands for a run where one has to do: deep Taylor, or the first by name."""
    return MAIN_METHOD if MAIN_METHOD in methods else min(methods)


def shown_table(
    table: Row, rows: Sequence[Row], *, short: bool = False, drawn: bool = False
) -> dict[str, Any]:
    """Write one table as a page shows it, over all classes.

    Parameters
    ----------
    table : mapping
        What the table is: the fields of a `selrel.scores.metric.Table`, its columns as mappings too.
    rows : sequence of mapping
        Its rows.
    short : bool
        As a console of 80 columns shows it: fewer columns with short headings, the paper's last.
    drawn : bool
        As a figure for a paper shows it: fewer columns.

    Returns
    -------
    dict
        ``id``, ``title``, ``note``, ``columns`` (headings), ``terms``, ``text_columns`` (so many columns
        are words), ``rows``, and ``reasons``: sentences that say why some rows have no interval or no lift.
        The note ends with them.
    """
    of_all, columns = overall(rows), list(table["columns"])
    if short:
        columns = sorted((c for c in columns if c["short"]), key=lambda column: bool(column["paper"]))
    elif drawn:
        columns = [column for column in columns if column["short"] or column["drawn"]]
    why = reasons(of_all)
    return {
        "id": table["name"],
        "title": table["short_title" if short else "title"],
        "note": " ".join([table["note"], *why]),
        "reasons": why,
        "columns": [column["short" if short else "heading"] for column in columns],
        "terms": [column["term"] for column in columns],
        "text_columns": next((n for n, c in enumerate(columns) if c["form"] not in _WORDS), len(columns)),
        "rows": [
            [
                cell(column, same_row(row, table["paper"]) if column["paper"] else row, table, short=short)
                for column in columns
            ]
            for row in of_all
        ],
    }


def cell(column: Row, row: Row, table: Row, *, short: bool = False) -> str:
    """Write what a column shows of a row, as its form says."""
    name, form, value = column["name"], column["form"], row.get(column["name"])
    if form == "pair":
        return f"{row[f'{name}_a']} / {row[f'{name}_b']}"
    if form == "map":
        return "" if value is None else map_name(value, short=short)
    if form in ("text", "words"):
        return str(value or "") if form == "text" else str(value).replace("_", " ")
    if value is None:
        return absent(row, column["reason"])
    if form.startswith("score"):
        form = form.replace("score", "ratio" if row["score"] in table["ratios"] else "percent")
    high = row.get(name.replace("low", "high"))
    match form:
        case "target":
            return f"the {value} class"
        case "sigma":
            return "baseline" if value == 0 else f"{value:g}"
        case "count":
            return count(value)
        case "percent":
            return percent(value, "")
        case "ratio":
            return number(value)
        case "mean":
            return f"{percent(value, '')} ({percent(row.get(name.replace('mean', 'std')), '')})"
        case "range" | "percent range":
            return f"{percent(value, '')} to {percent(high, '')}"
        case "ratio range":
            return f"{number(value)} to {number(high)}"
        case "milliseconds":
            return decimal(1000 * value, 2)
        case "milliseconds range":
            return f"{decimal(1000 * value, 2)} to {decimal(1000 * row['high'], 2)}"
        case "filled":
            # In how many clips the map marks that much, where not in all.
            clips = row.get(name.replace("precision", "clips"))
            return percent(value, "") + ("" if clips in (None, row["n_clips"]) else f" [{count(clips)}]")
    raise ValueError(f"the column {name!r} has the form {form!r}, which nothing here writes")


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
    return [
        {
            "class": row["class"],
            "share": percent(row["relevance_mean"], ""),
            "bar": percent(row["relevance_mean"] or 0, "%"),
            "interval": percent_range(row, "relevance_low", "relevance_high"),
            "voxels": percent(row["voxels_mean"], ""),
            "base_rate": percent(of_map.get("base_rate"), ""),
            "lift": absent(of_map, "no_lift") if of_map.get("lift") is None else number(of_map["lift"]),
            "clips": count(row["n_clips"]),
        }
        for row in rows
        for of_map in [selective.get(row["class"], {})]
    ]
