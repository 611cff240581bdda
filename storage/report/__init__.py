"""The page a person opens: one HTML file a run that needs no network, and a file beside it a clip."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from storage.layout import ReportPaths
from storage.report import charts, figures, reliance
from storage.report.columns import MAIN_METHOD, class_rows, main_method, overall, shown_table
from storage.report.figures import Row
from storage.report.media import as_script, clip_file
from storage.report.words import WORDS, method_name
from storage.stores.root import Root

_STYLES = ("page.css", "player.css")
_SCRIPTS = ("painting.js", "player.js", "page.js")
_KEYS = ("run", "summary", "exclusions", "flags", "clips", "featured", "legends", "command")


def write_clip(root: Root, paths: ReportPaths, clip: int, script: str) -> None:
    """Write one clip's file, as `storage.report.media.clip_script` makes it."""
    root.write_bytes(paths.media(clip_file(clip)), script.encode("ascii"))


def write_report(root: Root, paths: ReportPaths, context: Mapping[str, Any]) -> None:
    """Write a report's page, after its clips, whole or not at all.

    Parameters
    ----------
    root : Root
        Where it lies.
    paths : ReportPaths
        Its paths.
    context : mapping
        As `render_report` takes it.
    """
    root.write_bytes(paths.page, render_report(context).encode("utf-8"))


def render_report(context: Mapping[str, Any]) -> str:
    """Render a run's page.

    Parameters
    ----------
    context : mapping
        Plain values; all text in it is shown as text, whatever it holds:

        ``run`` : str
            The run's name.
        ``n_classes`` : int
            How many classes the model tells apart.
        ``summary`` : dict
            ``motion_share`` (a row with ``mean``, ``low``, ``high``, ``sigma``, ``n_clips``; or None),
            ``clips``, ``videos``, ``accuracy``, ``excluded_videos``,
            ``largest_conservation_error`` (or None), ``results_sha256``, and ``comparison`` with the run
            before (as `tasks.gate.with_previous` gives it; or None).
        ``description`` : dict
            run.json, of any depth.
        ``tables`` : dict of str to list of dict
            The rows of each table, such as ``table1``; those with ``class`` None are of all classes. A
            missing table is left out.
        ``shown`` : list of dict
            What the tables are, in the order of the page: the fields of `selrel.scores.metric.Table`. The
            one of the name ``sweep`` stands with the charts.
        ``words`` : dict of str to (str, str)
            The terms that the tables' columns name, and what they mean.
        ``exclusions`` : list of dict
            ``video``, ``class``, ``kind``, ``reason``.
        ``flags`` : list of dict
            ``clip``, ``video``, ``class``, ``start_frame``, ``flag``.
        ``clips`` : list of dict
            Clips with a player: ``clip`` (number), ``video``, ``class``, ``predicted``, ``start_frame``,
            ``flag`` (empty where there is none), ``place`` ("highest", "typical" or "lowest" of its class;
            None if the class does not show it) and ``figures``: by method, a list over the maps of
            ``kept_relevance``, ``kept_voxels``, ``precision``, ``base_rate``, ``lift``.
        ``featured`` : list of dict
            The clips to begin with: ``clip``, ``place`` (of all clips) and ``script`` (its file's text, which
            goes into the page).
        ``legends`` : dict
            ``flow`` (PNG bytes) and ``flow_scale`` (px/frame of full colour), ``scales`` (by method, the
            relevance of full colour) in ``units``, ``palettes`` (by name, the colours of positive and
            negative) and
            ``steps`` (PNG bytes: the method in one picture; or None).
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
    environment.filters |= {
        "percent": figures.percent, "signed": figures.signed, "grouped": figures.count,
        "counted": figures.counted, "reliance_value": reliance.value,
        "beside_frozen": reliance.beside_frozen,
        "data_uri": lambda png: Markup(f"data:image/png;base64,{base64.b64encode(png).decode()}"),
        "method_name": method_name,
    }  # fmt: skip
    page = environment.from_string(_file("page.html.j2"))
    tables, shown = context["tables"], {table["name"]: table for table in context["shown"]}
    swept = shown["sweep"]["columns"]
    shared = _for_scripts(context, swept)
    inlined = [charts.script(), *map(_file, _SCRIPTS), *(clip["script"] for clip in context["featured"])]
    method = shared["mainMethod"]
    classes = [] if method is None else class_rows(tables, method)
    for row in classes:
        of_class = (clip for clip in context["clips"] if clip["class"] == row["class"])
        row["examples"] = [clip for clip in of_class if clip["place"] is not None]
    return page.render(
        **{key: context[key] for key in _KEYS},
        answer=reliance.answer(context["summary"].get("motion_reliance")),
        changed=reliance.told(tables.get("reliance", ())),
        n_classes=context["n_classes"],
        by_class=reliance.by_class(tables.get("reliance", ())),
        single=reliance.single_frames(context["clips"]),
        words=WORDS | context["words"],
        older=figures.OLDER,
        styles=[Markup(_file(name)) for name in _STYLES],
        scripts=[Markup(text) for text in inlined],
        # The page's content security policy knows a script by its hash; any other is not run.
        hashes=[
            f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}" for text in inlined
        ],
        shared=Markup(as_script(shared)),
        tables=[
            shown_table(table, tables[table["rows_of"] or name])
            for name, table in shown.items()
            if name != "sweep" and tables.get(table["rows_of"] or name)
        ],
        sweep=shown_table(shown["sweep"], tables["sweep"]) if tables.get("sweep") else None,
        swept=[column for column in swept if column["name"] not in ("method", "sigma")],
        sweep_names=list(shared["charts"]),
        methods=shared["methods"],
        sigmas=shared["sigmas"],
        chance=next(
            (r["voxels_mean"] for r in overall(tables.get("table3", ())) if r["method"] == MAIN_METHOD), None
        ),
        classes=classes,
        main_method=method,
        # Without deep Taylor there is no motion share.
        share_words="motion share"
        if context["summary"]["motion_share"] or method is None
        else f"relevance kept ({method_name(method)})",
        facts=_flat(context["description"]),
    )


def _for_scripts(context: Mapping[str, Any], swept: Sequence[Row]) -> dict[str, Any]:
    """What the page's scripts read."""
    sweep = context["tables"].get("sweep", ())
    of_all = sorted(overall(sweep), key=lambda row: float(row["sigma"]))
    methods = list(dict.fromkeys(row["method"] for row in overall(sweep)))
    sigmas = sorted({row["sigma"] for row in of_all})
    names = ("clip", "video", "class", "predicted", "start_frame", "flag", "figures", "single_frames")
    return {
        "methods": methods,
        "methodNames": {name: method_name(name) for name in (*methods, *context["legends"]["scales"])},
        "mainMethod": main_method(methods) if methods else None,
        "sigmas": sigmas,
        "swept": {
            name: {method: [row.get(name) for row in of_all if row["method"] == method] for method in methods}
            for column in swept
            for name in (column["name"], column["reason"])
            if name
        },
        "clips": [{name: clip.get(name) for name in names} for clip in context["clips"]],
        "files": {clip["clip"]: f"media/{clip_file(clip['clip'])}" for clip in context["clips"]},
        "scales": context["legends"]["scales"],
        "charts": charts.sweep_charts(sweep, swept),
        "curve": charts.curve_chart(methods),
        "palettes": context["legends"]["palettes"],
    }


def _file(name: str) -> str:
    return resources.files("storage.report").joinpath(name).read_text(encoding="utf-8")


def _flat(value: object, name: str = "") -> list[tuple[str, str]]:
    """Every leaf of a nested description as a dotted name and its text."""
    if isinstance(value, Mapping) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{name}.{key}".lstrip("."))]
    return [(name, value if isinstance(value, str) else json.dumps(value))]
