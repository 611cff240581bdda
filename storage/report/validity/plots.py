"""The pictures of a validity benchmark, as PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Container, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from storage.layout import ValidityPaths
from storage.report.drawing import own_style
from storage.report.validity.format import called, controls_of, default_map, of_use
from storage.stores.root import Root

FORMATS = ("png", "svg")
_COLOURS = {"magnitude": "C0", "rising": "C1", "falling": "C2"}
_KINDS = {"followers": "black", "others": "C3", "untrained": "grey"}

Tables = Mapping[str, pd.DataFrame]


def write_plots(root: Root, paths: ValidityPaths, tables: Tables) -> None:
    """Draw every plot from the tables and write it in each format."""
    # With a fixed salt and no date, the same tables give the same bytes.
    with own_style({"svg.hashsalt": "selrel"}):
        figures = {
            "motion-share": _scatter(tables),
            "rank-correlation": _correlations(tables["validity"]),
            "same-clip": _same_clip(tables["pairs"]),
            "localisation": _localisation(tables["localisation"]),
            "gain": _gain(tables["localisation"]),
            "sanity": _sanity(tables["sanity"]),
        }
        for name, figure in figures.items():
            for suffix in FORMATS:
                buffer = io.BytesIO()
                about: dict[str, Any] = {"Date": None} if suffix == "svg" else {}
                figure.savefig(buffer, format=suffix, dpi=110, metadata=about)
                root.write_bytes(paths.plot(f"{name}.{suffix}"), buffer.getvalue())


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
    chosen = default_map(shares[shares.camera == "all"])
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
    figure, axes = _against_sigma(
        of_use(validity), "spearman", "Rank correlation of motion share and motion use", banded=_COLOURS
    )
    for axis in axes:
        axis.axhline(0, color="black", linewidth=0.6)
        axis.set_ylim(-1.05, 1.05)
    axes[0].set_ylabel("Spearman", fontsize=8)
    return figure


def _same_clip(pairs: pd.DataFrame) -> Figure:
    """How often a clip has the higher share under a motion- than under a scene-trained model."""
    figure, axes = _against_sigma(
        pairs, "clip_auc", "The same clip under motion- and under scene-trained models", banded=["magnitude"]
    )
    for axis in axes:
        axis.axhline(0.5, color="black", linewidth=0.6)
        axis.set_ylim(-0.03, 1.03)
    axes[0].set_ylabel("AUC of the motion share", fontsize=8)
    return figure


def _against_sigma(
    table: pd.DataFrame, name: str, title: str, *, banded: Container[str]
) -> tuple[Figure, list[Any]]:
    """Draw a column of the selective positive maps, a line an edge; those banded with their intervals."""
    chosen = table[(table["sign"] == "positive") & (table.sigma > 0)]
    figure, axes = _panels(sorted(chosen.method.unique()), title)
    for axis, (_, part) in zip(axes, chosen.groupby("method"), strict=True):
        for edge, line in part.groupby("edge"):
            colour = _COLOURS[str(edge)]
            axis.plot(line.sigma, line[name], marker="o", markersize=3, color=colour, label=str(edge))
            if edge in banded:
                # Of one seed there are no intervals.
                low, high = (line[f"{name}{end}"].astype(float) for end in ("_low", "_high"))
                axis.fill_between(line.sigma, low, high, color=colour, alpha=0.12, linewidth=0)
        axis.set_xlabel("sigma", fontsize=8)
    axes[-1].legend(fontsize=7)
    return figure, axes


def _localisation(table: pd.DataFrame) -> Figure:
    """IoU of the map and the deciding object against sigma, by kind of model, beside the controls."""
    chosen = default_map(table, sigma=None)
    figure, axes = _panels(sorted(chosen.method.unique()), "IoU with the deciding object")
    for axis, (_, part) in zip(axes, chosen.groupby("method"), strict=True):
        for kind, line in part.groupby("kind", sort=False):
            colour = _KINDS[str(kind)]
            label = f"map, {kind}"
            axis.plot(line.sigma, line.object_iou, marker="o", markersize=3, color=colour, label=label)
            axis.fill_between(line.sigma, line.object_iou_low, line.object_iou_high, color=colour, alpha=0.1)
        followers = part[part.kind == "followers"]
        for number, control in enumerate(controls_of(table)):
            iou = followers[f"{control}_iou"]
            axis.plot(followers.sigma, iou, "--", color=f"C{number}", linewidth=1, label=called(control))
        axis.set_ylim(0, None)
        axis.set_xlabel("sigma (0: baseline)", fontsize=8)
    axes[0].set_ylabel("intersection over union", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def _gain(table: pd.DataFrame) -> Figure:
    """The map's IoU less each control's, with paired intervals, at 2 sigma: right of 0, it is above."""
    chosen, controls = default_map(table), controls_of(table)
    figure, axes = _panels(
        sorted(chosen.method.unique()), "IoU of the map less that of a control of its area (2 sigma)"
    )
    for axis, (_, part) in zip(axes, chosen.groupby("method"), strict=True):
        for shift, row in enumerate(part.to_dict("records")):
            at = [number + 0.2 * shift for number in range(len(controls))]
            gain, low, high = (
                pd.Series([row[f"{name}_gain{end}"] for name in controls], dtype=float)
                for end in ("", "_low", "_high")
            )
            colour = _KINDS[row["kind"]]
            axis.hlines(at, low, high, color=colour, linewidth=1)
            axis.plot(gain, at, "o", markersize=3, color=colour, label=row["kind"])
        axis.axvline(0, color="black", linewidth=0.6)
        axis.set_yticks(range(len(controls)), [called(name) for name in controls] if axis is axes[0] else [])
        axis.set_ylim(len(controls) - 0.3, -0.4)
        axis.set_xlabel("IoU less the control's", fontsize=8)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def _sanity(table: pd.DataFrame) -> Figure:
    """What is left of the trained model's explanation as layers become random, from the last to the first."""
    titles = ["rank correlation", "IoU of selective maps over chance"]
    shares = {"motion": "motion share, motion-trained", "context": "motion share, scene-trained"}
    figure, axes = _panels([*titles, *shares.values()], "Random weights (layers, from the last on)")
    table = table.sort_values(["method", "randomised"])
    for method, part in table[table.kind == "all"].groupby("method"):
        axes[0].plot(part.layer, part.correlation, marker="o", markersize=3, label=str(method))
        axes[1].plot(part.layer, part.iou - part.chance_iou, marker="o", markersize=3)
    for axis, kind in zip(axes[2:], shares, strict=True):
        for _, part in table[table.kind == kind].groupby("method"):
            layers = ["trained", *part.layer]
            axis.plot(layers, [part.share_before.iloc[0], *part.share_after], marker="o", markersize=3)
        axis.set_ylim(0, 1.05 * table[["share_before", "share_after"]].max().max())
    for axis in axes:
        axis.axhline(0, color="black", linewidth=0.6)
        axis.tick_params(axis="x", rotation=45)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure
