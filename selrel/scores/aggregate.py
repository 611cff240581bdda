"""Tables over clips: Tables 1 to 4 of Hiley et al. 2020 (section 5) and the sweep over sigma.

Every builder but `table4` takes sums (`selrel.scores.cells`) and returns rows, first over all classes
(``class`` None), then class by class. Means and deviations are over clips, intervals over UCF groups. Where
there are too few groups, the ends of an interval are None and ``no_interval`` says why; ``no_lift`` says why
there is no lift.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.cells import AREA_PRECISIONS, KINDS, LIFTS, Cells, check_columns
from selrel.scores.intervals import Range, count_groups, no_interval, ratio_interval
from selrel.scores.precision import LEAST_BASE_RATE, NO_LIFT, NOTHING_RELEVANT, share
from selrel.scores.sums import Floats, GroupSums

Columns = Mapping[str, npt.NDArray[Any]]
# The sums by group of each score.
Part = Mapping[str, GroupSums]
Row = dict[str, Any]

SIGMA = 2.0
_COUNTS = ("n_clips", "n_empty", "n_uncounted")


def table1(cells: Cells, *, sigma: float = SIGMA) -> list[Row]:
    """Build Table 1, precision: the baseline of every method and its selective map.

    Parameters
    ----------
    cells : Cells
        Those of `selrel.scores.cells.score_cells`.
    sigma : float
        Threshold of the selective map; it must have been scored.

    Returns
    -------
    list of dict
        ``class``, ``method``, ``sigma``; ``mean``, ``std``, ``low``, ``high`` of the precision;
        ``n_clips`` that have one, ``n_empty`` where nothing is relevant, ``n_uncounted`` without any
        voxel of known flow; ``base_rate`` of the clips that have a precision; ``lift`` with ``lift_low`` and
        ``lift_high``: mean precision over mean base rate of the ``lift_clips`` that have a lift
        (`selrel.scores.precision.LEAST_BASE_RATE`); means of ``weighted_precision`` and of each
        ``area_precision_*``, the latter with ``area_clips_*``, the clips that could fill the area;
        ``no_interval`` and ``no_lift``.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    needed = ("precision", *LIFTS[""], "base_rate", "weighted_precision", *AREA_PRECISIONS)
    return _table(cells, _precision_row, by=("method", "sigma"), needed=needed, sigmas=(0.0, sigma))


def table2(cells: Cells, *, sigma: float = SIGMA) -> list[Row]:
    """Build Table 2, agreement of each two methods: of their baselines and of their selective maps.

    Parameters
    ----------
    cells : Cells
        Those of `selrel.scores.cells.agreement_cells`.
    sigma
        As `table1` takes it.

    Returns
    -------
    list of dict
        ``class``, ``method_a``, ``method_b``, ``sigma``; ``mean``, ``std``, ``low``, ``high`` of the
        agreement and ``iou_*`` of the intersection over union; ``n_clips`` that have an agreement,
        ``n_empty`` among them where neither finds anything relevant, so that the union is empty;
        ``n_uncounted``; ``no_interval``.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    by = ("method_a", "method_b", "sigma")
    needed = ("agreement", "iou")
    return _table(cells, _agreement_row, by=by, needed=needed, sigmas=(0.0, sigma))


def table3(cells: Cells, *, sigma: float = SIGMA) -> list[Row]:
    """Build Table 3, selectivity: what the selective map keeps of its baseline.

    Parameters
    ----------
    cells, sigma
        As `table1` takes them.

    Returns
    -------
    list of dict
        ``class``, ``method``, ``sigma``; ``voxels_mean``, ``voxels_std``, ``voxels_low``,
        ``voxels_high`` of the share of voxels kept, ``relevance_*`` of the share of relevance kept;
        ``n_clips``, ``n_empty`` where the baseline has nothing relevant, ``n_uncounted``; ``no_interval``.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    needed = ("kept_voxels", "kept_relevance")
    return _table(cells, _selectivity_row, by=("method", "sigma"), needed=needed, sigmas=(sigma,))


def object_motion(cells: Cells, *, sigma: float = SIGMA) -> list[Row]:
    """Build the table of precision and recall, of all motion and of object motion side by side.

    Parameters
    ----------
    cells, sigma
        As `table1` takes them.

    Returns
    -------
    list of dict
        ``class``, ``method``, ``sigma``; ``precision`` and ``recall`` (means over clips), ``base_rate`` and
        ``lift``, each but the base rate with ``*_low`` and ``*_high``; the same with ``object_`` in front,
        where the camera's motion is taken off, with ``lift_clips`` and ``no_lift`` of both; ``n_clips``,
        ``n_empty``, ``n_uncounted`` of the precision; ``n_moving`` and ``object_n_moving``, the clips in
        which anything moves; ``no_interval``.

    Raises
    ------
    ValueError
        If a score is missing or nothing was scored at sigma.
    """
    needed = [f"{kind}{name}" for kind in KINDS for name in ("precision", "recall", "base_rate")]
    needed += [name for kind in KINDS for name in LIFTS[kind]]
    return _table(cells, _object_row, by=("method", "sigma"), needed=needed, sigmas=(0.0, sigma))


def sweep(cells: Cells) -> list[Row]:
    """Build the sweep: precision, lift and selectivity against every sigma scored, 0 for the baseline.

    Parameters
    ----------
    cells
        As `table1` takes them.

    Returns
    -------
    list of dict
        ``class``, ``method``, ``sigma``; ``precision``, ``base_rate``, ``lift``, ``kept_voxels`` and
        ``kept_relevance`` (means), each but the base rate with ``*_low`` and ``*_high``;
        ``empty_share``, the share of counted clips in which nothing is relevant; ``n_clips``,
        ``n_empty``, ``n_uncounted`` of the precision; ``lift_clips``, ``no_lift``, ``no_interval``.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    needed = ("precision", *LIFTS[""], "base_rate", "kept_voxels", "kept_relevance")
    return _table(cells, _sweep_row, by=("method", "sigma"), needed=needed, sigmas=None)


def motion_share(cells: Cells, *, method: str = "deep_taylor", sigma: float = SIGMA) -> Row:
    """Compute a checkpoint's motion share: the part of the positive relevance that changes over time.

    Parameters
    ----------
    cells, sigma
        As `table1` takes them.
    method : str
        The explanation.

    Returns
    -------
    dict
        ``method``, ``sigma``; ``mean``, ``std``, ``low``, ``high`` of the share of relevance kept;
        ``n_clips``, ``n_empty``, ``n_uncounted``; ``no_interval``.

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
    return {"method": method, "sigma": sigma, **_summary(part, "kept_relevance")}


def table4(columns: Columns) -> list[Row]:
    """Build Table 4, overhead: the time that each explanation takes for one clip.

    Parameters
    ----------
    columns : mapping of name to array
        ``method`` and ``seconds_per_clip``, one entry a measurement.

    Returns
    -------
    list of dict
        In the order of the first measurements: ``method``; ``median``, ``low``, ``high`` (the quartiles; None
        of a single measurement) and ``least`` in seconds; ``n`` measurements.

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
        quartiles = (low, high) if len(seconds) > 1 else (None, None)
        times = dict(zip(("low", "high"), quartiles, strict=True)) | {"least": least, "n": len(seconds)}
        rows.append({"method": method, "median": median, **times})
    # A step's time is on top of those before it.
    order = list(dict.fromkeys(columns["method"].tolist()))
    return sorted(rows, key=lambda row: order.index(row["method"]))


def _precision_row(part: Part) -> Row:
    areas: Row = {}
    for name in AREA_PRECISIONS:
        areas |= {name: part[name].mean, name.replace("precision", "clips"): int(part[name].n.sum())}
    row = {**_summary(part, "precision"), "weighted_precision": part["weighted_precision"].mean, **areas}
    return _joined(row, _lift(part))


def _agreement_row(part: Part) -> Row:
    iou = _summary(part, "iou")
    row = _summary(part, "agreement") | {"n_empty": iou["n_empty"]}
    return row | {f"iou_{name}": iou[name] for name in ("mean", "std", "low", "high")}


def _selectivity_row(part: Part) -> Row:
    row: Row = {}
    for name in ("voxels", "relevance"):
        summary = _summary(part, f"kept_{name}")
        row |= {f"{name}_{statistic}": summary[statistic] for statistic in ("mean", "std", "low", "high")}
    return row | {name: summary[name] for name in (*_COUNTS, "no_interval")}


def _object_row(part: Part) -> Row:
    row = _means(part, [f"{kind}{name}" for kind in KINDS for name in ("precision", "recall")])
    for kind in KINDS:
        row = _joined(row, _lift(part, kind)) | {f"{kind}n_moving": int(part[f"{kind}recall"].n.sum())}
    return row


def _sweep_row(part: Part) -> Row:
    row = _joined(_means(part, ("precision", "kept_voxels", "kept_relevance")), _lift(part))
    return {**row, "empty_share": share(row["n_empty"], row["n_clips"] + row["n_empty"])}


def _means(part: Part, names: Sequence[str]) -> Row:
    """Means with their intervals, by name; the counts are of the first."""
    row: Row = {}
    for name in names:
        found = _summary(part, name)
        ends = {f"{name}_{end}": found[end] for end in ("low", "high")}
        counts = {count: found[count] for count in _COUNTS} if not row else {}
        row = _joined(row, {name: found["mean"], **ends, **counts, "no_interval": found["no_interval"]})
    return row


def _joined(row: Row, other: Row) -> Row:
    """Both, with the first reason for which one of their intervals is missing."""
    return {**row, **other, "no_interval": row.get("no_interval") or other["no_interval"]}


def _summary(part: Part, name: str) -> Row:
    """Mean, deviation and interval of one score, a share, and how many clips have it."""
    sums = part[name]
    n_uncounted = int(part["uncounted"].total.sum())
    return {
        "mean": sums.mean,
        "std": sums.std,
        **_interval(sums.total, sums.n, "share"),
        "n_clips": int(sums.n.sum()),
        "n_empty": int(sums.n_null.sum()) - n_uncounted,
        "n_uncounted": n_uncounted,
    }


def _lift(part: Part, kind: str = "") -> Row:
    """Mean precision over mean base rate of the clips that have a lift.

    A mean of the clips' own lifts would be ruled by clips in which next to nothing moves.
    """
    ours, base = (part[name] for name in LIFTS[kind])
    base_rate = part[f"{kind}base_rate"].mean
    lift = share(float(ours.total.sum()), float(base.total.sum()))
    found = _interval(ours.total, base.total, "positive")
    row = {
        "base_rate": base_rate,
        "lift": lift,
        "lift_low": found["low"],
        # Of clips that have a lift, none has a larger one.
        "lift_high": None if found["high"] is None else min(found["high"], 1 / LEAST_BASE_RATE),
        "lift_clips": int(ours.n.sum()),
        "no_lift": None if lift is not None else NOTHING_RELEVANT if base_rate is None else NO_LIFT,
    }
    reason = None if lift is None else found["no_interval"]
    return {**{f"{kind}{name}": value for name, value in row.items()}, "no_interval": reason}


def _interval(numerator: Floats, denominator: npt.NDArray[Any], of: Range) -> Row:
    low, high = ratio_interval(numerator, denominator, of=of) or (None, None)
    return {"low": low, "high": high, "no_interval": no_interval(count_groups(denominator))}


def _table(
    cells: Cells,
    build: Callable[[Part], Row],
    *,
    by: Sequence[str],
    needed: Sequence[str],
    sigmas: Sequence[float] | None,
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
            rows.append({"class": None, **dict(zip(keys, key, strict=True)), **build(part)})
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
