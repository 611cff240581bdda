"""What a validity benchmark found, in plain sentences that its tables bear out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from storage.report.validity.format import (
    called,
    controls_of,
    default_map,
    interval,
    markdown,
    number,
    of_use,
    rows_of,
)

Tables = Mapping[str, pd.DataFrame]

# An explanation of random weights that is this like the one of trained weights has stayed.
_STAYED = 0.9
_WORDS = (
    "An explanation gives every point of a video its part in a model's decision (its *relevance*); a "
    "*method* is a way to compute it. The *selective map* keeps the points whose relevance changes in "
    "time, and the *motion share* is the part of the relevance that it keeps. Of the models here it is "
    "known which follow the motion where motion and scenery tell different things (*followers*), and of "
    "the videos, where the object is that decides. The default map: edge by magnitude, 2 sigma, positive "
    "relevance."
)
_READING = (
    "AUC: the chance that a follower has the higher motion share; 0.5 is chance. Rank correlation with "
    "motion use: 1 if the share always rises with it; beside it how much of that telling the two kinds "
    "apart does not give. Overlap: intersection over union with the object that decides; gain: over the "
    "best map of the same area that knows no model. Random weights: rank correlation of the explanation "
    "with that of trained weights. [a, b]: 95 % intervals, none where there are fewer than three seeds or "
    "scenes, which can't tell how far apart others lie."
)


def summary(tables: Tables) -> str:
    """Say what separates followers from others, what is best, what the map finds, what random weights do."""
    points = [_separation(tables), _order(tables), _best(tables), _location(tables), _random(tables)]
    said = "\n".join(f"- {point}" for point in points if point)
    return f"{_WORDS}\n\n{said}"


def _separation(tables: Tables) -> str:
    """Which methods tell followers from others, at the default map."""
    kinds: dict[str, list[str]] = {
        "every follower has a higher motion share than every other model by": [],
        "followers have the higher share more often than not, but not always, by": [],
        "this is not shown for": [],
        "followers have the lower share by": [],
    }
    whole, mostly, open_, lower = kinds.values()
    for row in rows_of(of_use(default_map(tables["validity"])).dropna(subset=["auc"])):
        if row.auc == 1:
            chosen = whole
        elif _exceeds(row.auc_low, 0.5):
            chosen = mostly
        else:
            chosen = lower if _exceeds(0.5, row.auc_high) else open_
        chosen.append(row.method)
    return _sentence("Does the motion share tell followers from others?", kinds)


def _order(tables: Tables) -> str:
    """Which methods order the models beyond telling two kinds apart, at the default map."""
    kinds: dict[str, list[str]] = {
        "beyond telling the two kinds apart, yes by": [],
        "not shown for": [],
        "less than telling the two kinds apart gives by": [],
    }
    above, open_, below = kinds.values()
    for row in rows_of(of_use(default_map(tables["validity"])).dropna(subset=["spearman"])):
        # Where both ends are equal, no seed changed anything, and the ends are no evidence.
        low, high = (None, None) if row.over_kinds_low == row.over_kinds_high else _ends(row, "over_kinds")
        chosen = above if _exceeds(low, 0.0) else below if _exceeds(0.0, high) else open_
        chosen.append(row.method)
    return _sentence("Does it rise with motion use?", kinds)


def _best(tables: Tables) -> str:
    """Which map has the highest rank correlation, and how far the default of its method is from it."""
    found = of_use(tables["validity"])
    found = found[found.sigma > 0].dropna(subset=["spearman"])
    if found.empty:
        return ""
    best = rows_of(found.sort_values("spearman"))[-1]
    text = (
        f"**Which map is best?** Of {len(found)} maps the motion share rises most with motion use by "
        f"{best.method}, {best.edge} edge, {best.sign} relevance, {best.sigma:g} sigma: rank correlation "
        f"{interval(best, 'spearman')}, flattered by the choice among so many"
    )
    for row in rows_of(default_map(found[found.method == best.method])):
        text += f"; its default map has {interval(row, 'spearman')}"
    return f"{text}."


def _location(tables: Tables) -> str:
    """Whether the default map of followers is above every control of its area, or below one."""
    kinds: dict[str, list[str]] = {
        "more than every map of its area that knows no model, by": [],
        "not shown for": [],
        "less than such a map, which needs no model, by": [],
    }
    above, open_, below = kinds.values()
    for row, _ in _gains(tables["localisation"]):
        ends = [_ends(row, f"{name}_gain") for name in controls_of(tables["localisation"])]
        if all(_exceeds(low, 0.0) for low, _ in ends):
            chosen = above
        else:
            chosen = below if any(_exceeds(0.0, high) for _, high in ends) else open_
        chosen.append(row.method)
    return _sentence("Does the map find the object that decides?", kinds)


def _random(tables: Tables) -> str:
    """Whether explanations stay as they were when weights become random."""
    stayed: list[str] = []
    changed: list[str] = []
    for method, part in _sanity(tables, "all").items():
        likenesses = ", ".join(
            f"{row.layer} {number(row.correlation)}" for row in part if row.correlation >= _STAYED
        )
        (stayed if likenesses else changed).append(f"{method} ({likenesses})" if likenesses else method)
    kinds = {
        "with the named layer and all above it random, explanations are nearly as before by": stayed,
        "they change by": changed,
    }
    return _sentence("Does the explanation depend on the weights?", kinds)


def figures(tables: Tables) -> str:
    """Give the figures behind the sentences, at the default map: a table, a row a method."""
    use = {row.method: row for row in rows_of(of_use(default_map(tables["validity"])))}
    gains = {row.method: (row, least) for row, least in _gains(tables["localisation"])}
    likeness, shares = (_sanity(tables, kind) for kind in ("all", "motion"))
    rows = []
    for method, row in use.items():
        line = [method, interval(row, "auc"), interval(row, "spearman"), interval(row, "over_kinds")]
        if method in gains:
            map_, least = gains[method]
            line += [number(map_.object_iou), f"{interval(map_, f'{least}_gain')} ({called(least)})"]
        else:
            line += ["-", "-"]
        layers = likeness.get(method, [])
        line += [number(layers[at].correlation) if layers else "-" for at in (0, -1)]
        if random := shares.get(method, []):
            first, last = random[0], random[-1]
            line.append(", ".join(map(number, (first.share_before, first.share_after, last.share_after))))
        else:
            line.append("-")
        rows.append(line)
    table = markdown(
        [
            "method",
            "AUC",
            "rank correlation",
            "over two kinds alone",
            "overlap",
            "gain over (the best)",
            "last layer random",
            "all random",
            "motion share of motion-trained models: trained, last layer random, all random",
        ],
        rows,
    )
    return f"{table}\n\n{_READING}"


def _gains(table: pd.DataFrame) -> list[tuple[Any, str]]:
    """Give the default map of followers by each method, and the control it gains least over."""
    found = []
    for row in rows_of(default_map(table[table.kind == "followers"])):
        gains = {name: getattr(row, f"{name}_gain") for name in controls_of(table)}
        found.append((row, min(gains, key=gains.__getitem__)))
    return found


def _sanity(tables: Tables, kind: str) -> dict[str, list[Any]]:
    """Give the rows of a kind of model by method, the last layer alone random first."""
    table = tables["sanity"]
    return {
        str(method): rows_of(part.sort_values("randomised"))
        for method, part in table[table.kind == kind].groupby("method")
    }


def _sentence(question: str, kinds: Mapping[str, Sequence[str]]) -> str:
    said = "; ".join(f"{text} {', '.join(names)}" for text, names in kinds.items() if names)
    return f"**{question}** {said[0].upper()}{said[1:]}." if said else ""


def _ends(row: Any, name: str) -> tuple[float | None, float | None]:
    return getattr(row, f"{name}_low"), getattr(row, f"{name}_high")


def _exceeds(value: float | None, other: float | None) -> bool:
    """Whether a value is above another, both known."""
    return not pd.isna(value) and not pd.isna(other) and value > other
