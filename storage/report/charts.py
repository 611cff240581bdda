"""The charts of the page as Vega-Lite specifications, and the script that draws them without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair
import vl_convert

from storage.report.columns import overall
from storage.report.figures import Row
from storage.report.panels import COLOURS
from storage.report.words import method_name

_SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "stroke")
_GRID = "#e4e4e4"
_INK = "#333333"


@lru_cache(maxsize=1)
def script() -> str:
    """Vega, Vega-Lite and their embedding as one script that sets ``window.vegaEmbed``."""
    return f"(() => {{\n{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}\n}})();"


def sweep_charts(rows: Sequence[Row], columns: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """One specification a column with a ``chart``: a line with its band for each method, against sigma."""
    of_all = [row for row in overall(rows) if row["sigma"] >= 0]
    methods = list(dict.fromkeys(row["method"] for row in of_all))
    return {c["name"]: _sweep_chart(c, of_all, methods) for c in columns if c["chart"]} if of_all else {}


def _sweep_chart(column: Row, rows: Sequence[Row], methods: Sequence[str]) -> dict[str, Any]:
    name, title, form = column["name"], column["chart"], ".1f" if column["form"] == "ratio" else "%"
    data = altair.InlineData(
        values=[
            {
                "method": method_name(row["method"]),
                "sigma": row["sigma"],
                "value": row[name],
                "low": row.get(f"{name}_low"),
                "high": row.get(f"{name}_high"),
            }
            for row in rows
        ]
    )
    colour, shape = _told_apart(methods)
    sigmas = sorted({row["sigma"] for row in rows})
    x = altair.X(
        "sigma:Q",
        title="threshold, standard deviations (0: baseline)",
        axis=altair.Axis(values=sigmas, format="~g", labelOverlap=True),
    )
    y = altair.Y("value:Q", title=None, axis=altair.Axis(format=".0%" if form == "%" else form))
    tooltip = [
        altair.Tooltip("method:N"),
        altair.Tooltip("sigma:Q"),
        altair.Tooltip("value:Q", title=title, format=".1%" if form == "%" else ".2f"),
    ]
    base = altair.Chart().encode(x=x, color=colour)
    # Screen readers hear the points; lines and bands would be pictures without words.
    known = "isValid(datum.low) && isValid(datum.high)"
    band = base.mark_area(opacity=0.15, aria=False).encode(y="low:Q", y2="high:Q").transform_filter(known)
    line = base.mark_line(strokeWidth=2, aria=False).encode(y=y)
    points = base.mark_point(filled=True, size=45, opacity=1).encode(y=y, shape=shape, tooltip=tooltip)
    layers = [band, line, points, _marker("sigma", 2.0)]
    return _plain(altair.layer(*layers, data=data, title=title))


def _told_apart(methods: Sequence[str]) -> tuple[altair.Color, altair.Shape]:
    """A colour and a shape for each method, the same in every chart."""
    names = [method_name(method) for method in methods]
    colours, shapes = (
        altair.Scale(domain=names, range=[values[place % len(values)] for place in range(len(names))])
        for values in (COLOURS, _SHAPES)
    )
    return (
        altair.Color("method:N", title=None, sort=names, scale=colours),
        altair.Shape("method:N", title=None, sort=names, scale=shapes),
    )


def curve_chart(methods: Sequence[str]) -> dict[str, Any]:
    """The specification of relevance over time, whose data set ``curve`` a page fills for each clip."""
    x = altair.X(
        "frame:Q",
        title="frame",
        scale=altair.Scale(zero=False, nice=False),
        axis=altair.Axis(format="d", tickMinStep=1),
    )
    y = altair.Y("share:Q", title="share", axis=altair.Axis(format=".0%"))
    maps = altair.StrokeDash(
        "map:N",
        scale=altair.Scale(domain=["all evidence", "what changes"], range=[[1, 0], [5, 3]]),
        legend=None,
    )
    colour, shape = _told_apart(methods)
    tooltip = ["method:N", "map:N", "frame:Q", altair.Tooltip("share:Q", format=".1%")]
    base = altair.Chart(altair.NamedData(name="curve")).encode(x=x, y=y, color=colour)
    lines = base.mark_line(aria=False).encode(strokeDash=maps)
    points = base.mark_point(filled=True, size=30, opacity=1).encode(shape=shape, tooltip=tooltip)
    chart = altair.layer(lines, points, _marker("frame", 1.0))
    return _plain(chart)


def _marker(name: str, value: float) -> Any:
    """A vertical rule at a parameter, which the page moves."""
    place = altair.param(name=name, value=value)
    rule = altair.Chart(altair.InlineData(values=[{}])).mark_rule(
        color=_INK, strokeDash=[2, 2], size=1.5, aria=False
    )
    return rule.encode(x=altair.datum(altair.ExprRef(name), type="quantitative")).add_params(place)


def _plain(chart: altair.LayerChart | altair.FacetChart) -> dict[str, Any]:
    """The specification of a chart that fills its place: the page knows its height before it is drawn."""
    configured = (
        chart.configure(font="system-ui, sans-serif")
        .properties(
            width="container",
            height="container",
            autosize=altair.AutoSizeParams(type="fit", contains="padding"),
            background="transparent",
        )
        .configure_axis(
            labelFontSize=12,
            labelFontWeight="normal",
            titleFontSize=12,
            titleFontWeight="normal",
            gridColor=_GRID,
        )
        .configure_title(anchor="start", fontSize=14, fontWeight="bold")
        .configure_view(stroke=None)
        .configure_legend(
            orient="bottom", columns=2, labelFontSize=12, symbolLimit=0, symbolOpacity=1, labelLimit=220
        )
    )
    specification: dict[str, Any] = json.loads(configured.to_json(validate=True))
    return specification
