"""Shown: which clips a run's report plays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow.compute as pc  # type: ignore[import-untyped]

from selrel.scores.aggregate import SIGMA
from storage.report.columns import main_method
from storage.runs import Run
from storage.tables import read_tables

Row = Mapping[str, Any]

# Clips of a class, and of the whole run, that get a player.
PLACES = ("highest", "typical", "lowest")
_KINDS = {"clip": "integer", "method": "text", "sigma": "number", "kept_relevance": "number or none"}


@dataclass(frozen=True)
class Shown:
    """The clips that a report plays.

    Attributes
    ----------
    featured
        The place of each of the run's own examples, "highest", "typical" or "lowest", by its clip.
    rows
        A row a clip: the examples of every class with their ``place``, and the featured ones without one
        where they are not among them.
    """

    featured: dict[int, str]
    rows: list[dict[str, Any]]

    def first(self, n: int) -> list[int]:
        """The clips that count most: the featured ones, then of each class the highest, the typical, .."""
        by_place = [row["clip"] for place in PLACES for row in self.rows if row["place"] == place]
        return list(dict.fromkeys([*self.featured, *by_place]))[:n]


def shown(run: Run, clips: pd.DataFrame) -> Shown:
    """Choose the clips of the highest, the middle and the lowest motion share, of the run and of every class.

    Parameters
    ----------
    run
        Which; its clips are scored.
    clips
        A row a clip, with ``clip``, ``class``, ``n_valid_frames`` and ``correct``.
    """
    columns = ["clip", "method", "sigma", "kept_relevance"]
    method = main_method(run.settings["methods"])
    chosen = (pc.field("method") == method) & (pc.field("sigma") == SIGMA)
    found = read_tables(run.root, run.paths.scores, columns=columns, where=chosen, kinds=_KINDS)
    scores = found.select(["clip", "kept_relevance"]).to_pandas().dropna()
    ranked = clips.merge(scores, on="clip", validate="one_to_one").sort_values(["kept_relevance", "clip"])
    featured = _examples(ranked)
    rows = [row for _, of_class in ranked.groupby("class") for row in _examples(of_class)]
    missing = {row["clip"] for row in featured} - {row["clip"] for row in rows}
    rows += [{**row, "place": None} for row in featured if row["clip"] in missing]
    return Shown({row["clip"]: row["place"] for row in featured}, rows)


def _examples(ranked: pd.DataFrame) -> list[dict[str, Any]]:
    """The clips of the highest, the middle and the lowest motion share, each once, with their ``place``.

    A padded rest of a video says little about motion, and a wrong answer little about a class: they are shown
    only where there is nothing else.
    """
    if ranked.empty:
        return []
    whole = ranked.n_valid_frames == ranked.n_valid_frames.max()
    best = next(rows for rows in (ranked[whole & ranked.correct], ranked[whole]) if not rows.empty)
    rows: list[dict[str, Any]] = best.to_dict("records")
    chosen: dict[int, dict[str, Any]] = {}
    for name, at in zip(PLACES, (len(rows) - 1, len(rows) // 2, 0), strict=True):
        chosen.setdefault(at, {**rows[at], "place": name})
    return list(chosen.values())
