import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selrel.clips.profiles import (
    Profile,
    View,
    bounds,
    crop,
    crop_window,
    normalise,
    resize_frame,
    resized_size,
)
from selrel.models import families

PROFILES = [family.profile for family, _ in families().values()]
UNIT_PROFILE = Profile(
    family="unit",
    view=View(resize=(171, 128), crop=(112, 112), crop_rounding="round"),
    colour_order="RGB",
    scale=1 / 255,
    mean=(0.43216, 0.394666, 0.37645),
    std=(0.22803, 0.22145, 0.216989),
    label_order="classInd",
)


def test_the_published_crops():
    jfzhang = View(resize=(171, 128), crop=(112, 112), crop_rounding="round")
    mmaction2 = View(resize=128, crop=(112, 112), crop_rounding="floor")
    frame = np.broadcast_to(np.arange(171), (128, 171))
    rows = np.broadcast_to(np.arange(128)[:, None], (128, 171))
    np.testing.assert_array_equal(crop(frame, jfzhang)[0], np.arange(30, 142))
    np.testing.assert_array_equal(crop(rows, jfzhang)[:, 0], np.arange(8, 120))
    np.testing.assert_array_equal(crop(frame, mmaction2)[0], np.arange(29, 141))
    np.testing.assert_array_equal(crop(rows, mmaction2)[:, 0], np.arange(8, 120))


@pytest.mark.parametrize(
    ("size", "expected"), [((320, 240), (171, 128)), ((240, 320), (128, 171)), ((128, 128), (128, 128))]
)
def test_a_short_side_keeps_the_aspect_ratio(size, expected):
    assert resized_size(*size, View(resize=128, crop=(112, 112))) == expected


@given(height=st.integers(8, 60), width=st.integers(8, 60), rounding=st.sampled_from(["floor", "round"]))
def test_a_crop_lies_in_the_middle(height, width, rounding):
    view = View(resize=8, crop=(8, 7), crop_rounding=rounding)
    top, left = crop_window(height, width, view)
    assert abs((height - top - 8) - top) <= 1
    assert abs((width - left - 7) - left) <= 1


def test_resize_is_bilinear_between_pixel_centres():
    frame = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    resized = resize_frame(frame, View(resize=(17, 13), crop=(10, 10)))
    assert resized.shape == (13, 17, 3)
    expected = _bilinear(frame.astype(np.float64), 13, 17)
    assert np.abs(resized - expected).max() <= 1.0


def _bilinear(frame, height, width):
    y = np.clip((np.arange(height) + 0.5) * frame.shape[0] / height - 0.5, 0, frame.shape[0] - 1)
    x = np.clip((np.arange(width) + 0.5) * frame.shape[1] / width - 0.5, 0, frame.shape[1] - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    down, right = np.minimum(top + 1, frame.shape[0] - 1), np.minimum(left + 1, frame.shape[1] - 1)
    wy, wx = (y - top)[:, None, None], (x - left)[None, :, None]
    upper = frame[top][:, left] * (1 - wx) + frame[top][:, right] * wx
    lower = frame[down][:, left] * (1 - wx) + frame[down][:, right] * wx
    return upper * (1 - wy) + lower * wy


@pytest.mark.parametrize("profile", [*PROFILES, UNIT_PROFILE], ids=lambda profile: profile.family)
def test_normalise_restated_in_float64(profile):
    frames = np.random.default_rng(1).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    ours = normalise(frames, profile)
    assert ours.dtype == torch.float32 and ours.is_contiguous() and ours.shape == (2, 3, 3, 4, 5)
    for channel in range(3):
        colour = "RGB".index(profile.colour_order[channel])
        expected = frames[..., colour].astype(np.float64) * profile.scale - profile.mean[channel]
        expected /= profile.std[channel]
        np.testing.assert_allclose(ours[:, channel], expected, rtol=1e-5, atol=1e-5)


def test_bgr_puts_blue_first():
    blue = np.zeros((1, 1, 1, 1, 3), np.uint8)
    blue[..., 2] = 255
    jfzhang = families()["c3d-jfzhang"][0].profile
    assert normalise(blue, jfzhang).flatten().tolist() == [255 - 90, -98, -102]


@pytest.mark.parametrize("profile", [*PROFILES, UNIT_PROFILE], ids=lambda profile: profile.family)
def test_bounds_are_what_black_and_white_become(profile):
    low, high = bounds(profile)
    extremes = np.array([0, 255], np.uint8)[None, :, None, None, None].repeat(3, axis=-1)
    black, white = normalise(extremes, profile)[0, :, :, 0, 0].T
    assert torch.equal(low, black) and torch.equal(high, white)
    assert low.dtype == high.dtype == torch.float32 and low.shape == (3,)
    every = normalise(np.arange(256, dtype=np.uint8).reshape(1, 256, 1, 1, 1).repeat(3, -1), profile)
    assert (every >= low.reshape(3, 1, 1, 1)).all() and (every <= high.reshape(3, 1, 1, 1)).all()


def test_normalise_takes_tensors_and_leaves_them():
    frames = torch.randint(0, 256, (1, 2, 2, 2, 3), dtype=torch.uint8)
    before = frames.clone()
    assert torch.equal(normalise(frames, PROFILES[0]), normalise(frames.numpy(), PROFILES[0]))
    assert torch.equal(frames, before)


@pytest.mark.parametrize("profile", [*PROFILES, UNIT_PROFILE], ids=lambda profile: profile.family)
def test_profiles_survive_json(profile):
    assert Profile.from_dict(json.loads(json.dumps(profile.as_dict()))) == profile
    assert View.from_dict(json.loads(json.dumps(profile.view.as_dict()))) == profile.view


def test_override_reaches_profile_and_view():
    changed = UNIT_PROFILE.override(mean=[1, 2, 3], crop=(96, 100), label_order="sorted")
    assert changed.mean == (1.0, 2.0, 3.0) and changed.label_order == "sorted"
    assert changed.sample_shape == (3, 16, 96, 100)
    assert UNIT_PROFILE.override() == UNIT_PROFILE


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour_order": "GRB"}, "allowed: RGB, BGR"),
        ({"label_order": "alphabetical"}, "allowed: classInd, sorted"),
        ({"crop_rounding": "ceil"}, "allowed: floor, round"),
        ({"mean": (1, 2)}, "three numbers"),
        ({"mean": (1, 2, float("nan"))}, "finite"),
        ({"std": (1, 1, 0)}, "above 0"),
        ({"scale": 0}, "above 0"),
        ({"crop": (200, 112)}, "does not fit"),
        ({"crop": (0, 112)}, "below 1"),
        ({"clip_length": 0}, "below 1"),
        ({"resize": (171.5, 128)}, "whole numbers"),
        ({"colour": "RGB"}, "known: clip_length, colour_order, crop"),
        ({"family": "other"}, "no family"),
    ],
)
def test_bad_profiles_are_refused_in_one_line(changes, words):
    with pytest.raises(ValueError, match=words) as error:
        UNIT_PROFILE.override(**changes)
    assert "\n" not in str(error.value)


def test_bad_frames_are_refused():
    with pytest.raises(ValueError, match="float64"):
        normalise(np.zeros((1, 1, 1, 1, 3)), PROFILES[0])
    with pytest.raises(ValueError, match="does not fit"):
        crop(np.zeros((100, 200, 3)), UNIT_PROFILE.view)
    with pytest.raises(ValueError, match="fields"):
        Profile.from_dict({"family": "x"})
