"""The charts of the page as Vega-Lite specifications, and the script that draws them without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import altair
import vl_convert

from storage.figures import Row
from storage.report.columns import overall

# Okabe and Ito's colours, which colour-blind readers tell apart; markers differ as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#B37700", "#2E8BC0", "#000000")
_SHAPES = ("circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "stroke")
_PANELS = {
    "kept_relevance": ("Relevance kept", "%"),
    "kept_voxels": ("Voxels kept", "%"),
    "precision": ("Precision: marked voxels that move", "%"),
    "lift": ("Lift over the base rate (1 is chance)", ".1f"),
    "empty_share": ("Clips left empty", "%"),
}
_GRID = "#e4e4e4"
_INK = "#333333"


@lru_cache(maxsize=1)
def script() -> str:
    """Vega, Vega-Lite and their embedding as one script that sets ``window.vegaEmbed``."""
    return f"(() => {{\n{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}\n}})();"


def sweep_charts(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """One specification a quantity: a line with its band for each method, against sigma."""
    of_all = [row for row in overall(rows) if row["sigma"] >= 0]
    methods = list(dict.fromkeys(row["method"] for row in of_all))
    return {name: _sweep_chart(name, of_all, methods) for name in _PANELS} if of_all else {}


def _sweep_chart(name: str, rows: Sequence[Row], methods: Sequence[str]) -> dict[str, Any]:
    title, form = _PANELS[name]
    data = altair.InlineData(
        values=[
            {
                "method": row["method"],
                "sigma": row["sigma"],
                "value": row[name],
                "low": row.get(f"{name}_low"),
                "high": row.get(f"{name}_high"),
            }
            for row in rows
        ]
    )
    colour = altair.Color(
        "method:N",
        title=None,
        sort=list(methods),
        scale=altair.Scale(domain=list(methods), range=_used(COLOURS, methods)),
    )
    shape = altair.Shape(
        "method:N",
        title=None,
        sort=list(methods),
        scale=altair.Scale(domain=list(methods), range=_used(_SHAPES, methods)),
    )
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
    band = base.mark_area(opacity=0.15, aria=False).encode(y="low:Q", y2="high:Q")
    line = base.mark_line(strokeWidth=2, aria=False).encode(y=y)
    points = base.mark_point(filled=True, size=45, opacity=1).encode(y=y, shape=shape, tooltip=tooltip)
    layers = [band, line, points, _marker("sigma", 2.0)]
    return _plain(altair.layer(*layers, data=data, title=title), height=210)


def curve_chart() -> dict[str, Any]:
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
    lines = (
        altair.Chart(altair.NamedData(name="curve"))
        .mark_line(point=True)
        .encode(
            x=x,
            y=y,
            color=altair.Color("method:N", title=None, scale=altair.Scale(range=list(COLOURS))),
            strokeDash=maps,
            tooltip=["method:N", "map:N", "frame:Q", altair.Tooltip("share:Q", format=".1%")],
        )
    )
    chart = altair.layer(lines, _marker("frame", 1.0))
    return _plain(chart, height=180)


def _marker(name: str, value: float) -> Any:
    """A vertical rule at a parameter, which the page moves."""
    place = altair.param(name=name, value=value)
    rule = altair.Chart(altair.InlineData(values=[{}])).mark_rule(
        color=_INK, strokeDash=[2, 2], size=1.5, aria=False
    )
    return rule.encode(x=altair.datum(altair.ExprRef(name), type="quantitative")).add_params(place)


def _plain(chart: altair.LayerChart | altair.FacetChart, *, height: int) -> dict[str, Any]:
    configured = (
        chart.configure(font="system-ui, sans-serif")
        .properties(
            width="container",
            autosize=altair.AutoSizeParams(type="fit-x", contains="padding"),
            height=height,
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


def _used(values: Sequence[str], methods: Sequence[str]) -> list[str]:
    return [values[place % len(values)] for place in range(len(methods))]
