"""Precision and recall of object motion: what still moves when the camera's motion is taken off the flow."""

from collections.abc import Mapping

from selrel.scores import precision, recall
from selrel.scores.precision import Counts, Ratios

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
