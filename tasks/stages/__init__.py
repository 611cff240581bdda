"""The stages of a run, one file each, in the order in which they are done.

A stage is added by its file and a line here.
"""

from tasks.running.stage import Stage
from tasks.stages import changes, decode, explain, index, motion, played, score

STAGES: tuple[Stage, ...] = (
    index.STAGE, decode.STAGE, motion.STAGE, explain.STAGE, changes.STAGE, score.STAGE,
    played.STAGE,
)  # fmt: skip
