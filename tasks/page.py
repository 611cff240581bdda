"""Page: gathers what a run's report shows, and draws its pictures."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from selrel.pictures import contact_sheet, flow_wheel, png, relevance_legend, relevance_scale, steps
from selrel.scores.aggregate import SIGMA
from selrel.scores.paper import PAPER
from selrel.selective import SelectiveParameters, selective_mask, temporal_edges
from storage.cubes import read_block, read_relevance
from storage.layout import Root
from storage.runs import read_run
from storage.tables import read_table, read_tables

Row = Mapping[str, Any]

FLOW_SCALE = 4.0
N_CLIPS = 5
_FEW_FRAMES = 8


def report_context(
    place: Root, run: str, *, clips: pd.DataFrame, tables: Mapping[str, Sequence[Row]], summary: Row
) -> dict[str, Any]:
    """Gather what `storage.report.write_report` takes.

    Parameters
    ----------
    place : Root
        Where the run lies.
    run : str
        Its name.
    clips : DataFrame
        A row a clip, with ``predicted`` (class name) and ``flag``.
    tables, summary
        The run's tables and summary.
    """
    description = read_run(place, place.run(run))
    dataset = place.dataset(description["dataset_id"])
    made_of = place.read_json(dataset.description)
    return {
        "run": run,
        "summary": dict(summary),
        "description": description,
        "tables": tables,
        "paper": PAPER,
        "exclusions": read_table(place, place.run(run).exclusions).to_pylist(),
        "flags": clips[clips.flag != ""].to_dict("records"),
        "clips": [_pictured(place, run, description, row) for row in _chosen(place, run, clips)],
        "legends": {
            "relevance": png(relevance_legend()),
            "flow": png(flow_wheel()),
            "flow_scale": FLOW_SCALE,
        },
        "command": command(str(place), description, made_of),
    }


def command(root: str, description: Row, dataset: Row) -> str:
    """Write the command line that repeats a run, from its run.json and its data set's description."""
    settings, profile = description["settings"], description["profile"]
    methods = settings["methods"]
    options = {
        "data": description["data"],
        "checkpoint": description["checkpoint"],
        "root": root,
        "split": dataset["split"],
        "subset": dataset["subset"],
        "classes": description["drawn"]["classes"],
        "videos": description["drawn"]["videos"],
        "seed": description["drawn"]["seed"],
        "methods": list(methods),
        "sigmas": settings["sigmas"],
        "target": settings["target"],
        **settings["selective"],
        "motion-rule": settings["motion"]["rule"],
        "tau": settings["motion"]["tau"],
        **{name: methods.get("deep_taylor", {}).get(name) for name in ("alpha", "start")},
        # A model of the user's own has no family to name.
        "family": None if description["model"] else description["family"],
        "model": description["model"],
        **{name: profile[name] for name in ("colour_order", "scale", "mean", "std", "label_order")},
        "crop": profile["view"]["crop"],
        # The command line has no way to say the other form, so the family's own stands.
        "resize": resize if isinstance(resize := profile["view"]["resize"], list | tuple) else None,
        "block-clips": dataset["block_clips"],
        "batch-clips": settings["batch_clips"],
    }
    words = ["selrel", "explain"]
    for name, value in options.items():
        if value is not None:
            values = value if isinstance(value, list | tuple) else [value]
            words += [f"--{name.replace('_', '-')}", *(shlex.quote(_word(one)) for one in values)]
    return " ".join(words)


def _word(value: object) -> str:
    # 2.0 as 2, and 1/255 with every digit: the identity of a run hangs on it.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _chosen(place: Root, run: str, clips: pd.DataFrame) -> list[dict[str, Any]]:
    """A few clips from the highest to the lowest motion share, with a note on each."""
    scores = read_tables(place, place.run(run).scores).to_pandas()
    methods = set(scores.method)
    method = "deep_taylor" if "deep_taylor" in methods else min(methods)
    scored = scores[(scores.method == method) & (scores.sigma == SIGMA) & scores.kept_relevance.notna()]
    rows = clips.merge(scored[["clip", "kept_relevance"]], on="clip")
    # A short rest of a video says little about motion; it is shown only where there is nothing else.
    long_enough = rows[rows.n_valid_frames >= _FEW_FRAMES]
    ranked = (rows if long_enough.empty else long_enough).sort_values(["kept_relevance", "clip"])
    places = np.unique(np.rint(np.linspace(0, len(ranked) - 1, min(N_CLIPS, len(ranked)))).astype(int))
    notes = [
        f"{100 * share:.1f} % of the relevance changes over time ({method}): number "
        f"{len(ranked) - at:,} of {len(ranked):,} clips."
        for at, share in enumerate(ranked.kept_relevance)
    ]
    chosen: list[dict[str, Any]] = ranked.assign(note=notes).iloc[places[::-1]].to_dict("records")  # type: ignore[assignment]
    return chosen


def _pictured(place: Root, run: str, description: Row, row: Row) -> dict[str, Any]:
    """Draw one clip's pictures."""
    paths, dataset = place.run(run), place.dataset(description["dataset_id"])
    at, n_valid, settings = int(row["clip"]), int(row["n_valid_frames"]), description["settings"]
    parameters = SelectiveParameters(**settings["selective"], sigma=SIGMA)
    frames = read_block(place, dataset.frames, at, at + 1, ["frames"])["frames"][0, :n_valid]
    flow = read_block(place, dataset.motion, at, at + 1, ["flow"])["flow"][0, :n_valid]
    cubes = {
        name: read_relevance(place, paths.relevance, name, at, at + 1)[0, :n_valid]
        for name in settings["methods"]
    }
    masks = {name: _mask(cube, parameters) for name, cube in cubes.items()}
    main = "deep_taylor" if "deep_taylor" in cubes else next(iter(cubes))
    return {
        **{name: row[name] for name in ("video", "class", "predicted", "start_frame", "note")},
        "sheet": png(contact_sheet(frames, flow, cubes, masks, flow_scale=FLOW_SCALE)),
        "steps": png(_steps(frames, cubes[main], masks[main], parameters)),
    }


def _mask(cube: npt.NDArray[np.float32], parameters: SelectiveParameters) -> npt.NDArray[np.bool_]:
    return selective_mask(torch.from_numpy(cube), len(cube), parameters).numpy()


def _steps(
    frames: npt.NDArray[np.uint8],
    cube: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
    parameters: SelectiveParameters,
) -> npt.NDArray[np.uint8]:
    middle = len(frames) // 2
    edges = temporal_edges(torch.from_numpy(cube), border=parameters.border).numpy()
    return steps(frames[middle], cube[middle], edges[middle], mask[middle], scale=relevance_scale(cube))
