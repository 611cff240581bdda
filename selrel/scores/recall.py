"""Recall: the share of what moves that an explanation marks.

On the raw flow it means little: under a moving camera everything moves (Hiley et al. 2020, section 4.3.1).
On object motion, `selrel.scores.object_motion`, it is defined. A map that marks everything has recall 1.
"""

from collections.abc import Mapping

from selrel.scores.metric import Metric, Ratios, share


def ratios(counts: Mapping[str, int | float]) -> Ratios:
    """Divide the counts of `selrel.scores.precision.counts`: ``recall``, 0..1; None where nothing moves."""
    return {"recall": share(counts["relevant_moving_voxels"], counts["moving_voxels"])}


METRIC = Metric(
    terms={"recall": ("Recall", "Of the points that move, the share that a map marks.")},
    ratios=ratios,
    scores=("recall",),
)
