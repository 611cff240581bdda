"""Optical flow and the rules that say what moves."""

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from selrel.clips.flow import farneback, grey, known, moving

Array = npt.NDArray[Any]


def texture(seed: int = 0, size: tuple[int, int] = (128, 171)) -> Array:
    """A smooth random texture that wraps around, so that it can be shifted by whole pixels."""
    noise = np.random.default_rng(seed).random(size).astype(np.float32)
    smooth = cv2.GaussianBlur(np.tile(noise, (3, 3)), (0, 0), 2)[size[0] : 2 * size[0], size[1] : 2 * size[1]]
    return cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


@pytest.mark.parametrize(("right", "down"), [(2, 0), (-2, 0), (0, 2), (0, -3), (3, -1)])
def test_flow_of_a_shifted_texture_is_the_shift(right: int, down: int) -> None:
    still = texture()
    frames = np.stack([np.roll(still, (t * down, t * right), axis=(0, 1)) for t in range(3)])
    flow = farneback(frames)
    assert flow.dtype == np.float32
    assert flow.shape == (2, 128, 171, 2)
    inside = flow[:, 20:-20, 20:-20]
    np.testing.assert_allclose(np.median(inside, axis=(1, 2)), [[right, down]] * 2, atol=0.1)


def test_flow_leads_from_a_frame_to_the_next() -> None:
    frames = np.stack([texture(), texture(), np.roll(texture(), 2, axis=1)])
    flow = farneback(frames)
    inside = flow[:, 20:-20, 20:-20]
    assert np.abs(inside[0]).max() < 0.01
    assert np.median(inside[1, ..., 0]) == pytest.approx(2, abs=0.1)


@pytest.mark.parametrize("n_frames", [0, 1])
def test_fewer_than_two_frames_have_no_flow(n_frames: int) -> None:
    assert farneback(np.zeros((n_frames, 16, 20), np.uint8)).shape == (0, 16, 20, 2)


def test_frames_that_are_not_grey_are_refused() -> None:
    with pytest.raises(ValueError, match="needs grey uint8 frames"):
        farneback(np.zeros((2, 16, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        farneback(np.zeros((2, 16, 20), np.float32))


def test_grey_is_luma_of_rgb() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    expected = frames.astype(np.float64) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(grey(frames).astype(np.float64), expected, atol=0.51)


def test_an_unknown_frame_does_not_move() -> None:
    flow = np.full((4, 4, 5, 2), 9, np.float32)
    flow[-1] = np.nan
    assert known(flow).reshape(4, -1).all(axis=1).tolist() == [True, True, True, False]
    for rule in ("tau", "frame_std"):
        assert not moving(flow, rule=rule)[-1].any()
    assert moving(flow)[:-1].all()


def test_a_flow_is_known_only_with_both_components() -> None:
    flow = np.zeros((1, 1, 3, 2), np.float16)
    flow[0, 0, 1, 0] = flow[0, 0, 2, 1] = np.nan
    assert known(flow).tolist() == [[[True, False, False]]]


@pytest.mark.parametrize("tau", [0, 0.1, 0.5, 2])
def test_tau_compares_the_length_of_the_flow(tau: float) -> None:
    flow = np.random.default_rng(1).normal(size=(2, 3, 4, 2)).astype(np.float32)
    expected = [[[math.hypot(*map(float, v)) > tau for v in row] for row in frame] for frame in flow]
    assert moving(flow, tau=tau).tolist() == expected


def test_a_flow_as_long_as_tau_does_not_move() -> None:
    flow = np.array([[[[0.5, 0], [-0.3, 0.4], [0.51, 0]]]], np.float64)
    assert moving(flow, tau=0.5)[0, 0].tolist()[::2] == [False, True]
    assert not moving(np.zeros((1, 2, 2, 2)), tau=0).any()


def test_frame_std_restated_as_published() -> None:
    flow = np.random.default_rng(2).gamma(0.5, size=(3, 6, 7, 2)).astype(np.float32)
    flow[1] *= 40
    result = moving(flow, rule="frame_std")
    for frame, moves in zip(flow, result, strict=True):
        lengths = [[math.hypot(*map(float, v)) for v in row] for row in frame]
        low, high = min(map(min, lengths)), max(map(max, lengths))
        scaled = [[255 * (length - low) / (high - low) for length in row] for row in lengths]
        flat = [value for row in scaled for value in row]
        mean = sum(flat) / len(flat)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in flat) / len(flat))
        assert moves.tolist() == [[value > deviation for value in row] for row in scaled]


def test_frame_std_judges_each_frame_by_itself() -> None:
    flow = np.random.default_rng(3).normal(size=(2, 5, 6, 7, 2)).astype(np.float32)
    together = moving(flow, rule="frame_std")
    singles = [[moving(frame[None], rule="frame_std")[0] for frame in clip] for clip in flow]
    np.testing.assert_array_equal(together, singles)


def test_nothing_moves_under_frame_std_where_all_moves_alike() -> None:
    assert not moving(np.full((1, 8, 9, 2), 3.3, np.float32), rule="frame_std").any()


def test_half_precision_flow_moves_like_full_precision_flow() -> None:
    flow = np.random.default_rng(4).normal(size=(2, 30, 30, 2)).astype(np.float16)
    np.testing.assert_array_equal(moving(flow), moving(flow.astype(np.float32)))


@pytest.mark.parametrize(
    ("rule", "tau", "message"),
    [("speed", 0.5, "use one of tau, frame_std"), ("tau", -1, "tau is -1"), ("tau", math.nan, "tau is nan")],
)
def test_bad_rules_are_refused_in_one_line(rule: Any, tau: float, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        moving(np.zeros((1, 2, 2, 2)), rule=rule, tau=tau)
    assert "\n" not in str(error.value)
