"""Tables over clips: Tables 1 to 4 of Hiley et al. 2020 (section 5) and the sweep over sigma.

Every builder takes columns (one entry a clip, method and sigma, as `selrel.scores.score_clip` makes
them, with ``class`` and ``group`` beside) and returns rows, first over all classes (``class`` None),
then class by class. Means and deviations are over clips; intervals resample UCF groups.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from selrel.scores.intervals import DRAWS, ratio_interval
from selrel.scores.precision import SHARES, share
from selrel.scores.sums import group_sums

Columns = Mapping[str, npt.NDArray[Any]]
Row = dict[str, Any]

SIGMA = 2.0
# All motion, and what is left of it without the camera's.
KINDS = ("", "object_")
AREA_PRECISIONS = tuple(f"area_precision_{100 * area:g}" for area in SHARES)


def table1(columns: Columns, *, sigma: float = SIGMA, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build Table 1, precision: the baseline of every method and its selective map.

    Parameters
    ----------
    columns : mapping of name to array
        Score columns of `selrel.scores.score_clip`, with ``class`` and ``group``; null is NaN or None.
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
        If a column is missing or nothing was scored at sigma.
    """
    needed = ("precision", "base_rate", "weighted_precision", *AREA_PRECISIONS)
    return _table(
        columns, _precision_row, by=("method", "sigma"), needed=needed, sigmas=(0.0, sigma), n=n, seed=seed
    )


def table2(columns: Columns, *, sigma: float = SIGMA, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build Table 2, agreement of each two methods: of their baselines and of their selective maps.

    Parameters
    ----------
    columns : mapping of name to array
        Agreement columns of `selrel.scores.score_clip`, with ``class`` and ``group``.
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
        If a column is missing or nothing was scored at sigma.
    """
    by = ("method_a", "method_b", "sigma")
    needed = ("agreement", "iou")
    return _table(columns, _agreement_row, by=by, needed=needed, sigmas=(0.0, sigma), n=n, seed=seed)


def table3(columns: Columns, *, sigma: float = SIGMA, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build Table 3, selectivity: what the selective map keeps of its baseline.

    Parameters
    ----------
    columns, sigma, n, seed
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
        If a column is missing or nothing was scored at sigma.
    """
    needed = ("kept_voxels", "kept_relevance")
    return _table(
        columns, _selectivity_row, by=("method", "sigma"), needed=needed, sigmas=(sigma,), n=n, seed=seed
    )


def object_motion(columns: Columns, *, sigma: float = SIGMA, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build the table of precision and recall, of all motion and of object motion side by side.

    Parameters
    ----------
    columns, sigma, n, seed
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
        If a column is missing or nothing was scored at sigma.
    """
    needed = [f"{kind}{name}" for kind in KINDS for name in ("precision", "recall", "base_rate")]
    return _table(
        columns, _object_row, by=("method", "sigma"), needed=needed, sigmas=(0.0, sigma), n=n, seed=seed
    )


def sweep(columns: Columns, *, n: int = DRAWS, seed: int = 0) -> list[Row]:
    """Build the sweep: precision, lift and selectivity against every sigma scored, 0 for the baseline.

    Parameters
    ----------
    columns, n, seed
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
    needed = ("relevant_voxels", "precision", "base_rate", "kept_voxels", "kept_relevance")
    return _table(columns, _sweep_row, by=("method", "sigma"), needed=needed, sigmas=None, n=n, seed=seed)


def motion_share(
    columns: Columns, *, method: str = "deep_taylor", sigma: float = SIGMA, n: int = DRAWS, seed: int = 0
) -> Row:
    """Compute a checkpoint's motion share: the part of the positive relevance that changes over time.

    Parameters
    ----------
    columns, sigma, n, seed
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
        If a column is missing or the method was not scored at sigma.
    """
    _check_columns(columns, ("method", "sigma", "class", "group", "counted_voxels", "kept_relevance"))
    chosen = (columns["method"] == method) & (columns["sigma"] == sigma)
    if not chosen.any():
        scored = ", ".join(sorted({str(name) for name in columns["method"]}))
        raise ValueError(f"no score of {method!r} at sigma {sigma}; scored methods are: {scored}")
    picked = {name: column[chosen] for name, column in columns.items()}
    return {"method": method, "sigma": sigma, **_summary(picked, "kept_relevance", n, seed)}


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
    _check_columns(columns, ("method", "seconds_per_clip"))
    rows: list[Row] = []
    for (method,), part in _partition(columns, ("method",)):
        seconds = part["seconds_per_clip"].astype(np.float64)
        least, low, median, high = np.quantile(seconds, [0, 0.25, 0.5, 0.75]).tolist()
        times = {"median": median, "low": low, "high": high, "least": least, "n": len(seconds)}
        rows.append({"method": method, **times})
    return rows


def _precision_row(part: Columns, n: int, seed: int) -> Row:
    areas: Row = {}
    for name in AREA_PRECISIONS:
        sums = group_sums(part[name], part["group"])
        areas |= {name: sums.mean, name.replace("precision", "clips"): int(sums.n.sum())}
    weighted = group_sums(part["weighted_precision"], part["group"]).mean
    precision = _summary(part, "precision", n, seed)
    return {**precision, **_lift(part, n, seed), "weighted_precision": weighted, **areas}


def _agreement_row(part: Columns, n: int, seed: int) -> Row:
    iou = _summary(part, "iou", n, seed)
    row = _summary(part, "agreement", n, seed) | {"n_empty": iou["n_empty"]}
    return row | {f"iou_{name}": iou[name] for name in ("mean", "std", "low", "high")}


def _selectivity_row(part: Columns, n: int, seed: int) -> Row:
    row: Row = {}
    for name in ("voxels", "relevance"):
        summary = _summary(part, f"kept_{name}", n, seed)
        row |= {f"{name}_{statistic}": summary[statistic] for statistic in ("mean", "std", "low", "high")}
    return row | {name: summary[name] for name in ("n_clips", "n_empty", "n_uncounted")}


def _object_row(part: Columns, n: int, seed: int) -> Row:
    row: Row = {}
    for kind in KINDS:
        for name in (f"{kind}precision", f"{kind}recall"):
            summary = _summary(part, name, n, seed)
            row |= {name: summary["mean"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
        row |= {f"{kind}n_moving": summary["n_clips"], **_lift(part, n, seed, kind)}
    precision = _summary(part, "precision", n, seed)
    return row | {name: precision[name] for name in ("n_clips", "n_empty", "n_uncounted")}


def _sweep_row(part: Columns, n: int, seed: int) -> Row:
    row: Row = {}
    for name in ("precision", "kept_voxels", "kept_relevance"):
        summary = _summary(part, name, n, seed)
        row |= {name: summary["mean"], f"{name}_low": summary["low"], f"{name}_high": summary["high"]}
    counted = part["counted_voxels"] > 0
    n_empty = int(np.count_nonzero(part["relevant_voxels"][counted] == 0))
    n_counted = int(np.count_nonzero(counted))
    counts = {"n_clips": n_counted - n_empty, "n_empty": n_empty, "n_uncounted": len(counted) - n_counted}
    return {**row, **_lift(part, n, seed), "empty_share": share(n_empty, n_counted), **counts}


def _summary(part: Columns, name: str, n: int, seed: int) -> Row:
    """Mean, deviation and interval of one score, and how many clips have it."""
    sums = group_sums(part[name], part["group"])
    low, high = ratio_interval(sums.total, sums.n, n=n, seed=seed) or (None, None)
    n_uncounted = int(np.count_nonzero(part["counted_voxels"] == 0))
    return {
        "mean": sums.mean,
        "std": sums.std,
        "low": low,
        "high": high,
        "n_clips": int(sums.n.sum()),
        "n_empty": int(sums.n_null.sum()) - n_uncounted,
        "n_uncounted": n_uncounted,
    }


def _lift(part: Columns, n: int, seed: int, kind: str = "") -> Row:
    """Mean precision over mean base rate, both of the clips that have a precision.

    A mean of the clips' own lifts would be ruled by clips in which next to nothing moves.
    """
    precision = np.asarray(part[f"{kind}precision"], np.float64)
    base_rate = np.where(np.isnan(precision), np.nan, np.asarray(part[f"{kind}base_rate"], np.float64))
    ours, base = group_sums(precision, part["group"]), group_sums(base_rate, part["group"])
    low, high = ratio_interval(ours.total, base.total, n=n, seed=seed) or (None, None)
    lift = share(float(ours.total.sum()), float(base.total.sum()))
    row = {"base_rate": base.mean, "lift": lift, "lift_low": low, "lift_high": high}
    return {f"{kind}{name}": value for name, value in row.items()}


def _table(
    columns: Columns,
    build: Callable[[Columns, int, int], Row],
    *,
    by: Sequence[str],
    needed: Sequence[str],
    sigmas: Sequence[float] | None,
    n: int,
    seed: int,
) -> list[Row]:
    """One row for each part, over all classes and then class by class."""
    _check_columns(columns, ("class", "group", "counted_voxels", *by, *needed))
    if sigmas is not None:
        columns = _at_sigmas(columns, sigmas)
    # Groups as numbers: they are compared a thousand times.
    columns = {**columns, "group": np.unique(columns["group"], return_inverse=True)[1]}
    rows: list[Row] = []
    for keys in (by, ("class", *by)):
        for key, part in _partition(columns, keys):
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


def _check_columns(columns: Columns, needed: Sequence[str]) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ValueError(
            f"columns {', '.join(missing)} are missing; give those of score_clip, with class and group"
        )
