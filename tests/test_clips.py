import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selrel.clips.windows import loop_pad, windows


@given(n_frames=st.integers(0, 400), length=st.integers(1, 40))
def test_windows_cover_every_frame_once(n_frames, length):
    cut = windows(n_frames, length=length)
    assert [t for start, n_valid in cut for t in range(start, start + n_valid)] == list(range(n_frames))
    assert len(cut) == math.ceil(n_frames / length)
    assert all(n_valid == length for _, n_valid in cut[:-1])


def test_windows_by_hand():
    assert windows(33) == [(0, 16), (16, 16), (32, 1)]
    assert windows(16) == [(0, 16)]
    assert windows(3) == [(0, 3)]
    assert windows(0) == []


@given(n_valid=st.integers(1, 16), length=st.integers(16, 20))
def test_loop_pad_repeats_from_the_windows_start(n_valid, length):
    frames = np.arange(n_valid * 2, dtype=np.uint8).reshape(n_valid, 2, 1)
    padded = loop_pad(frames, length)
    expected = []
    while len(expected) < length:
        expected.extend(frames[: length - len(expected)])
    assert padded.dtype == np.uint8
    np.testing.assert_array_equal(padded, np.stack(expected))


def test_loop_pad_gives_a_new_array():
    frames = np.zeros((16, 2), np.uint8)
    loop_pad(frames, 16)[:] = 1
    assert not frames.any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: windows(-1), "-1 frames"),
        (lambda: windows(10, length=0), "clip length 0"),
        (lambda: loop_pad(np.zeros((0, 2)), 16), "window of 0 frames"),
        (lambda: loop_pad(np.zeros((17, 2)), 16), "window of 17 frames"),
    ],
)
def test_bad_lengths_are_refused_in_one_line(call, words):
    with pytest.raises(ValueError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
