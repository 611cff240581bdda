"""Tables over clips: Tables 1 to 4 of Hiley et al. 2020 (section 5) and the sweep over sigma.

Every builder but `table4` takes sums (`selrel.scores.cells`) and returns rows, first over all classes
(``class`` None), then class by class. Means and deviations are over clips; intervals resample UCF groups.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.cells import AREA_PRECISIONS, KINDS, Cells, check_columns
from selrel.scores.intervals import DRAWS, ratio_interval
from selrel.scores.precision import share
from selrel.scores.sums import GroupSums

Columns = Mapping[str, npt.NDArray[Any]]
# The sums by group of each score.
Part = Mapping[str, GroupSums]
Row = dict[str, Any]

SIGMA = 2.0


def table1(cells: Cells, *, sigma: float = SIGMA, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build Table 1, precision: the baseline of every method and its selective map.

    Parameters
    ----------
    cells : Cells
        Those of `selrel.scores.cells.score_cells`.
    sigma : float
        Threshold of the selective map; it must have been scored.
    n, seed
        Resamples of the intervals (`selrel.scores.intervals.group_bootstrap`).

    Returns
    -------
    list of dict
        ``class``, ``method``, ``sigma``; ``mean``, ``std``, ``low``, ``high`` of the precision;
        ``n_clips`` that have one, ``n_empty`` where nothing is relevant, ``n_uncounted`` without any
        voxel of known flow; ``base_rate`` of the clips that have a precision; ``lift`` = mean / base
        rate, with ``lift_low`` and ``lift_high``; means of ``weighted_precision`` and of each
        ``area_precision_*``, the latter with ``area_clips_*``, the clips that could fill the area.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    needed = ("precision", "base_rate", "weighted_precision", *AREA_PRECISIONS)
    return _table(
        cells, _precision_row, by=("method", "sigma"), needed=needed, sigmas=(0.0, sigma), n=n, seed=seed
    )


def table2(cells: Cells, *, sigma: float = SIGMA, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build Table 2, agreement of each two methods: of their baselines and of their selective maps.

    Parameters
    ----------
    cells : Cells
        Those of `selrel.scores.cells.agreement_cells`.
    sigma, n, seed
        As `table1` takes them.

    Returns
    -------
    list of dict
        ``class``, ``method_a``, ``method_b``, ``sigma``; ``mean``, ``std``, ``low``, ``high`` of the
        agreement and ``iou_*`` of the intersection over union; ``n_clips`` that have an agreement,
        ``n_empty`` among them where neither finds anything relevant, so that the union is empty;
        ``n_uncounted``.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    by = ("method_a", "method_b", "sigma")
    needed = ("agreement", "iou")
    return _table(cells, _agreement_row, by=by, needed=needed, sigmas=(0.0, sigma), n=n, seed=seed)


def table3(cells: Cells, *, sigma: float = SIGMA, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build Table 3, selectivity: what the selective map keeps of its baseline.

    Parameters
    ----------
    cells, sigma, n, seed
        As `table1` takes them.

    Returns
    -------
    list of dict
        ``class``, ``method``, ``sigma``; ``voxels_mean``, ``voxels_std``, ``voxels_low``,
        ``voxels_high`` of the share of voxels kept, ``relevance_*`` of the share of relevance kept;
        ``n_clips``, ``n_empty`` where the baseline has nothing relevant, ``n_uncounted``.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    needed = ("kept_voxels", "kept_relevance")
    return _table(
        cells, _selectivity_row, by=("method", "sigma"), needed=needed, sigmas=(sigma,), n=n, seed=seed
    )


def object_motion(cells: Cells, *, sigma: float = SIGMA, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build the table of precision and recall, of all motion and of object motion side by side.

    Parameters
    ----------
    cells, sigma, n, seed
        As `table1` takes them.

    Returns
    -------
    list of dict
        ``class``, ``method``, ``sigma``; ``precision`` and ``recall`` (means over clips), ``base_rate`` and
        ``lift``, each but the base rate with ``*_low`` and ``*_high``; the same with ``object_`` in front,
        where the camera's motion is taken off; ``n_clips``, ``n_empty``, ``n_uncounted`` of the precision,
        ``n_moving`` and ``object_n_moving``, the clips in which anything moves.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    needed = [f"{kind}{name}" for kind in KINDS for name in ("precision", "recall", "base_rate")]
    return _table(
        cells, _object_row, by=("method", "sigma"), needed=needed, sigmas=(0.0, sigma), n=n, seed=seed
    )


def sweep(cells: Cells, *, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build the sweep: precision, lift and selectivity against every sigma scored, 0 for the baseline.

    Parameters
    ----------
    cells, n, seed
        As `table1` takes them.

    Returns
    -------
    list of dict
        ``class``, ``method``, ``sigma``; ``precision``, ``base_rate``, ``lift``, ``kept_voxels`` and
        ``kept_relevance`` (means), each but the base rate with ``*_low`` and ``*_high``;
        ``empty_share``, the share of counted clips in which nothing is relevant; ``n_clips``,
        ``n_empty``, ``n_uncounted`` of the precision.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    needed = ("precision", "base_rate", "kept_voxels", "kept_relevance")
    return _table(cells, _sweep_row, by=("method", "sigma"), needed=needed, sigmas=None, n=n, seed=seed)


def motion_share(
    cells: Cells, *, method: str = "deep_taylor", sigma: float = SIGMA, n: int = DRAWS, seed: int = 0
) -> Row:
    """Compute a checkpoint's motion share: the part of the positive relevance that changes over time.

    Parameters
    ----------
    cells, sigma, n, seed
        As `table1` takes them.
    method : str
        The explanation.

    Returns
    -------
    dict
        ``method``, ``sigma``; ``mean``, ``std``, ``low``, ``high`` of the share of relevance kept;
        ``n_clips``, ``n_empty``, ``n_uncounted``.

    Raises
    ------
    ValueError
        If a score is missing or the method was not scored at sigma.
    """
    needed = ("kept_relevance", "uncounted")
    check_columns(cells.names, ("method", "sigma", *needed))
    labels = cells.labels
    chosen = np.flatnonzero((labels["method"] == method) & (labels["sigma"] == sigma))
    if not len(chosen):
        scored = ", ".join(sorted(set(labels["method"].tolist())))
        raise ValueError(f"no score of {method!r} at sigma {sigma}; scored methods are: {scored}")
    part = {name: cells.of_groups(name, chosen, labels["group"][chosen]) for name in needed}
    return {"method": method, "sigma": sigma, **_summary(part, "kept_relevance", n, seed)}


def table4(columns: Columns) -> list[Row]:
    """Build Table 4, overhead: the time that each explanation takes for one clip.

    Parameters
    ----------
    columns : mapping of name to array
        ``method`` and ``seconds_per_clip``, one entry a measurement.

    Returns
    -------
    list of dict
        ``method``; ``median``, ``low``, ``high`` (the quartiles) and ``least`` in seconds; ``n``
        measurements.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    check_columns(columns, ("method", "seconds_per_clip"))
    rows: list[Row] = []
    for (method,), part in _partition(columns, ("method",)):
        seconds = part["seconds_per_clip"].astype(np.float64)
        least, low, median, high = np.quantile(seconds, [0, 0.25, 0.5, 0.75]).tolist()
        times = {"median": median, "low": low, "high": high, "least": least, "n": len(seconds)}
        rows.append({"method": method, **times})
    return rows


def _precision_row(part: Part, n: int, seed: int) -> Row:
    areas: Row = {}
    for name in AREA_PRECISIONS:
        areas |= {name: part[name].mean, name.replace("precision", "clips"): int(part[name].n.sum())}
    precision = _summary(part, "precision", n, seed)
    weighted = part["weighted_precision"].mean
    return {**precision, **_lift(part, n, seed), "weighted_precision": weighted, **areas}


def _agreement_row(part: Part, n: int, seed: int) -> Row:
    iou = _summary(part, "iou", n, seed)
    row = _summary(part, "agreement", n, seed) | {"n_empty": iou["n_empty"]}
    return row | {f"iou_{name}": iou[name] for name in ("mean", "std", "low", "high")}


def _selectivity_row(part: Part, n: int, seed: int) -> Row:
    row: Row = {}
    for name in ("voxels", "relevance"):
        summary = _summary(part, f"kept_{name}", n, seed)
        row |= {f"{name}_{statistic}": summary[statistic] for statistic in ("mean", "std", "low", "high")}
    return row | {name: summary[name] for name in ("n_clips", "n_empty", "n_uncounted")}


def _object_row(part: Part, n: int, seed: int) -> Row:
    row: Row = {}
    for kind in KINDS:
        for name in (f"{kind}precision", f"{kind}recall"):
            summary = _summary(part, name, n, seed)
            row |= {name: summary["mean"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
        row |= {f"{kind}n_moving": summary["n_clips"], **_lift(part, n, seed, kind)}
    precision = _summary(part, "precision", n, seed)
    return row | {name: precision[name] for name in ("n_clips", "n_empty", "n_uncounted")}


def _sweep_row(part: Part, n: int, seed: int) -> Row:
    row: Row = {}
    for name in ("precision", "kept_voxels", "kept_relevance"):
        summary = _summary(part, name, n, seed)
        row |= {name: summary["mean"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
    precision = _summary(part, "precision", n, seed)
    counts = {name: precision[name] for name in ("n_clips", "n_empty", "n_uncounted")}
    empty_share = share(counts["n_empty"], counts["n_clips"] + counts["n_empty"])
    return {**row, **_lift(part, n, seed), "empty_share": empty_share, **counts}


def _summary(part: Part, name: str, n: int, seed: int) -> Row:
    """Mean, deviation and interval of one score, and how many clips have it."""
    sums = part[name]
    low, high = ratio_interval(sums.total, sums.n, n=n, seed=seed) or (None, None)
    n_uncounted = int(part["uncounted"].total.sum())
    return {
        "mean": sums.mean,
        "std": sums.std,
        "low": low,
        "high": high,
        "n_clips": int(sums.n.sum()),
        "n_empty": int(sums.n_null.sum()) - n_uncounted,
        "n_uncounted": n_uncounted,
    }


def _lift(part: Part, n: int, seed: int, kind: str = "") -> Row:
    """Mean precision over mean base rate, which is of the clips that have a precision.

    A mean of the clips' own lifts would be ruled by clips in which next to nothing moves.
    """
    ours, base = part[f"{kind}precision"], part[f"{kind}base_rate"]
    low, high = ratio_interval(ours.total, base.total, n=n, seed=seed) or (None, None)
    lift = share(float(ours.total.sum()), float(base.total.sum()))
    row = {"base_rate": base.mean, "lift": lift, "lift_low": low, "lift_high": high}
    return {f"{kind}{name}": value for name, value in row.items()}


def _table(
    cells: Cells,
    build: Callable[[Part, int, int], Row],
    *,
    by: Sequence[str],
    needed: Sequence[str],
    sigmas: Sequence[float] | None,
    n: int,
    seed: int,
) -> list[Row]:
    """One row for each part, over all classes and then class by class."""
    scores = (*needed, "uncounted")
    check_columns(cells.names, (*by, *scores))
    labels = cells.labels
    if sigmas is not None:
        labels = _at_sigmas(labels, sigmas)
    # Groups as numbers: they are compared a thousand times.
    labels = {**labels, "group": np.unique(labels["group"], return_inverse=True)[1]}
    rows: list[Row] = []
    for keys in (by, ("class", *by)):
        for key, found in _partition(labels, keys):
            part = {name: cells.of_groups(name, found["cell"], found["group"]) for name in scores}
            rows.append({"class": None, **dict(zip(keys, key, strict=True)), **build(part, n, seed)})
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


def _at_sigmas(columns: Columns, sigmas: Sequence[float]) -> Columns:
    scored = np.unique(columns["sigma"]).tolist()
    for sigma in sigmas:
        if len(scored) and sigma not in scored:
            raise ValueError(f"nothing was scored at sigma {sigma}; scored: {', '.join(map(str, scored))}")
    chosen = np.isin(columns["sigma"], sigmas)
    return {name: column[chosen] for name, column in columns.items()}
