"""Verdict: the tables, plots and page of the validity benchmark, from what was measured of each case."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from prefect import task
from prefect.cache_policies import NO_CACHE

from selrel.behaviour import CHANGES, cue_conflict, motion_use
from selrel.scores.intervals import mean_interval, ratio_interval
from selrel.scores.localisation import CONTROLS, ratios
from selrel.scores.ranks import (
    at_edge,
    auc,
    auc_interval,
    left_out_interval,
    spearman,
    spearman_interval,
    spearman_of_kinds,
    spearman_over_kinds,
)
from selrel.scores.reliance import RELIANCE_OF, reliance
from storage.report.validity.page import write_page
from storage.report.validity.plots import write_plots
from storage.tables import read_tables, write_table
from tasks.running.blocks import StageFailed
from tasks.validity.benchmark import LEAST_MODELS, Bench

Row = dict[str, Any]
Frame = pd.DataFrame
Interval = Callable[[Any, Any], tuple[float | None, float | None] | None]

CAMERAS = {"all": (False, True), "still": (False,), "panned": (True,)}
MEASURES = ("motion_use", "freeze_effect")
MAP = ["method", "edge", "sign", "sigma"]
BESIDE = ("random", *CONTROLS)
# More than this: a model that always gives the same answer has exactly this motion use.
FOLLOWS = 0.5
TRUTHS = ("object", "swept", "moving")
# The scores of the predicted class and of the true one, and what their reliances' names end with.
TARGETS = {"decision": "", "decision_true": "_true"}


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
        ``models``, a row a case: what it was trained on and what it does. ``reliance``, a row a change of the
        clips and class: whether reliance tells what a model uses. ``shares``, a row a case, map and
        camera: the motion share, and the share of relevance on the deciding object. ``validity``, a row a
        map, camera and measure of behaviour: rank correlation and AUC. ``pairs``, a row a map: the same clip
        under motion- and scene-trained models. ``localisation``, a row a kind of model and map: precision,
        recall and IoU, beside the controls and less them. ``sanity``, a row a kind of model, layer and
        method.
    """
    models = models_table(bench, _measured(bench, "behaviour"))
    clips = _with_ratios(_measured(bench, "truth"))
    shares = shares_table(clips)
    return {
        "models": models,
        "reliance": reliance_table(models),
        "shares": shares,
        "validity": validity_table(models, shares),
        "pairs": pairs_table(models, clips),
        "localisation": localisation_table(models, clips),
        "sanity": sanity_table(models, _measured(bench, "sanity")),
    }


def _measured(bench: Bench, kind: str) -> Frame:
    """Read what was measured of every case; none may be missing."""
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
    effect = mean_interval(lost, group) or (None, None)
    decided = [
        cue_conflict(part.predicted_intact.to_numpy(), part.label.to_numpy(), part.kind.to_numpy())
        for _, part in rows.groupby("group", sort=True)
    ]
    motion = np.array([of_group["follows_motion"] for of_group in decided])
    either = motion + np.array([of_group["follows_context"] for of_group in decided])
    use = ratio_interval(motion, either, of="share") or (None, None)
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
        **_reliances(rows, group),
    }


def _reliances(rows: Frame, group: Any) -> Row:
    """A model's reliance on motion, order and direction, by the predicted class and by the true one."""
    found: Row = {}
    for change, name in RELIANCE_OF.items():
        for decision, end in TARGETS.items():
            row = reliance(rows[decision].to_numpy(), rows[f"{decision}_{change}"].to_numpy(), group)
            found |= {
                f"{name}{end}{bound}": row[column]
                for bound, column in (("", "reliance"), ("_low", "low"), ("_high", "high"))
            }
    return found


def reliance_table(models: Frame) -> Frame:
    """Whether reliance rises with true motion use over the trained cases: a row a change and class."""
    trained = models[models.trained]
    follows = trained.motion_use > FOLLOWS
    return pd.DataFrame(
        [
            {
                "change": change,
                "target": "true" if end else "predicted",
                **{
                    f"{kind}_{what}": getattr(values[chosen], what)()
                    for kind, chosen in (("followers", follows), ("others", ~follows))
                    for what in ("mean", "min", "max")
                },
                **found,
            }
            for change, name in RELIANCE_OF.items()
            for end in TARGETS.values()
            for values in [trained[f"{name}{end}"].astype(float)]
            for found in _agreement(values, trained.motion_use, trained.motion_use, trained.seed)
        ]
    )


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
    for control in BESIDE:
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
            for found in _agreement(part[what], part[measure], part.motion_use, part.seed)
        ]
    )


def _agreement(values: Any, measure: Any, use: Any, seeds: Any) -> Iterator[Row]:
    """Rank correlation with a measure; AUC of the models that follow motion against those that do not.

    The conditions that models are trained under are chosen, not drawn, so intervals are over seeds alone. One
    seed gives the models of all conditions their first weights and the order of their videos, so a seed stays
    together with all of its models.
    """
    first, second = (np.asarray(column, np.float64) for column in (values, measure))
    known = ~(np.isnan(first) | np.isnan(second))
    if known.sum() < LEAST_MODELS:
        return
    first, second, seed = first[known], second[known], np.asarray(seeds)[known]
    follows = np.asarray(use, np.float64)[known] > FOLLOWS
    low, high = spearman_interval(first, second, seed) or (None, None)
    over = left_out_interval(spearman_over_kinds, (first, second, follows), seed) or (None, None)
    within = [side[follows] for side in (first, second, seed)]
    within_low, within_high = spearman_interval(*within) or (None, None)
    area = auc(first[follows], first[~follows])
    n = int(follows.sum())
    auc_low, auc_high = (None, None) if area is None else auc_interval(area, n, len(first) - n)
    yield {
        "models": len(first),
        "seeds": len(set(seed.tolist())),
        "spearman": spearman(first, second),
        "spearman_low": low,
        "spearman_high": high,
        "spearman_of_kinds": spearman_of_kinds(first, second, follows),
        "over_kinds": spearman_over_kinds(first, second, follows),
        "over_kinds_low": over[0],
        "over_kinds_high": over[1],
        "followers": n,
        "followers_spearman": spearman(*within[:2]),
        "followers_spearman_low": within_low,
        "followers_spearman_high": within_high,
        "auc": area,
        "auc_low": auc_low,
        "auc_high": auc_high,
    }


def pairs_table(models: Frame, clips: Frame) -> Frame:
    """How often the same clip has the higher share under a motion-trained than under a context-trained model.

    All pairs of a case trained on motion alone with one trained on the scene alone; with an interval over
    groups. Where every pair of every clip is in the same order, groups show no spread; the interval then
    reaches as far as groups may be otherwise of which none was seen.
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
        low, high = _share_interval(per_clip, wide.index.get_level_values("group").to_numpy())
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


def _share_interval(values: Any, groups: Any) -> tuple[float | None, float | None]:
    """Interval over groups of a mean of values of 0 to 1, with some width even where all are alike."""
    known = ~np.isnan(values)
    low, high = mean_interval(values, groups, of="share") or (None, None)
    if low is None or high is None or 0 < np.mean(values[known]) < 1:
        return low, high
    unseen = at_edge(len(set(groups[known])))
    return (low - unseen, high) if low else (low, high + unseen)


def localisation_table(models: Frame, clips: Frame) -> Frame:
    """Precision, recall and IoU of each map against the truth, of its area-matched controls, and the gain.

    ``<control>_gain`` is the map's IoU less the control's of the same area in the same clip, over all clips
    and models of the kind, with an interval over groups; above 0 throughout, the map is above the control.
    """
    trained, uses = models.trained, models.motion_use > FOLLOWS
    kinds = {"followers": trained & uses, "others": trained & ~uses, "untrained": ~trained}
    measured = ("precision", "recall", "iou")
    gains = [f"{control}_gain" for control in BESIDE]
    names = ["area", "share", "object_share", "object_area", *gains]
    names += [f"{what}_{name}" for what in (*TRUTHS, *BESIDE) for name in measured]
    clips = clips.assign(**{f"{name}_gain": clips.object_iou - clips[f"{name}_iou"] for name in BESIDE})
    parts = []
    for kind, chosen in kinds.items():
        cases = models.case[chosen]
        held = clips[clips.case.isin(cases)]
        if len(held):
            maps = held.groupby(MAP)
            intervals: dict[str, Interval] = dict.fromkeys(gains, mean_interval)
            ends = _intervals(maps, intervals | {"object_iou": _share_interval})
            found = maps[names].mean().reset_index().assign(**ends)
            parts.append(found.assign(kind=kind, models=len(cases)))
    return pd.concat(parts, ignore_index=True)


def _intervals(rows: Iterable[tuple[Any, Frame]], of: Mapping[str, Interval]) -> dict[str, Any]:
    """Intervals over groups of columns' means, each by its own function, in the order of the grouped rows."""
    parts = [part for _, part in rows]
    found: dict[str, Any] = {}
    for name, interval in of.items():
        ends = [
            interval(part[name].to_numpy(np.float64), part.group.to_numpy()) or (None, None) for part in parts
        ]
        found |= {f"{name}_low": [low for low, _ in ends], f"{name}_high": [high for _, high in ends]}
    return found


def sanity_table(models: Frame, rows: Frame) -> Frame:
    """Mean likeness of explanations of trained and of random weights, share and answers of both.

    A row a kind of model (``motion`` or ``context``, by what it was trained on; ``all``), method and layer.
    ``share_change`` is the motion share after less that before, clip by clip.
    """
    order = {layer: number for number, layer in enumerate(dict.fromkeys(rows.layer), start=1)}
    names = ["correlation", "iou", "share_before", "share_after", "share_change"]
    rows = rows.assign(share_change=rows.share_after - rows.share_before)
    intervals: dict[str, Interval] = dict.fromkeys(("correlation", "share_change"), mean_interval)
    shares = ("iou", "share_before", "share_after", "right_before", "right_after")
    intervals |= dict.fromkeys(shares, _share_interval)
    by_motion = rows.case.isin(models.case[models.motion > 0])
    parts = []
    for kind, held in {"all": rows, "motion": rows[by_motion], "context": rows[~by_motion]}.items():
        layers = held.groupby(["method", "layer"])
        means = layers[[*names, "chance_iou", "right_before", "right_after"]].mean().reset_index()
        found = means.assign(**_intervals(layers, intervals))
        parts.append(found.assign(kind=kind, clips=held["clip"].nunique()))
    found = pd.concat(parts, ignore_index=True)
    return found.assign(randomised=found.layer.map(order)).sort_values(
        ["kind", "method", "randomised"], ignore_index=True
    )
