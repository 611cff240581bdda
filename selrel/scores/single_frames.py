"""Single frames: how much of a decision one frame alone gives.

Huang et al. 2018, "What makes a video a video: analyzing temporal information in video understanding models
and datasets": of a clip's frames, each frozen to a clip of its own, the best one tells from how many clips no
motion is needed at all. That it is the best of several selects what speaks for the class, so it is an upper
limit of what a still picture gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selrel.engine.ties import first_highest
from selrel.scores.reliance import LEAST_SCORE, centred


def single_frames(
    frames: npt.NDArray[Any], logits: npt.NDArray[Any], target: int, *, n_valid: int
) -> dict[str, Any]:
    """What each frame of a clip gives of its decision.

    Parameters
    ----------
    frames : float array (time, class)
        The logits of the clip frozen at each frame.
    logits : float array (class,)
        Those of the clip itself.
    target : int
        The class that is explained.
    n_valid : int
        How many frames are the video's; the others are padding.

    Returns
    -------
    dict
        ``shares``, for each valid frame its score as a part of the clip's (`centred`), 1 where it gives all
        of it; None where the clip has no decision to speak of. ``same``, whether its answer is the clip's.
        ``best``, the frame with the highest score.
    """
    classes = np.full(n_valid, target, np.int64)
    scores = centred(frames[:n_valid], classes)
    (whole,) = centred(logits[None], classes[:1])
    answers = first_highest(torch.from_numpy(np.ascontiguousarray(frames[:n_valid])))
    said = first_highest(torch.from_numpy(np.ascontiguousarray(logits[None])))
    return {
        "shares": (scores / whole).tolist() if whole >= LEAST_SCORE else None,
        "same": (answers == said).tolist(),
        "best": int(scores.argmax()),
    }
