"""Tables and the sweep as vector figures for a paper, PDF or SVG, as bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from storage.report.drawing import own_style
from storage.report.figures import Row, reasons
from storage.report.panels import COLOURS

Kind = Literal["pdf", "svg"]

_MARKERS = "osD^vPX"
_DASHES = ("-", "--", "-.", ":")
# A fixed salt, and no date below: the same rows give the same bytes. Type 42 keeps a PDF text as text.
_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "selrel",
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.axisbelow": True,
}
_INK = "#222222"


def table_figure(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    text_columns: int,
    kind: Kind,
    notes: Sequence[str] = (),
) -> bytes:
    """Draw a table as papers print it: lines above, below and under its head.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : sequence of sequence of str
        What stands under them.
    text_columns : int
        The first so many are words, and aligned at the left.
    kind : "pdf" or "svg"
        Format.
    notes : sequence of str
        Lines below it.

    Returns
    -------
    bytes
        The file, as large as the table.
    """
    with own_style(_STYLE):
        figure = Figure(figsize=(7.1, 0.2 * (len(rows) + 1)))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        table = axes.table(cellText=[list(row) for row in rows], colLabels=list(columns), loc="center")
        table.auto_set_font_size(False)
        table.auto_set_column_width(list(range(len(columns))))
        for (line, column), cell in table.get_celld().items():
            cell.visible_edges = "TB" if line == 0 else "B" if line == len(rows) else ""
            cell.set_linewidth(0.6)
            cell.set_text_props(ha="left" if column < text_columns else "right", color=_INK)
            cell.set_height(1 / (len(rows) + 1))
        _write_below(figure, notes)
        return _saved(figure, kind)


def sweep_figure(rows: Sequence[Row], columns: Sequence[Row], *, kind: Kind) -> bytes:
    """Draw the sweep: a panel a quantity, a line with its 95 % band a method, against sigma.

    Parameters
    ----------
    rows : sequence of mapping
        Those of the sweep that are of all classes; sigma 0 is the baseline.
    columns : sequence of mapping
        Those of the sweep, of which each with a ``chart`` has a panel.
    kind : "pdf" or "svg"
        Format.

    Returns
    -------
    bytes
        The file, 18 cm wide.
    """
    methods = list(dict.fromkeys(row["method"] for row in rows))
    with own_style(_STYLE):
        charts = [column for column in columns if column["chart"]]
        # One place more than there are charts, for the legend.
        lines = len(charts) // 3 + 1
        figure = Figure(figsize=(7.1, 2.2 * lines), layout="constrained")
        panels = list(figure.subplots(lines, 3, sharex=True).flat)
        for panel, column in zip(panels, charts, strict=False):
            _draw(panel, rows, methods, column)
            panel.set_title(column["chart"], loc="left", fontsize=8)
            panel.set_xlabel("threshold (sigma)")
            panel.tick_params(labelbottom=True)
        for panel in panels[len(charts) :]:
            panel.set_axis_off()
        panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False)
        _write_below(figure, reasons(rows))
        return _saved(figure, kind)


def _draw(panel: Axes, rows: Sequence[Row], methods: Sequence[str], column: Row) -> None:
    name = column["name"]
    for place, method in enumerate(methods):
        line = sorted((row for row in rows if row["method"] == method), key=lambda row: row["sigma"])
        colour, sigmas = COLOURS[place % len(COLOURS)], [row["sigma"] for row in line]
        panel.plot(
            sigmas, [_drawable(row, name) for row in line], label=method, color=colour, markersize=3,
            linewidth=1, marker=_MARKERS[place % len(_MARKERS)], linestyle=_DASHES[place % len(_DASHES)],
        )  # fmt: skip
        low, high = ([_drawable(row, f"{name}_{end}") for row in line] for end in ("low", "high"))
        panel.fill_between(sigmas, low, high, color=colour, alpha=0.15, linewidth=0)
    panel.grid(color="#dddddd", linewidth=0.5)
    if column["form"] == "ratio":
        panel.axhline(1, color="#555555", linewidth=0.8)
    else:
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
        panel.set_ylim(bottom=0)


def _write_below(figure: Figure, notes: Sequence[str]) -> None:
    if notes:
        figure.text(0, -0.02, "\n".join(notes), va="top", color=_INK)


def _drawable(row: Row, name: str) -> float:
    value = row.get(name)
    return float("nan") if value is None else float(value)


def _saved(figure: Figure, kind: Kind) -> bytes:
    drawn = io.BytesIO()
    undated = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    figure.savefig(drawn, format=kind, metadata=undated, bbox_inches="tight", pad_inches=0.04)
    return drawn.getvalue()
