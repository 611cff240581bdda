"""Rows of tables from sums over clips: Tables 1 to 3 of Hiley et al. 2020 (section 5), and all like them."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from selrel.scores.cells import Cells, check_columns
from selrel.scores.metric import Columns, Row, Table
from selrel.scores.selectivity import SIGMA

__all__ = ["SIGMA", "build"]


def build(table: Table, cells: Cells, *, sigma: float = SIGMA) -> list[Row]:
    """Build the rows of a table, first over all classes (``class`` None), then class by class.

    Means and deviations are over clips, intervals over UCF groups.

    Parameters
    ----------
    table : Table
        One with a ``row``.
    cells : Cells
        Those of `selrel.scores.cells.score_cells`, or of `agreement_cells` for a table of two methods.
    sigma : float
        Threshold of the selective map; it must have been scored.

    Returns
    -------
    list of dict
        ``class``, what the table is ``by``, and what its ``row`` gives.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    assert table.row is not None, f"no sums give rows of {table.name}"
    scores = (*table.needed, "uncounted")
    check_columns(cells.names, (*table.by, *scores))
    labels = cells.labels
    if table.sigmas != "all":
        wanted = (0.0, sigma) if table.sigmas == "both" else (sigma,)
        scored = np.unique(labels["sigma"]).tolist()
        for one in wanted:
            if scored and one not in scored:
                known = ", ".join(map(str, scored))
                raise ValueError(f"nothing was scored at sigma {one}; scored: {known}")
        chosen = np.isin(labels["sigma"], wanted)
        labels = {name: column[chosen] for name, column in labels.items()}
    # Groups as numbers: they are compared a thousand times.
    labels = {**labels, "group": np.unique(labels["group"], return_inverse=True)[1]}
    rows: list[Row] = []
    for keys in (table.by, ("class", *table.by)):
        for key, found in _partition(labels, keys):
            part = {name: cells.of_groups(name, found["cell"], found["group"]) for name in scores}
            rows.append({"class": None, **dict(zip(keys, key, strict=True)), **table.row(part)})
    return rows


def _partition(columns: Columns, by: Sequence[str]) -> Iterator[tuple[tuple[Any, ...], Columns]]:
    """Split columns into the parts that are equal in some of them, in ascending order."""
    if not len(columns[by[0]]):
        return
    pairs = [np.unique(columns[name], return_inverse=True) for name in by]
    # Python's own values, not NumPy's, go into the rows.
    labels = [unique.tolist() for unique, _ in pairs]
    codes = [inverse for _, inverse in pairs]
    code = np.ravel_multi_index(tuple(codes), tuple(map(len, labels)))
    order = np.argsort(code, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
        key = tuple(label[places[rows[0]]] for label, places in zip(labels, codes, strict=True))
        yield key, {name: column[rows] for name, column in columns.items()}
