"""Precision and recall of object motion: what still moves when the camera's motion is taken off the flow."""

from collections.abc import Mapping
from functools import partial

from selrel.scores import precision, recall
from selrel.scores.metric import (
    MAP,
    METHOD,
    Column,
    Counts,
    Maps,
    Metric,
    Part,
    Ratios,
    Row,
    Table,
    interval,
)  # fmt: skip
from selrel.scores.summaries import joined, means

PREFIX = "object_"
# The counts of precision that depend on what moves; the others are the same for object motion.
COUNTS = ("moving_voxels", "relevant_moving_voxels", "positive_relevance_moving")


def of_objects(counts: Mapping[str, int | float]) -> Counts:
    """Name the counts of a map against object motion: ``object_moving_voxels`` and so on."""
    return {f"{PREFIX}{name}": counts[name] for name in COUNTS}


def ratios(counts: Mapping[str, int | float]) -> Ratios:
    """Divide the counts of a map, of one clip or of a sum of clips.

    Parameters
    ----------
    counts : mapping
        Those of `selrel.scores.precision.counts` and, with ``object_`` in front, of `of_objects`.

    Returns
    -------
    dict
        ``object_precision``, ``object_base_rate``, ``object_lift``, ``object_weighted_precision`` and
        ``object_recall``, as without ``object_``.
    """
    own = {**counts, **{name: counts[f"{PREFIX}{name}"] for name in COUNTS}}
    found = {**precision.ratios(own), **recall.ratios(own)}
    return {f"{PREFIX}{name}": value for name, value in found.items()}


def _count(maps: Maps) -> list[Row]:
    counted = precision.nested_counts(maps.relevance, maps.object_moving, maps.reached, maps.n)
    return [of_objects(row) for row in counted]


def _row(part: Part) -> Row:
    """The values of the table of object motion.

    ``precision`` and ``recall`` (means over clips), ``base_rate`` and ``lift``, each but the base rate with
    ``*_low`` and ``*_high``; the same with ``object_`` in front, where the camera's motion is taken off, with
    ``lift_clips`` and ``no_lift`` of both; ``n_clips``, ``n_empty``, ``n_uncounted`` of the precision;
    ``n_moving`` and ``object_n_moving``, the clips in which anything moves; ``no_interval``.
    """
    row = means(part, [f"{kind}{name}" for kind in _KINDS for name in ("precision", "recall")])
    for kind in _KINDS:
        moving = {f"{kind}n_moving": int(part[f"{kind}recall"].n.sum())}
        row = joined(row, precision.lift(part, kind)) | moving
    return row


# All motion, and what is left of it without the camera's.
_KINDS = ("", PREFIX)
_TABLE = Table(
    name="object_motion",
    title="Object motion: the same with the camera's motion taken off",
    short_title="Object motion: the same with the camera's motion taken off, and recall (%)",
    note="What moves against the background, beside what moves in the picture. Recall: the share of the "
    "moving voxels that a map marks; with the camera's motion in it, it says little.",
    order=20,
    columns=(
        METHOD,
        MAP,
        Column("recall", "Recall of all motion, %", term="recall", short="recall, all"),
        Column("object_precision", "Object precision, %", term="object_motion", short="precision"),
        interval("object_precision_low"),
        Column("object_base_rate", "Object base rate, %", term="object_motion", short="base"),
        Column("object_lift", "Object lift", "ratio", "object_motion", short="lift", reason="object_no_lift"),
        Column("object_recall", "Object recall, %", term="recall", short="recall"),
        interval("object_recall_low", "Recall, 95 %", short=""),
    ),
    row=_row,
    needed=tuple(
        name
        for kind in _KINDS
        for name in (
            f"{kind}precision", f"{kind}recall", f"{kind}base_rate", *precision.lift_sums(kind),
        )
    ),
)  # fmt: skip
METRIC = Metric(
    terms={
        "object_motion": (
            "Object motion",
            "What moves against the background: the motion seen, with the camera's taken off.",
        ),
    },
    tables=(_TABLE,),
    count=_count,
    ratios=ratios,
    scores=("object_precision", "object_base_rate", "object_recall"),
    derived=precision.lift_sums(PREFIX),
    derive=partial(precision.of_lift, kind=PREFIX),
)
