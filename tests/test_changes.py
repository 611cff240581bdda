"""Changes of a clip in time."""

import numpy as np
import pytest

from selrel.clips.changes import CHANGES, change_clip

CLIP = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)


def order(change, name="v_a_g01_c01 0", n_valid=None):
    return change_clip(CLIP, change, name, n_valid)[:, 0, 0, 0].tolist()


def test_each_change_of_a_whole_clip():
    assert order("frozen") == [8] * 16
    assert order("reversed") == list(range(15, -1, -1))
    assert sorted(order("shuffled")) == list(range(16)) != order("shuffled")
    assert list(CHANGES) == ["frozen", "shuffled", "reversed"]


def test_padded_frames_repeat_what_the_change_gives():
    assert order("frozen", n_valid=5) == [2] * 16
    assert order("reversed", n_valid=5) == [4, 3, 2, 1, 0] * 3 + [4]
    found = order("shuffled", n_valid=5)
    assert sorted(found[:5]) == [0, 1, 2, 3, 4]
    assert found == (found[:5] * 4)[:16]


def test_a_random_order_follows_the_clip_alone():
    assert order("shuffled") == order("shuffled") != order("shuffled", "v_a_g01_c01 16")
    # The same on every machine and with every release of every library.
    assert order("shuffled") == [10, 2, 12, 4, 6, 9, 14, 15, 11, 3, 1, 0, 5, 13, 7, 8]


def test_a_clip_of_one_frame_stays_as_it_is():
    for change in CHANGES:
        assert order(change, n_valid=1) == [0] * 16


def test_what_is_asked_for_wrongly_is_said():
    with pytest.raises(ValueError, match="change 'slow' is unknown; use one of frozen, shuffled, reversed"):
        order("slow")
    for n in (0, 17):
        with pytest.raises(ValueError, match=f"{n} valid frames in a clip of 16; give 1 to 16"):
            order("frozen", n_valid=n)
