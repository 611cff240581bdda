"""Verdict: the tables, plots and page of the validity benchmark, from what was measured of each case."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.behaviour import CHANGES, cue_conflict, motion_use
from selrel.scores.intervals import group_bootstrap, ratio_interval
from selrel.scores.localisation import ratios
from selrel.scores.ranks import auc, auc_interval, spearman, spearman_interval
from storage.tables import read_tables, write_table
from storage.validity_page import write_page
from storage.validity_plots import write_plots
from tasks.benchmark import Bench
from tasks.stages import StageFailed

Row = dict[str, Any]
Frame = pd.DataFrame

CAMERAS = {"all": (False, True), "still": (False,), "panned": (True,)}
MEASURES = ("motion_use", "freeze_effect")
MAP = ["method", "edge", "sign", "sigma"]
CONTROLS = ("random", "centre", "flow", "change")
TRUTHS = ("object", "swept", "moving")


@task(name="verdict", cache_policy=NO_CACHE)
def verdict(bench: Bench) -> None:
    """Reduce all measurements to tables, plots and a page, and mark the benchmark as complete.

    Raises
    ------
    StageFailed
        If a case was not measured.
    """
    place, paths = bench.place, bench.paths
    if place.exists(paths.success):
        return
    tables = tables_of(bench)
    for name, table in tables.items():
        write_table(place, paths.table(name), table)
    write_plots(place, paths, tables)
    write_page(place, paths, tables, settings=bench.settings.as_dict())
    place.write_json(paths.success, {"models": len(tables["models"])})


def tables_of(bench: Bench) -> dict[str, Frame]:
    """Make the tables.

    Returns
    -------
    dict of DataFrame
        ``models``, a row a case: what it was trained on and what it does. ``shares``, a row a case, map and
        camera: the motion share, and the share of relevance on the deciding object. ``validity``, a row a
        map, camera and measure of behaviour: rank correlation and AUC. ``localisation``, a row a kind of
        model and map: precision, recall and IoU, beside the controls. ``sanity``, a row a layer and method.
    """
    models = models_table(bench, _measured(bench, "behaviour"))
    clips = _with_ratios(_measured(bench, "truth"))
    shares = shares_table(clips)
    return {
        "models": models,
        "shares": shares,
        "validity": validity_table(models, shares),
        "pairs": pairs_table(models, clips),
        "localisation": localisation_table(models, clips),
        "sanity": sanity_table(_measured(bench, "sanity")),
    }


def _measured(bench: Bench, kind: str) -> Frame:
    """Read what was measured of the cases, of which none may be missing."""
    settings, place = bench.settings, bench.place
    numbers = settings.sanity_cases if kind == "sanity" else range(len(settings.cases))
    names = [settings.cases[number].name for number in numbers]
    missing = [name for name in names if not place.exists(bench.paths.measured(kind, name))]
    if missing:
        raise StageFailed(
            f"verdict: {kind} of {', '.join(missing)} is missing, and the comparison needs every model; "
            "start the same command again, it measures what is missing"
        )
    found: Frame = read_tables(place, bench.paths.measured(kind, "any").rpartition("/")[0]).to_pandas()
    return found


def models_table(bench: Bench, behaviour: Frame) -> Frame:
    """What each case was trained on, and what it does."""
    return pd.DataFrame(
        [
            {
                "case": case.name,
                "trained": case.trained,
                "motion": case.motion,
                "context": case.context,
                "seed": case.seed,
                **_behaviour(behaviour[behaviour.case == case.name]),
            }
            for case in bench.settings.cases
        ]
    )


def _behaviour(rows: Frame) -> Row:
    label, kind, group = (rows[name].to_numpy() for name in ("label", "kind", "group"))
    conflict = kind != label
    counts = cue_conflict(rows.predicted_intact.to_numpy(), label, kind)
    lost = rows.lost_frozen.to_numpy()
    effect = group_bootstrap(lost, group) or (None, None)
    use = _use_interval(rows) or (None, None)
    return {
        **{f"accuracy_{name}": float((rows[f"predicted_{name}"] == label).mean()) for name in CHANGES},
        "accuracy_swapped": float((rows.predicted_intact.to_numpy() == label)[conflict].mean()),
        "accuracy_agreeing": float((rows.predicted_intact.to_numpy() == label)[~conflict].mean()),
        **counts,
        "motion_use": motion_use(counts),
        "motion_use_low": use[0],
        "motion_use_high": use[1],
        "freeze_effect": float(lost.mean()),
        "freeze_effect_low": effect[0],
        "freeze_effect_high": effect[1],
        **{f"lost_{name}": float(rows[f"lost_{name}"].mean()) for name in ("shuffled", "reversed")},
    }


def _use_interval(rows: Frame) -> tuple[float, float] | None:
    decided = [
        cue_conflict(part.predicted_intact.to_numpy(), part.label.to_numpy(), part.kind.to_numpy())
        for _, part in rows.groupby("group", sort=True)
    ]
    motion = np.array([counts["follows_motion"] for counts in decided])
    either = motion + np.array([counts["follows_context"] for counts in decided])
    return ratio_interval(motion, either)


def _with_ratios(rows: Frame) -> Frame:
    """Add to the counts of each clip and map what they mean, for the map and for each control."""
    area = rows.chosen / rows.voxels
    rows = rows.assign(
        share=_divided(rows.relevance, rows.baseline_relevance),
        object_share=_divided(rows.object_relevance, rows.relevance),
        object_area=rows.object_voxels / rows.voxels,
        area=area,
        random_hits=area * rows.object_voxels,
    )
    for truth in TRUTHS:
        found = ratios_of(rows.chosen, rows[f"{truth}_voxels"], rows[f"{truth}_hits"])
        rows = rows.assign(**{f"{truth}_{name}": values for name, values in found.items()})
    for control in CONTROLS:
        found = ratios_of(rows.chosen, rows.object_voxels, rows[f"{control}_hits"])
        rows = rows.assign(**{f"{control}_{name}": values for name, values in found.items()})
    return rows


def ratios_of(chosen: Any, true: Any, hits: Any) -> dict[str, npt.NDArray[np.float64]]:
    """`selrel.scores.localisation.ratios` of many maps: NaN where nothing divides."""
    rows = [ratios(*counts) for counts in zip(chosen, true, hits, strict=True)]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0]}


def _divided(part: Any, whole: Any) -> npt.NDArray[np.float64]:
    above, below = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    shares: npt.NDArray[np.float64] = np.divide(
        above, below, out=np.full(len(above), np.nan), where=below > 0
    )
    return shares


def shares_table(clips: Frame) -> Frame:
    """Mean motion share and share on the deciding object over clips, by case, map and camera."""
    parts = []
    for camera, kinds in CAMERAS.items():
        held = clips[clips.panned.isin(kinds)]
        names = ["share", "object_share", "object_area", "area"]
        parts.append(held.groupby(["case", *MAP])[names].mean().reset_index().assign(camera=camera))
    return pd.concat(parts, ignore_index=True)


def validity_table(models: Frame, shares: Frame) -> Frame:
    """Whether a share rises with true motion use over the trained cases: a row a map, camera and measure."""
    trained = models[models.trained]
    joined = shares.merge(trained, on="case")
    return pd.DataFrame(
        [
            {**dict(zip([*MAP, "camera"], key, strict=True)), "what": what, "measure": measure, **found}
            for key, part in joined.groupby([*MAP, "camera"], sort=True)
            for what in ("share", "object_share")
            for measure in MEASURES
            for found in _agreement(part[what], part[measure], part.motion_use)
        ]
    )


def _agreement(values: Any, measure: Any, use: Any) -> Iterator[Row]:
    """Rank correlation with a measure; AUC of the models that follow motion against those that do not."""
    first, second = (np.asarray(column, np.float64) for column in (values, measure))
    known = ~(np.isnan(first) | np.isnan(second))
    if known.sum() < 3:
        return
    first, second = first[known], second[known]
    follows = np.asarray(use, np.float64)[known] >= 0.5
    low, high = spearman_interval(first, second) or (None, None)
    auc_low, auc_high = auc_interval(first[follows], first[~follows]) or (None, None)
    yield {
        "models": len(first),
        "spearman": spearman(first, second),
        "spearman_low": low,
        "spearman_high": high,
        "followers": int(follows.sum()),
        "auc": auc(first[follows], first[~follows]),
        "auc_low": auc_low,
        "auc_high": auc_high,
    }


def pairs_table(models: Frame, clips: Frame) -> Frame:
    """How often the same clip has the higher share under a motion-trained than under a context-trained model.

    All pairs of a case trained on motion alone with one trained on the scene alone; groups are resampled.
    """
    least = models.context[models.trained & (models.motion == 1)].min()
    sides = {
        "motion": models.case[models.trained & (models.motion == 1) & (models.context == least)],
        "context": models.case[models.motion == 0],
    }
    rows = []
    for key, part in clips.groupby(MAP, sort=True):
        wide = part.pivot(index=["group", "clip"], columns="case", values="share")
        ours, theirs = (wide[list(names)].to_numpy() for names in sides.values())
        wins = (ours[:, :, None] > theirs[:, None]) + 0.5 * (ours[:, :, None] == theirs[:, None])
        wins[np.isnan(ours[:, :, None] + theirs[:, None])] = np.nan
        compared = np.isfinite(wins).sum(axis=(1, 2))
        per_clip = _divided(np.nansum(wins, axis=(1, 2)), compared)
        low, high = group_bootstrap(per_clip, wide.index.get_level_values("group").to_numpy()) or (None, None)
        rows.append(
            {
                **dict(zip(MAP, key, strict=True)),
                "clips": int((compared > 0).sum()),
                "clip_auc": float(np.nanmean(per_clip)) if compared.any() else None,
                "clip_auc_low": low,
                "clip_auc_high": high,
            }
        )
    return pd.DataFrame(rows)


def localisation_table(models: Frame, clips: Frame) -> Frame:
    """Precision, recall and IoU of each map against the truth and of its area-matched controls."""
    kinds = {
        "motion": models.case[models.trained & (models.motion_use >= 0.5)],
        "context": models.case[models.trained & ~(models.motion_use >= 0.5)],
        "untrained": models.case[~models.trained],
    }
    measured = ("precision", "recall", "iou")
    names = ["area", "share", "object_share", "object_area"]
    names += [f"{what}_{name}" for what in (*TRUTHS, *CONTROLS) for name in measured]
    parts = []
    for kind, cases in kinds.items():
        held = clips[clips.case.isin(cases)]
        if len(held):
            found = held.groupby(MAP)[names].mean().reset_index()
            intervals = _intervals(held, found, MAP, "object_iou")
            parts.append(found.assign(kind=kind, models=len(cases), **intervals))
    return pd.concat(parts, ignore_index=True)


def _intervals(held: Frame, found: Frame, by: list[str], name: str) -> dict[str, Any]:
    """Intervals over groups of a column's mean, in the order of the rows found."""
    parts = {key: part for key, part in held.groupby(by)}
    intervals = [
        group_bootstrap(parts[tuple(row)][name].to_numpy(), parts[tuple(row)].group.to_numpy())
        or (None, None)
        for row in found[by].itertuples(index=False)
    ]
    return {f"{name}_low": [low for low, _ in intervals], f"{name}_high": [high for _, high in intervals]}


def sanity_table(rows: Frame) -> Frame:
    """Mean likeness of explanations of trained and of random weights, by layer and method."""
    order = {layer: number for number, layer in enumerate(dict.fromkeys(rows.layer), start=1)}
    by = ["method", "layer"]
    found = rows.groupby(by)[["correlation", "iou", "chance_iou"]].mean().reset_index()
    intervals = {name: _intervals(rows, found, by, name) for name in ("correlation", "iou")}
    return (
        found.assign(randomised=found.layer.map(order), **intervals["correlation"], **intervals["iou"])
        .sort_values(["method", "randomised"])
        .reset_index(drop=True)
    )
