"""The page a person opens: one self-contained HTML file a run, without scripts and without a network."""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import matplotlib
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from storage.layout import Root, RunPaths

Row = Mapping[str, Any]
Cell = Callable[[Row, Row], str]

_MAIN_METHOD = "deep_taylor"
_MISSING = "-"
# Okabe and Ito's colours, which colour-blind readers tell apart; markers and dashes differ as well.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
_DASHES = ("-", "--", "-.", ":")


def write_report(root: Root, paths: RunPaths, context: Mapping[str, Any]) -> None:
    """Write a run's report/index.html, whole or not at all.

    Parameters
    ----------
    root : Root
        Where the run lies.
    paths : RunPaths
        The run's paths.
    context : mapping
        As `render_report` takes it.
    """
    root.write_bytes(paths.report, render_report(context).encode("utf-8"))


def render_report(context: Mapping[str, Any]) -> str:
    """Render a run's report as one HTML page that needs nothing else.

    Parameters
    ----------
    context : mapping
        Plain values; all text in it is shown as text, whatever it holds:

        ``run`` : str
            The run's name.
        ``summary`` : dict
            ``motion_share`` (a row with ``mean``, ``low``, ``high``, ``sigma``, ``n_clips``; or None),
            ``clips``, ``videos``, ``accuracy``, ``flagged_clips``, ``excluded_videos``,
            ``largest_conservation_error`` (or None), ``results_sha256``.
        ``description`` : dict
            run.json, of any depth.
        ``tables`` : dict of str to list of dict
            ``table1`` to ``table4`` and ``sweep``, rows of `selrel.scores.aggregate`; rows with ``class``
            None are of all classes. A table that is missing is left out.
        ``paper`` : dict of str to sequence of dict
            The paper's figures under the same names and keys.
        ``exclusions`` : list of dict
            ``video``, ``class``, ``kind``, ``reason``.
        ``flags`` : list of dict
            ``video``, ``class``, ``start_frame``, ``flag``.
        ``clips`` : list of dict
            Pictures: ``video``, ``class``, ``predicted``, ``start_frame``, ``note`` (why it was chosen),
            ``sheet`` and ``steps`` (PNG bytes; `selrel.pictures`).
        ``legends`` : dict
            ``relevance`` and ``flow`` (PNG bytes) and ``flow_scale`` (px/frame of full colour).
        ``command`` : str
            The command that repeats the run.

    Returns
    -------
    str
        HTML. The same context gives the same text.

    Raises
    ------
    KeyError
        If a key is missing.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "data_uri": _data_uri, "grouped": _grouped}
    template = resources.files(__package__ or "storage").joinpath("report.html.j2")
    page = environment.from_string(template.read_text(encoding="utf-8"))
    tables, paper = context["tables"], context["paper"]
    return page.render(
        **{key: context[key] for key in _KEYS},
        shown_tables=[
            _shown_table(name, tables[name], paper.get(name, ())) for name in _COLUMNS if tables.get(name)
        ],
        chance=_chance(tables.get("table3", ())),
        classes=_classes(tables),
        sweep_chart=_sweep_chart(tables["sweep"]) if tables.get("sweep") else None,
        sweep_table=_sweep_table(tables.get("sweep", ())),
        facts=_flat(context["description"]),
    )


_KEYS = ("run", "summary", "exclusions", "flags", "clips", "legends", "command")


def _percent(value: float | None, unit: str = " %") -> str:
    return _MISSING if value is None else f"{100 * value:.1f}{unit}"


def _percent_range(row: Row, low: str = "low", high: str = "high") -> str:
    return _MISSING if row.get(low) is None else f"{100 * row[low]:.1f} to {100 * row[high]:.1f}"


def _percent_and_deviation(row: Row, mean: str = "mean", std: str = "std") -> str:
    return _MISSING if row.get(mean) is None else f"{100 * row[mean]:.1f} ({_percent(row[std], '')})"


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.2f}"


def _number_range(row: Row, low: str, high: str) -> str:
    return _MISSING if row.get(low) is None else f"{row[low]:.2f} to {row[high]:.2f}"


def _milliseconds(seconds: float | None) -> str:
    return _MISSING if seconds is None else f"{1000 * seconds:,.2f}"


def _grouped(value: int) -> str:
    return f"{value:,}"


def _map_name(sigma: float) -> str:
    return "baseline" if sigma == 0 else f"selective, {sigma:g} sigma"


def _data_uri(data: bytes, kind: str = "image/png") -> Markup:
    return Markup(f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}")


# Column heading to what stands in it, given our row and the paper's row (empty where it has none).
_COLUMNS: dict[str, dict[str, Cell]] = {
    "table1": {
        "Method": lambda row, paper: row["method"],
        "Map": lambda row, paper: _map_name(row["sigma"]),
        "Precision, % (sd)": lambda row, paper: _percent_and_deviation(row),
        "95 % interval": lambda row, paper: _percent_range(row),
        "Paper, % (sd)": lambda row, paper: _percent_and_deviation(paper),
        "Base rate, %": lambda row, paper: _percent(row["base_rate"], ""),
        "Lift": lambda row, paper: _number(row["lift"]),
        "Lift, 95 %": lambda row, paper: _number_range(row, "lift_low", "lift_high"),
        "Weighted, %": lambda row, paper: _percent(row["weighted_precision"], ""),
        "Top 2 %": lambda row, paper: _percent(row["area_precision_2"], ""),
        "Top 5 %": lambda row, paper: _percent(row["area_precision_5"], ""),
        "Top 10 %": lambda row, paper: _percent(row["area_precision_10"], ""),
        "Top 20 %": lambda row, paper: _percent(row["area_precision_20"], ""),
        "Clips": lambda row, paper: _grouped(row["n_clips"]),
        "Empty": lambda row, paper: _grouped(row["n_empty"]),
    },
    "table2": {
        "Methods": lambda row, paper: f"{row['method_a']} / {row['method_b']}",
        "Map": lambda row, paper: _map_name(row["sigma"]),
        "Agreement, % (sd)": lambda row, paper: _percent_and_deviation(row),
        "95 % interval": lambda row, paper: _percent_range(row),
        "Paper, % (sd)": lambda row, paper: _percent_and_deviation(paper),
        "Intersection over union, % (sd)": lambda row, paper: _percent_and_deviation(
            row, "iou_mean", "iou_std"
        ),
        "Clips": lambda row, paper: _grouped(row["n_clips"]),
    },
    "table3": {
        "Method": lambda row, paper: row["method"],
        "Voxels kept, % (sd)": lambda row, paper: _percent_and_deviation(row, "voxels_mean", "voxels_std"),
        "Voxels, 95 %": lambda row, paper: _percent_range(row, "voxels_low", "voxels_high"),
        "Relevance kept, % (sd)": lambda row, paper: _percent_and_deviation(
            row, "relevance_mean", "relevance_std"
        ),
        "Relevance, 95 %": lambda row, paper: _percent_range(row, "relevance_low", "relevance_high"),
        "Clips": lambda row, paper: _grouped(row["n_clips"]),
        "Empty": lambda row, paper: _grouped(row["n_empty"]),
        "Paper: voxels": lambda row, paper: _percent_and_deviation(paper, "voxels_mean", "voxels_std"),
        "Paper: relevance": lambda row, paper: _percent_and_deviation(
            paper, "relevance_mean", "relevance_std"
        ),
    },
    "table4": {
        "Step": lambda row, paper: row["method"],
        "Median, ms": lambda row, paper: _milliseconds(row["median"]),
        "Quartiles, ms": lambda row, paper: f"{_milliseconds(row['low'])} to {_milliseconds(row['high'])}",
        "Measured": lambda row, paper: _grouped(row["n"]),
        "Paper, ms (in all)": lambda row, paper: (
            f"{_milliseconds(paper['low'])} to {_milliseconds(paper['high'])}" if paper else _MISSING
        ),
    },
}
_TITLES = {
    "table1": "Table 1. Precision: how much of what a map marks does move",
    "table2": "Table 2. Agreement: how much two maps mark in common",
    "table3": "Table 3. Selectivity: what the selective step keeps",
    "table4": "Table 4. Time a clip",
}
_NOTES = {
    "table1": "The share of marked voxels (relevance above 0) that move. The base rate is the share of all "
    "voxels that move, which is what a map that points anywhere at random scores; lift is precision over "
    "base rate, so 1 is chance. Weighted: the same with every voxel counted by its relevance. Top 2 to 20 %: "
    "the precision of only the most relevant voxels, as many from every map, so that dense and sparse maps "
    "compare. Empty: clips in which nothing is relevant.",
    "table2": "The share of all voxels that both maps mark; beside it, that share of the voxels which at "
    "least one of them marks.",
    "table3": "The share of a method's marked voxels, and of its positive relevance, that changes over time.",
    "table4": "On top of the steps before it, on the device of this run, without the first batch of each "
    "worker. The paper's times are of its own device, and of the whole way.",
}


def _shown_table(name: str, rows: Sequence[Row], paper: Sequence[Row]) -> dict[str, Any]:
    columns = _COLUMNS[name]
    of_all = [row for row in rows if row.get("class") is None]
    body = [[str(cell(row, _same(row, paper))) for cell in columns.values()] for row in of_all]
    return {
        "id": name,
        "title": _TITLES[name],
        "note": _NOTES[name],
        "columns": list(columns),
        "rows": body,
    }


def _same(row: Row, paper: Sequence[Row]) -> Row:
    """The paper's row of the same method, methods and sigma; empty if it has none."""
    keys = [key for key in ("method", "method_a", "method_b", "sigma") if key in row]
    return next((other for other in paper if all(other.get(key) == row[key] for key in keys)), {})


def _chance(table3: Sequence[Row]) -> float | None:
    """What as many voxels, picked at random, would keep of the relevance: their own share."""
    for row in table3:
        if row["class"] is None and row["method"] == _MAIN_METHOD:
            return row["voxels_mean"]  # type: ignore[no-any-return]
    return None


def _classes(tables: Mapping[str, Sequence[Row]]) -> list[dict[str, str]]:
    """One row a class, those with the highest motion share first."""
    selective = {
        row["class"]: row
        for row in tables.get("table1", ())
        if row["method"] == _MAIN_METHOD and row["sigma"] > 0
    }
    rows = [
        row for row in tables.get("table3", ()) if row["class"] is not None and row["method"] == _MAIN_METHOD
    ]
    rows.sort(key=lambda row: (row["relevance_mean"] is None, -(row["relevance_mean"] or 0), row["class"]))
    return [_class_row(row, selective.get(row["class"], {})) for row in rows]


def _class_row(row: Row, selective: Row) -> dict[str, str]:
    return {
        "class": row["class"],
        "share": _percent(row["relevance_mean"], ""),
        "interval": _percent_range(row, "relevance_low", "relevance_high"),
        "voxels": _percent(row["voxels_mean"], ""),
        "base_rate": _percent(selective.get("base_rate"), ""),
        "lift": _number(selective.get("lift")),
        "clips": _grouped(row["n_clips"]),
    }


def _sweep_table(rows: Sequence[Row]) -> dict[str, Any]:
    columns = ("Method", "Sigma", "Precision, %", "Lift", "Voxels kept, %", "Relevance kept, %", "Empty, %")
    body = [
        [
            row["method"],
            "baseline" if row["sigma"] == 0 else f"{row['sigma']:g}",
            _percent(row["precision"], ""),
            _number(row["lift"]),
            _percent(row["kept_voxels"], ""),
            _percent(row["kept_relevance"], ""),
            _percent(row["empty_share"], ""),
        ]
        for row in rows
        if row["class"] is None
    ]
    return {"columns": columns, "rows": body}


def _sweep_chart(rows: Sequence[Row]) -> bytes:
    """Draw precision, lift and what is kept against sigma, as SVG."""
    of_all = [row for row in rows if row["class"] is None]
    methods = list(dict.fromkeys(row["method"] for row in of_all))
    # A fixed salt and no date: the same rows give the same bytes.
    with matplotlib.rc_context({"svg.hashsalt": "selrel", "font.size": 9, "axes.axisbelow": True}):
        figure = Figure(figsize=(8.4, 6.0), layout="constrained")
        panels = figure.subplots(2, 2, sharex=True)
        titles = {
            "precision": "Precision",
            "lift": "Lift over the base rate (1 is chance)",
            "kept_voxels": "Marked voxels kept",
            "kept_relevance": "Positive relevance kept",
        }
        for panel, (name, title) in zip(panels.flat, titles.items(), strict=True):
            _draw_panel(panel, of_all, methods, name)
            panel.set_title(title, loc="left", fontsize=9.5)
        for panel in panels[1]:
            panel.set_xlabel("threshold (standard deviations; 0 is the baseline)")
        figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        drawn = io.BytesIO()
        FigureCanvasSVG(figure)
        figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue()


def _draw_panel(panel: Axes, rows: Sequence[Row], methods: Sequence[str], name: str) -> None:
    for place, method in enumerate(methods):
        line = sorted((r for r in rows if r["method"] == method), key=lambda r: r["sigma"])
        colour = _COLOURS[place % len(_COLOURS)]
        sigmas = [row["sigma"] for row in line]
        panel.plot(
            sigmas, [_drawable(row[name]) for row in line], label=method, color=colour, markersize=4,
            marker=_MARKERS[place % len(_MARKERS)], linestyle=_DASHES[place % len(_DASHES)],
        )  # fmt: skip
        low, high = ([_drawable(row[f"{name}_{end}"]) for row in line] for end in ("low", "high"))
        panel.fill_between(sigmas, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.grid(color="#dddddd", linewidth=0.6)
    if name == "lift":
        panel.axhline(1, color="#555555", linewidth=0.8)
    else:
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        panel.set_ylim(bottom=0)


def _drawable(value: float | None) -> float:
    return float("nan") if value is None else float(value)


def _flat(value: object, name: str = "") -> list[tuple[str, str]]:
    """Every leaf of a nested description as a dotted name and its text."""
    if isinstance(value, Mapping) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}".lstrip("."))]
    return [(name, value if isinstance(value, str) else json.dumps(value))]
