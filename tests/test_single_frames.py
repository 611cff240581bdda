"""What one frame alone gives of a clip's decision."""

from __future__ import annotations

import numpy as np
import pytest

from selrel.scores.single_frames import single_frames

# The class that is asked about is the first; its score is its logit less the mean of the others'.
CLIP = np.array([4.0, 0.0, 0.0], np.float32)
FRAMES = np.array([[2, 0, 0], [4, 0, 0], [0, 1, 0], [9, 0, 0]], np.float32)


def test_each_frame_gives_its_part_of_the_score() -> None:
    found = single_frames(FRAMES, CLIP, 0, n_valid=3)
    assert found["shares"] == pytest.approx([0.5, 1.0, -0.125])
    assert found["same"] == [True, True, False]
    # The fourth is padding.
    assert found["best"] == 1
    assert single_frames(FRAMES, CLIP, 0, n_valid=4)["best"] == 3


def test_a_constant_on_all_logits_changes_nothing() -> None:
    plain, moved = (single_frames(FRAMES + k, CLIP - k, 0, n_valid=4) for k in (0, 7))
    assert moved["shares"] == pytest.approx(plain["shares"])
    assert (moved["same"], moved["best"]) == (plain["same"], plain["best"])


def test_where_there_is_no_decision_there_are_no_parts_of_it() -> None:
    found = single_frames(FRAMES, np.array([0.1, 0, 0], np.float32), 0, n_valid=2)
    assert found["shares"] is None and found["same"] == [True, True]
