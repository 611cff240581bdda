"""Page: gathers what a run's report shows, and writes it."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow.compute as pc  # type: ignore[import-untyped]
import torch

from selrel.explain import units
from selrel.pictures.images import PALETTES, flow_wheel, png, relevance_scale, steps, webp
from selrel.pictures.playback import flow_strip, frame_strip, layer
from selrel.scores.aggregate import SIGMA
from selrel.scores.metrics import swept, terms
from selrel.scores.single_frames import single_frames
from selrel.selective import SelectiveParameters, selective_mask, temporal_edges
from storage.arrays.cubes import read_block, read_relevance
from storage.layout import ReportPaths
from storage.report import write_clip, write_report
from storage.report.columns import main_method
from storage.report.media import clip_script
from storage.runs import Run
from storage.stores.root import Root
from storage.tables import check_kinds, read_table, read_tables
from tasks.clips import clips_of
from tasks.command import command
from tasks.shown import shown
from tasks.views import views

Row = Mapping[str, Any]
Axes = Mapping[str, int]

FLOW_SCALE = 4.0
# What a clip's change has, and what its frames have by themselves.
SPLIT = ("discriminative", "discriminative_spatial")
_KINDS = {"clip": "integer", "method": "text", "sigma": "number", "kept_relevance": "number or none"}
_THREADS = 4
# Of the shown frames and flows; the relevance is not compressed with losses.
_QUALITY = 85


def write_page(
    run: Run,
    *,
    clips: pd.DataFrame,
    tables: Mapping[str, Sequence[Row]],
    summary: Row,
    at: tuple[Root, ReportPaths] | None = None,
) -> None:
    """Write a run's report: a file for every clip that it shows, and the page.

    Parameters
    ----------
    run : Run
        Which.
    clips : DataFrame
        A row a clip, with ``predicted`` (class name), ``correct`` and ``flag``.
    tables, summary
        The run's tables and summary.
    at : Root and ReportPaths, optional
        Where to write, if not into the run.
    """
    root, paths = at or (run.root, run.paths.report)
    methods = run.settings["methods"]
    main, axes = main_method(methods), clips_of(run.root, run.description["dataset_id"]).axes
    chosen = shown(run, clips)
    featured, played = chosen.featured, chosen.rows
    # Of some of the clips, the relevance of single frames is told from that of their change.
    split = _split(run, [row["clip"] for row in played])
    for row in played:
        row["single_frames"] = _of_frames(run, row, axes) if row["clip"] in split else None

    def publish(row: Row) -> str | None:
        script = _script(run, row, axes, scales, split)
        write_clip(root, paths, row["clip"], script)
        return script if row["clip"] in featured else None

    # What takes the time, compressing, lets other threads run.
    with ThreadPoolExecutor(_THREADS) as pool:
        of_clips = list(
            pool.map(
                lambda row: {
                    n: relevance_scale(c) for n, c in _cubes(run, row, axes, split).items() if c.any()
                },
                played,
            )
        )
        # One scale a method for all clips: the middle one of those that have any relevance.
        names = [*methods, *(name for name in SPLIT if split and name not in methods)]
        own = {name: [scale[name] for scale in of_clips if name in scale] for name in names}
        scales = {name: float(f"{np.median(found or [1.0]):.2g}") for name, found in own.items()}
        # One for both, which are parts of one whole.
        scales |= dict.fromkeys(SPLIT, max(scales[name] for name in SPLIT)) if split else {}
        scripts = dict(zip((row["clip"] for row in played), pool.map(publish, played), strict=True))
    first = next((row for row in played if row["clip"] == next(iter(featured))), None)
    context = {
        "run": run.name,
        "n_classes": len(run.dataset.description["classes"]),
        "summary": dict(summary),
        "description": run.description,
        "tables": tables,
        "shown": list(views().values()),
        "words": terms(),
        "exclusions": _exclusions(run),
        "flags": clips[clips.flag != ""].to_dict("records"),
        "command": command(str(run.root), run.description, run.dataset.description),
        "clips": _with_figures(run, played),
        "featured": [{"clip": c, "place": at, "script": scripts[c]} for c, at in featured.items()],
        "legends": {
            "palettes": {name: list(ends) for name, ends in PALETTES.items()},
            "flow": png(flow_wheel()),
            "flow_scale": FLOW_SCALE,
            "scales": scales,
            "units": {
                **dict.fromkeys(SPLIT, units(SPLIT[0], {})),
                **{name: units(name, given) for name, given in methods.items()},
            },
            "steps": None if first is None else _first_steps(run, first, axes, main, scales[main]),
        },
    }
    write_report(root, paths, context)


def _exclusions(run: Run) -> list[dict[str, Any]]:
    # A run of the first release has no exclusions of its own.
    own = run.root.exists(run.paths.exclusions)
    path = run.paths.exclusions if own else run.dataset.paths.exclusions
    # A row a video of the data set, and one of those that the run left out.
    most_rows = max(1000, 2 * len(run.dataset.description["videos"]))
    table = read_table(run.root, path, most_rows=most_rows)
    kinds = dict.fromkeys(("video", "class", "kind", "reason"), "text or none")
    check_kinds(table, kinds, run.root.join(path))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def _split(run: Run, played: Sequence[int]) -> set[int]:
    """The clips of which the discriminative method has been computed."""
    if SPLIT[0] in run.settings["methods"]:
        return set(played)
    if not run.root.exists(run.paths.played):
        return set()
    return set(read_table(run.root, run.paths.played)["clip"].to_pylist()) & set(played)


def _of_frames(run: Run, row: Row, axes: Axes) -> dict[str, Any]:
    """What each frame of a clip gives alone."""
    at, frames = row["clip"], f"{SPLIT[0]}_frames"
    found = read_block(run.root, run.paths.relevance, at, at + 1, [frames, "logits", "target"], axes=axes)
    return single_frames(
        found[frames][0], found["logits"][0], int(found["target"][0]), n_valid=row["n_valid_frames"]
    )


def _script(run: Run, row: Row, axes: Axes, scales: Mapping[str, float], split: Container[int]) -> str:
    """One clip's file."""
    frames, flow = _seen(run, row, axes)
    parameters = SelectiveParameters(**run.settings["selective"])
    layers = {
        name: layer(cube, run.settings["sigmas"], parameters, scale=scales[name])
        for name, cube in _cubes(run, row, axes, split).items()
    }
    return clip_script(
        row["clip"],
        frames=webp(frame_strip(frames), quality=_QUALITY),
        flow=webp(flow_strip(flow, scale=FLOW_SCALE), quality=_QUALITY),
        layers=layers,
    )


def _seen(run: Run, row: Row, axes: Axes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.floating]]:
    """The valid frames of a clip, and their flow."""
    dataset, at, n_valid = run.dataset.paths, row["clip"], row["n_valid_frames"]
    frames = read_block(run.root, dataset.frames, at, at + 1, ["frames"], axes=axes)["frames"][0, :n_valid]
    flow = read_block(run.root, dataset.motion, at, at + 1, ["flow"], axes=axes)["flow"][0, :n_valid]
    return frames, flow


def _cubes(run: Run, row: Row, axes: Axes, split: Container[int] = ()) -> dict[str, npt.NDArray[np.float32]]:
    """The explanations of a clip's valid frames, by method; of clips in `split`, spatial and temporal too."""
    at, n_valid = row["clip"], row["n_valid_frames"]
    names = dict.fromkeys([*run.settings["methods"], *(SPLIT if at in split else ())])
    return {
        name: read_relevance(run.root, run.paths.relevance, name, at, at + 1, axes=axes)[0, :n_valid]
        for name in names
    }


def _with_figures(run: Run, played: Sequence[Row]) -> list[dict[str, Any]]:
    """The clips with their scores: by method, a list over the maps from the baseline to the highest sigma."""
    names = [column.name for column in swept()]
    wanted = read_tables(
        run.root,
        run.paths.scores,
        columns=["clip", "method", "sigma", *names],
        where=pc.field("clip").isin([row["clip"] for row in played]),
        kinds=_KINDS | dict.fromkeys(names, "number or none"),
    ).to_pandas()
    figures: dict[int, dict[str, dict[str, list[float | None]]]] = {row["clip"]: {} for row in played}
    for key, rows in wanted.sort_values("sigma").groupby(["clip", "method"]):
        clip, method = cast(tuple[int, str], key)
        figures[clip][method] = {
            name: [None if pd.isna(value) else round(float(value), 5) for value in rows[name]]
            for name in names
        }
    return [{**row, "figures": figures[row["clip"]]} for row in played]


def _first_steps(run: Run, row: Row, axes: Axes, method: str, scale: float) -> bytes:
    """The method in one picture: of a clip, the frame that keeps the most."""
    frames, _ = _seen(run, row, axes)
    cube = _cubes(run, row, axes)[method]
    parameters = SelectiveParameters(**run.settings["selective"], sigma=SIGMA)
    mask = selective_mask(torch.from_numpy(cube), len(cube), parameters).numpy()
    edges = temporal_edges(torch.from_numpy(cube), border=parameters.border).numpy()
    at = int(np.where(mask, np.maximum(cube, 0), 0).sum((1, 2)).argmax())
    return png(steps(frames[at], cube[at], edges[at], mask[at], scale=scale))
