"""Scores of explanations: one file a metric, and what turns clips' scores into tables.

Every count is over a clip's *counted* voxels: those of valid frames whose flow is known. "Relevant"
means relevance above 0. A ratio whose denominator is 0 is None, never 0 and never NaN.
"""

from selrel.scores.clip import score_clip

__all__ = ["score_clip"]
