"""The page of a validity benchmark: what was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from storage.layout import ValidityPaths
from storage.report.validity.format import (
    SIGMA,
    called,
    controls_of,
    default_map,
    interval,
    markdown,
    number,
    of_use,
    percent,
    rows_of,
    span,
)
from storage.report.validity.summary import figures, summary
from storage.stores.root import Root

Tables = Mapping[str, pd.DataFrame]
PLOTS = ("motion-share", "rank-correlation", "same-clip", "localisation", "gain", "sanity")
_CARE = (
    "Intervals of the correlations are over seeds, each left out in turn with its models of all "
    "conditions; the conditions stay as they were chosen. They say what other seeds may give, as far as "
    "three or so can tell, and nothing of other conditions, videos or networks; where leaving out a "
    "seed changes nothing, they are a point and say no more than that. *By kinds alone* is the "
    "correlation that telling followers from others gives with no order within either; only what is "
    "*over that* speaks for an order, as does the correlation among followers alone. The AUC's interval "
    "(Newcombe 2006, method 5) takes models for independent draws of their kind. That of the same clip "
    "is over scenes, under these models. None where there are fewer than three seeds, or scenes: they "
    "can't tell how far apart others lie. This ranks trained small models of this drawn set; it does "
    "not say how far that carries to other data."
)
_RELIANCE = (
    "Reliance is the part of the score of a class that is lost when the clips are changed: 0 if nothing is, "
    "1 if all is. Its zero is what a model that never follows motion has."
)
_PAIRED = (
    "Gain is the map's overlap less that of a control of the same area on the same clips; its interval "
    "is over scenes. Above 0 throughout, the map is above the control."
)
_RANDOM = (
    "Clips of both cameras, of motion- and of scene-trained models; intervals are over scenes. A share "
    "that stays when upper layers are random does not come from what they have learnt."
)


def write_page(root: Root, paths: ValidityPaths, tables: Tables, *, settings: Mapping[str, Any]) -> None:
    """Write the page of a benchmark."""
    root.write_bytes(paths.page, page(tables, settings=settings).encode())


def opening(root: Root, paths: ValidityPaths) -> str:
    """Read what the page says first, without the tables: they are wider than a terminal."""
    text = root.read_bytes(paths.page).decode()
    return text[text.index("## ") :].partition("\n\n## ")[0]


def page(tables: Tables, *, settings: Mapping[str, Any]) -> str:
    """Make the text of the page from the tables."""
    validity, pairs = tables["validity"], default_map(tables["pairs"])
    chosen = default_map(validity[validity.what == "share"])
    rows = []
    for method, part in chosen.groupby("method"):
        by = {(row.camera, row.measure): row for row in rows_of(part)}
        use = by["all", "motion_use"]
        (pair,) = rows_of(pairs[pairs.method == method])
        rows.append(
            [
                method,
                interval(use, "spearman"),
                number(use.spearman_of_kinds),
                interval(use, "over_kinds"),
                interval(use, "followers_spearman"),
                interval(by["all", "freeze_effect"], "spearman"),
                *(number(by[camera, "motion_use"].spearman) for camera in ("still", "panned")),
                interval(use, "auc"),
                interval(pair, "clip_auc"),
            ]
        )
    names = ["method (2 sigma, magnitude)", "Spearman, motion use", "by kinds alone", "over that"]
    names += ["followers alone", "Spearman, freeze effect", "still camera", "panned camera"]
    table = markdown([*names, "AUC, models", "AUC, same clip"], rows)
    chosen = of_use(tables["validity"])
    rows = []
    for method, part in chosen[(chosen.sigma > 0)].dropna(subset=["spearman"]).groupby("method"):
        ordered = rows_of(part.sort_values("spearman"))
        rows.append([method, _described(ordered[-1]), _described(ordered[0])])
    sections = {
        "What this says": summary(tables),
        "The default map in figures": figures(tables),
        "What the models do": _models(tables["models"]),
        "Does motion reliance tell what a model uses?": _reliance(tables["reliance"]),
        "Does the motion share rise with true motion use?": (f"{table}\n\n{_CARE}"),
        "The best maps": markdown(["method", "highest rank correlation", "lowest"], rows),
        "Does the selective map find the object that decides?": _localisation(tables["localisation"]),
        "Random weights": _sanity(tables["sanity"]),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    made = ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))
    pictures = "\n\n".join(f"![{name}](plots/{name}.png)" for name in PLOTS)
    return f"# Validity\n\nMade with: {made}.\n\n{body}\n\n{pictures}\n"


def _reliance(table: pd.DataFrame) -> str:
    rows = [
        [
            row.change,
            row.target,
            *(
                f"{number(getattr(row, f'{kind}_mean'))} ({number(getattr(row, f'{kind}_min'))} to "
                f"{number(getattr(row, f'{kind}_max'))})"
                for kind in ("followers", "others")
            ),
            interval(row, "spearman"),
            interval(row, "over_kinds"),
            interval(row, "followers_spearman"),
            interval(row, "auc"),
        ]
        for row in rows_of(table)
    ]
    names = ["clips", "class", "models that follow motion (least to most)", "all other trained models"]
    names += ["Spearman, motion use", "over kinds alone", "followers alone", "AUC, models"]
    return f"{markdown(names, rows)}\n\n{_RELIANCE}"


def _models(models: pd.DataFrame) -> str:
    kinds = models.assign(
        trained_on=[
            "nothing"
            if not m.trained
            else "scene alone"
            if m.motion == 0
            else f"motion, correlation {m.context:g}"
            for m in rows_of(models)
        ]
    )
    rows = [
        [
            kind,
            len(part),
            *(
                percent(part[f"accuracy_{name}"].mean())
                for name in ("intact", "frozen", "shuffled", "reversed")
            ),
            percent(part.accuracy_swapped.mean()),
            span(part.motion_use),
            span(part.freeze_effect),
        ]
        for kind, part in kinds.groupby("trained_on", sort=False)
    ]
    names = ["trained on", "models", "intact", "frozen", "shuffled", "reversed", "swapped scene"]
    return markdown([*names, "motion use (least to most)", "freeze effect"], rows)


def _described(row: Any) -> str:
    return f"{row.sign} relevance, {row.edge} edge, {row.sigma:g} sigma: {interval(row, 'spearman')}"


def _localisation(table: pd.DataFrame) -> str:
    chosen = default_map(table, sigma=None)
    chosen = chosen[chosen.sigma.isin([0.0, 1.0, SIGMA, 3.0])].sort_values(["method", "sigma"], kind="stable")
    controls = controls_of(table)
    rows = [
        [
            row.method,
            f"{row.sigma:g}" if row.sigma else "baseline",
            f"{row.kind} ({row.models})",
            percent(row.area),
            percent(row.object_precision),
            percent(row.object_recall),
            interval(row, "object_iou"),
            *(number(getattr(row, f"{name}_iou")) for name in controls),
            f"{percent(row.object_share)} ({percent(row.object_area)})",
        ]
        for row in rows_of(chosen)
    ]
    names = ["method", "sigma", "models", "area", "precision", "recall", "IoU"]
    found = markdown([*names, *map(called, controls), "relevance on the object (its area)"], rows)
    gains = markdown(
        ["method (2 sigma)", "models", *(f"gain over {called(name)}" for name in controls)],
        [
            [row.method, row.kind, *(interval(row, f"{name}_gain") for name in controls)]
            for row in rows_of(chosen[chosen.sigma == SIGMA])
        ],
    )
    return f"{found}\n\n{_PAIRED}\n\n{gains}"


def _sanity(table: pd.DataFrame) -> str:
    table = table.sort_values(["method", "randomised"], kind="stable")
    rows = []
    for method, part in table[table.kind == "all"].groupby("method"):
        first, *_, last = rows_of(part)
        likeness = [f"{interval(row, 'iou')} (chance {number(row.chance_iou)})" for row in (first, last)]
        rows.append([method, *(interval(row, "correlation") for row in (first, last)), *likeness])
    names = ["method", "rank correlation, last layer random", "all layers random"]
    found = markdown([*names, "IoU of selective maps, last layer", "all layers"], rows)
    return f"{found}\n\n{_RANDOM}\n\n{_random_shares(table)}\n\n{_random_answers(table)}"


def _random_shares(table: pd.DataFrame) -> str:
    """The motion share before, and after each layer that became random."""
    rows = []
    for (method, kind), part in table[table.kind != "all"].groupby(["method", "kind"], sort=False):
        shares = (f"{number(row.share_after)} ({interval(row, 'share_change')})" for row in rows_of(part))
        rows.append([method, kind, number(part.share_before.iloc[0]), *shares])
    layers = [f"random from {layer} on" for layer in dict.fromkeys(table.layer)]
    return markdown(["motion share (change)", "trained on", "trained weights", *layers], rows)


def _random_answers(table: pd.DataFrame) -> str:
    """How often the models are right; the method makes no difference."""
    first = table[table.method == table.method.iloc[0]]
    rows = []
    for kind, part in first[first.kind != "all"].groupby("kind", sort=False):
        line = [kind, percent(part.right_before.iloc[0])]
        for row in rows_of(part):
            share, low, high = (percent(getattr(row, f"right_after{end}")) for end in ("", "_low", "_high"))
            line.append(share if low == "-" else f"{share} [{low}, {high}]")
        rows.append(line)
    layers = [f"random from {layer} on" for layer in dict.fromkeys(table.layer)]
    return markdown(["right answers, trained on", "trained weights", *layers], rows)
