"""What a validity benchmark found, in plain sentences that its tables bear out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from storage.validity_format import called, controls_of, default_map, interval, number, percent, rows_of

Tables = Mapping[str, pd.DataFrame]

_WORDS = (
    "An explanation gives every point of a video its part in a model's decision (its *relevance*); a "
    "*method* is a way to compute it. The *selective map* keeps the points whose relevance changes in "
    "time by more than some *sigmas*, and the *motion share* is the part of the relevance that it "
    "keeps. Here it is known which models follow the motion when motion and scenery tell different "
    "things (*followers*) and which don't, and where the object is that decides. A *rank correlation* "
    "is 1 if one number always rises with another, 0 if there is no connection, -1 if it always falls; "
    "an *AUC* is the chance that a follower has the higher share, 0.5 without connection. [a, b] are 95 "
    "% intervals."
)


def summary(tables: Tables) -> str:
    """Say what separates followers from others, what is best, what the map finds, what random weights do."""
    points = [*_separation(tables), *_best(tables), *_location(tables), *_random(tables)]
    return _WORDS + "\n\n" + "\n".join(f"- {point}" for point in points)


def _separation(tables: Tables) -> list[str]:
    """Which methods tell followers from others, at the default map."""
    found = _of_use(default_map(tables["validity"]))
    kinds: dict[str, list[str]] = {
        "Every follower has a higher motion share than every other model by": [],
        "Followers have the higher share more often than not, but not always, by": [],
        "That followers have a higher share is not shown for": [],
        "Followers have the lower share by": [],
    }
    whole, mostly, open_, lower = kinds.values()
    for row in rows_of(found.dropna(subset=["auc"])):
        if row.auc == 1:
            chosen = whole
        elif row.auc_low > 0.5:
            chosen = mostly
        else:
            chosen = lower if row.auc_high < 0.5 else open_
        chosen.append(f"{row.method} (AUC {interval(row, 'auc')})")
    return [
        f"By the default (edge by magnitude, 2 sigma, positive relevance): {_lowered(text)} "
        f"{', '.join(names)}."
        for text, names in kinds.items()
        if names
    ]


def _best(tables: Tables) -> list[str]:
    """Where the rank correlation is best, how far the default is from it, and what it is worth."""
    found = _of_use(tables["validity"])
    points = []
    for method, part in found[found.sigma > 0].dropna(subset=["spearman"]).groupby("method"):
        best = rows_of(part.sort_values("spearman"))[-1]
        text = (
            f"{method}: the motion share rises best with motion use by the {best.edge} edge of {best.sign} "
            f"relevance at {best.sigma:g} sigma (rank correlation {interval(best, 'spearman')})"
        )
        for row in rows_of(default_map(part)):
            text += (
                f"; the default has {interval(row, 'spearman')}, "
                f"{number(best.spearman - row.spearman)} less. Telling followers from others gives "
                f"{number(row.spearman_of_kinds)} of that by itself; among the {row.followers} followers "
                f"alone it is {interval(row, 'followers_spearman')}"
            )
        points.append(f"{text}.")
    return points


def _location(tables: Tables) -> list[str]:
    """Whether the default map of followers is above every control of its area."""
    table = tables["localisation"]
    above: list[str] = []
    open_: list[str] = []
    for row in rows_of(default_map(table[table.kind == "motion"])):
        gains = {name: getattr(row, f"{name}_gain_low") for name in controls_of(table)}
        _, least = min((getattr(row, f"{name}_gain"), name) for name in gains)
        text = (
            f"{row.method} ({number(row.object_iou)}; over {called(least)} {interval(row, f'{least}_gain')})"
        )
        (above if all(low > 0 for low in gains.values()) else open_).append(text)
    kinds = {
        "overlaps more with the object that decides than every control does": above,
        "is not shown to overlap more with the object that decides than every control does": open_,
    }
    return [
        f"The followers' map {text}, by (overlap as intersection over union; gain over the best control): "
        f"{', '.join(names)}."
        for text, names in kinds.items()
        if names
    ]


def _random(tables: Tables) -> list[str]:
    """What is left under random weights of the map and of the motion share."""
    table = tables["sanity"]
    shares, maps, answers = [], [], ""
    for method, part in table[table.kind == "motion"].groupby("method"):
        first, *_, last = rows_of(part.sort_values("randomised"))
        changes = [
            f"{number(row.share_after)} (change {interval(row, 'share_change')})" for row in (first, last)
        ]
        shares.append(f"{method} {number(first.share_before)}, {', '.join(changes)}")
        maps.append(f"{method} {number(first.correlation)}, {number(last.correlation)}")
        right = (first.right_before, first.right_after, last.right_after)
        answers = ", ".join(map(percent, right))
    if not shares:
        return []
    return [
        "The motion share of motion-trained models with trained weights, with the last layer random and "
        f"with all layers random (they are right on {answers} of the clips): {'; '.join(shares)}.",
        "The rank correlation of their explanations with those of trained weights, with the last layer "
        f"random and with all: {'; '.join(maps)}. What stays near 1 does not explain what was made random.",
    ]


def _of_use(validity: pd.DataFrame) -> Any:
    """The rows that hold the motion share against motion use, over all videos."""
    return validity[
        (validity.camera == "all") & (validity.measure == "motion_use") & (validity.what == "share")
    ]


def _lowered(text: str) -> str:
    return text[0].lower() + text[1:]
