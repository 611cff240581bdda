"""What a model does when its input is changed: how much it truly uses motion, without any explanation.

A frozen clip holds no motion, a shuffled one motion without order, a reversed one the opposite motion. Where
motion and scene say different classes, the answer tells which of the two the model follows.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import softmax  # type: ignore[import-untyped]

from selrel.clips import changes
from selrel.clips.changes import change_clip
from selrel.engine.ties import first_highest
from selrel.training.samples import Samples

CHANGES = ("intact", *changes.CHANGES)

Numbers = npt.NDArray[np.int64]


def changed(samples: Samples, change: str, *, seed: int = 0) -> Samples:
    """Give the same clips, each changed as one of `CHANGES` says; the same seed gives the same orders."""
    if change == "intact":
        return samples

    def read(number: int, shift: int) -> npt.NDArray[np.uint8]:
        return change_clip(samples.read(number, shift), change, f"{seed} {number}")

    return replace(samples, read=read)


def cue_conflict(predicted: Numbers, motion: Numbers, context: Numbers) -> dict[str, int]:
    """Count what a model follows where motion and context say different classes.

    Parameters
    ----------
    predicted, motion, context : int arrays, (clip,)
        The class that the model says, that the motion says, and that the context says.

    Returns
    -------
    dict
        ``conflicts``, and of those ``follows_motion`` and ``follows_context``. Both add up over clips.
    """
    conflict = motion != context
    return {
        "conflicts": int(conflict.sum()),
        "follows_motion": int((conflict & (predicted == motion)).sum()),
        "follows_context": int((conflict & (predicted == context)).sum()),
    }


def motion_use(counts: dict[str, int]) -> float | None:
    """Share of the decided conflicts in which a model follows the motion; None if it follows neither ever.

    References
    ----------
    Geirhos et al. 2019, *ImageNet-trained CNNs are biased towards texture*: their shape bias, with motion
    in place of shape.
    """
    decided = counts["follows_motion"] + counts["follows_context"]
    return counts["follows_motion"] / decided if decided else None


def freeze_effect(intact: npt.NDArray[Any], frozen: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Probability that each clip's predicted class loses when the clip is frozen.

    Parameters
    ----------
    intact, frozen : float arrays, (clip, class)
        Logits of the same clips as they are and frozen.

    Returns
    -------
    float64 array, (clip,)
        -1..1: by softmax, of the class with the highest logit in the intact clip.
    """
    chosen = first_highest(torch.from_numpy(intact)).numpy()[:, None]
    before, after = (
        np.take_along_axis(softmax(logits.astype(np.float64), axis=1), chosen, axis=1)[:, 0]
        for logits in (intact, frozen)
    )
    loss: npt.NDArray[np.float64] = before - after
    return loss
