"""The page of a validity benchmark: what was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from storage.layout import Root, ValidityPaths

Tables = Mapping[str, pd.DataFrame]
SIGMA = 2.0
_CARE = (
    "Intervals over models are too narrow: they take the seeds of a condition for independent. Where the "
    "models that follow the motion are separated from the others, the AUC prints as 1.00 [1.00, 1.00] "
    "however few they are, and that alone gives a high Spearman (0.67 for 12 above 6, with no order "
    "within either). This ranks trained small models of this drawn set; it does not say how far that "
    "carries to other data."
)
_BRIGHT = (
    "The object that decides is also the brightest thing in these pictures, so a map on it may have found "
    "what moves or what is bright; the controls don't tell which."
)


def write_page(root: Root, paths: ValidityPaths, tables: Tables, *, settings: Mapping[str, Any]) -> None:
    """Write the page of a benchmark."""
    root.write_bytes(paths.page, page(tables, settings=settings).encode())


def page(tables: Tables, *, settings: Mapping[str, Any]) -> str:
    """Make the text of the page from the tables."""
    sections = {
        "What the models do": _models(tables["models"]),
        "Does the motion share rise with true motion use?": _validity(tables),
        "The best maps": _best(tables["validity"]),
        "Does the selective map find the object that decides?": _localisation(tables["localisation"]),
        "Random weights": _sanity(tables["sanity"]),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items())
    made = ", ".join(f"{name} {value}" for name, value in sorted(settings.items()))
    pictures = "\n\n".join(
        f"![{name}](plots/{name}.png)"
        for name in ("motion-share", "rank-correlation", "localisation", "sanity")
    )
    return f"# Validity\n\nMade with: {made}.\n\n{body}\n\n{pictures}\n"


def _models(models: pd.DataFrame) -> str:
    kinds = models.assign(
        trained_on=[
            "nothing"
            if not m.trained
            else "scene alone"
            if m.motion == 0
            else f"motion, correlation {m.context:g}"
            for m in _rows(models)
        ]
    )
    rows = [
        [
            kind,
            len(part),
            *(
                _percent(part[f"accuracy_{name}"].mean())
                for name in ("intact", "frozen", "shuffled", "reversed")
            ),
            _percent(part.accuracy_swapped.mean()),
            _span(part.motion_use),
            _span(part.freeze_effect),
        ]
        for kind, part in kinds.groupby("trained_on", sort=False)
    ]
    names = ["trained on", "models", "intact", "frozen", "shuffled", "reversed", "swapped scene"]
    return _table([*names, "motion use (least to most)", "freeze effect"], rows)


def _validity(tables: Tables) -> str:
    validity, pairs = tables["validity"], tables["pairs"]
    chosen = validity[
        (validity.sigma == SIGMA)
        & (validity.edge == "magnitude")
        & (validity["sign"] == "positive")
        & (validity.what == "share")
    ]
    rows = []
    for method, part in chosen.groupby("method"):
        by = {(row.camera, row.measure): row for row in _rows(part)}
        use, freeze = by["all", "motion_use"], by["all", "freeze_effect"]
        (pair,) = _rows(
            pairs[
                (pairs.method == method)
                & (pairs.sigma == SIGMA)
                & (pairs.edge == "magnitude")
                & (pairs["sign"] == "positive")
            ]
        )
        rows.append(
            [
                method,
                _interval(use.spearman, use.spearman_low, use.spearman_high),
                _interval(freeze.spearman, freeze.spearman_low, freeze.spearman_high),
                *(_number(by[camera, "motion_use"].spearman) for camera in ("still", "panned")),
                _interval(use.auc, use.auc_low, use.auc_high),
                _interval(pair.clip_auc, pair.clip_auc_low, pair.clip_auc_high),
            ]
        )
    names = ["method (2 sigma, magnitude)", "Spearman, motion use", "Spearman, freeze effect"]
    table = _table([*names, "still camera", "panned camera", "AUC, models", "AUC, same clip"], rows)
    return f"{table}\n\n{_CARE}"


def _best(validity: pd.DataFrame) -> str:
    chosen = validity[
        (validity.camera == "all") & (validity.measure == "motion_use") & (validity.what == "share")
    ]
    rows = []
    for method, part in chosen[(chosen.sigma > 0)].dropna(subset=["spearman"]).groupby("method"):
        ordered = _rows(part.sort_values("spearman"))
        rows.append([method, _described(ordered[-1]), _described(ordered[0])])
    return _table(["method", "highest rank correlation", "lowest"], rows)


def _described(row: Any) -> str:
    value = _interval(row.spearman, row.spearman_low, row.spearman_high)
    return f"{row.sign} relevance, {row.edge} edge, {row.sigma:g} sigma: {value}"


def _localisation(table: pd.DataFrame) -> str:
    chosen = table[
        (table.edge == "magnitude")
        & (table["sign"] == "positive")
        & table.sigma.isin([0.0, 1.0, SIGMA, 3.0])
        & (table.kind == "motion")
    ]
    rows = [
        [
            row.method,
            f"{row.sigma:g}" if row.sigma else "baseline",
            _percent(row.area),
            _percent(row.object_precision),
            _percent(row.object_recall),
            _interval(row.object_iou, row.object_iou_low, row.object_iou_high),
            *(_number(getattr(row, f"{name}_iou")) for name in ("random", "centre", "flow", "change")),
            f"{_percent(row.object_share)} ({_percent(row.object_area)})",
        ]
        for row in _rows(chosen)
    ]
    names = ["method", "sigma", "area", "precision", "recall", "IoU"]
    controls = ["random", "centre", "flow", "picture change"]
    found = _table([*names, *controls, "relevance on the object (its area)"], rows)
    return f"{found}\n\n{_BRIGHT}"


def _sanity(table: pd.DataFrame) -> str:
    rows = []
    for method, part in table.groupby("method"):
        first, *_, last = _rows(part)
        rows.append(
            [
                method,
                *(
                    _interval(row.correlation, row.correlation_low, row.correlation_high)
                    for row in (first, last)
                ),
                *(
                    f"{_interval(row.iou, row.iou_low, row.iou_high)} (chance {_number(row.chance_iou)})"
                    for row in (first, last)
                ),
            ]
        )
    return _table(
        [
            "method",
            "rank correlation, last layer random",
            "all layers random",
            "IoU of selective maps, last layer",
            "all layers",
        ],
        rows,
    )


def _rows(frame: pd.DataFrame) -> list[Any]:
    """Give the rows, whose values have as many types as their columns."""
    return list(frame.itertuples())


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _number(value: float | None) -> str:
    return "-" if value is None or pd.isna(value) else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None or pd.isna(value) else f"{100 * value:.0f} %"


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    if low is None or pd.isna(low):
        return _number(value)
    return f"{_number(value)} [{_number(low)}, {_number(high)}]"


def _span(values: Any) -> str:
    return f"{_number(values.mean())} ({_number(values.min())} to {_number(values.max())})"
