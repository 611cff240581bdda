"""The pictures of a validity benchmark, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from storage.layout import Root, ValidityPaths

FORMATS = ("png", "svg")
_COLOURS = {"magnitude": "C0", "rising": "C1", "falling": "C2"}
_CONTROLS = ("random", "centre", "flow", "change")

Tables = Mapping[str, pd.DataFrame]


def write_plots(root: Root, paths: ValidityPaths, tables: Tables) -> None:
    """Draw every plot from the tables and write it in each format."""
    for name, figure in _figures(tables):
        for suffix in FORMATS:
            buffer = io.BytesIO()
            # Without a date, the same tables give the same bytes.
            about: dict[str, Any] = {"Date": None} if suffix == "svg" else {}
            figure.savefig(buffer, format=suffix, dpi=110, metadata=about)
            root.write_bytes(paths.plot(f"{name}.{suffix}"), buffer.getvalue())


def _figures(tables: Tables) -> Iterator[tuple[str, Figure]]:
    yield "motion-share", _scatter(tables)
    yield "rank-correlation", _correlations(tables["validity"])
    yield "localisation", _localisation(tables["localisation"])
    yield "sanity", _sanity(tables["sanity"])


def _panels(names: list[str], title: str) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(2.9 * len(names), 3.4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = [figure.add_subplot(1, len(names), number) for number in range(1, len(names) + 1)]
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.tick_params(labelsize=7)
    return figure, axes


def _scatter(tables: Tables) -> Figure:
    """Motion share against true motion use: a dot a model."""
    shares = tables["shares"]
    chosen = shares[
        (shares.camera == "all")
        & (shares.edge == "magnitude")
        & (shares.sign == "positive")
        & (shares.sigma == 2)
    ]
    joined = chosen.merge(tables["models"], on="case")
    figure, axes = _panels(
        sorted(joined.method.unique()), "Motion share (2 sigma) against what the model does"
    )
    for axis, (_, part) in zip(axes, joined.groupby("method"), strict=True):
        trained = part[part.trained]
        dots = axis.scatter(trained.motion_use, trained.share, c=trained.context, cmap="viridis", s=22)
        for value in part.share[~part.trained]:
            axis.axhline(value, color="grey", linewidth=0.6, linestyle=":")
        axis.set_xlabel("conflicts decided by motion", fontsize=8)
    axes[0].set_ylabel("motion share (dotted: untrained)", fontsize=8)
    figure.colorbar(dots, ax=axes, label="correlation of scene and class in training")
    return figure


def _correlations(validity: pd.DataFrame) -> Figure:
    """Rank correlation of motion share and motion use against sigma."""
    chosen = validity[
        (validity.camera == "all")
        & (validity.sign == "positive")
        & (validity.what == "share")
        & (validity.measure == "motion_use")
        & (validity.sigma > 0)
    ]
    figure, axes = _panels(sorted(chosen.method.unique()), "Rank correlation of motion share and motion use")
    for axis, (_, part) in zip(axes, chosen.groupby("method"), strict=True):
        for edge, line in part.groupby("edge"):
            colour = _COLOURS[str(edge)]
            axis.plot(line.sigma, line.spearman, marker="o", markersize=3, color=colour, label=str(edge))
            axis.fill_between(
                line.sigma, line.spearman_low, line.spearman_high, color=colour, alpha=0.12, linewidth=0
            )
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_ylim(-1.05, 1.05)
        axis.set_xlabel("sigma", fontsize=8)
    axes[0].set_ylabel("Spearman", fontsize=8)
    axes[-1].legend(fontsize=7)
    return figure


def _localisation(table: pd.DataFrame) -> Figure:
    """IoU of the selective map and the deciding object against sigma, beside the controls."""
    chosen = table[(table.kind == "motion") & (table.edge == "magnitude") & (table["sign"] == "positive")]
    figure, axes = _panels(
        sorted(chosen.method.unique()), "IoU with the deciding object, models that follow motion"
    )
    for axis, (_, part) in zip(axes, chosen.groupby("method"), strict=True):
        axis.plot(part.sigma, part.object_iou, marker="o", markersize=3, color="black", label="selective")
        axis.fill_between(part.sigma, part.object_iou_low, part.object_iou_high, color="black", alpha=0.1)
        for number, control in enumerate(_CONTROLS):
            axis.plot(part.sigma, part[f"{control}_iou"], color=f"C{number}", linewidth=1, label=control)
        axis.set_ylim(0, None)
        axis.set_xlabel("sigma (0: baseline)", fontsize=8)
    axes[0].set_ylabel("intersection over union", fontsize=8)
    axes[-1].legend(fontsize=7)
    return figure


def _sanity(table: pd.DataFrame) -> Figure:
    """Likeness to the trained model's explanation as layers become random, from the last to the first."""
    figure, axes = _panels(["rank correlation", "IoU of selective maps over chance"], "Random weights")
    for method, part in table.groupby("method"):
        axes[0].plot(part.layer, part.correlation, marker="o", markersize=3, label=str(method))
        axes[1].plot(part.layer, part.iou - part.chance_iou, marker="o", markersize=3, label=str(method))
    for axis in axes:
        axis.axhline(0, color="black", linewidth=0.6)
        axis.tick_params(axis="x", rotation=45)
    axes[1].legend(fontsize=6)
    return figure
