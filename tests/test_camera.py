"""The camera's motion: found under moving objects, taken off, and left alone where there is none."""

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from selrel.clips.camera import camera_flow, camera_motion, moved_origin, object_flow
from selrel.clips.flow import farneback, moving

Array = npt.NDArray[Any]
HEIGHT, WIDTH = 128, 171

CAMERAS = {
    "still": [[0, 0, 0], [0, 0, 0]],
    "pan": [[0, 0, 3], [0, 0, -1]],
    "shake": [[0, 0, 0.6], [0, 0, 0.4]],
    "zoom": [[0.02, 0, -1.7], [0, 0.02, -1.3]],
    "roll": [[0, -0.02, 1.3], [0.02, 0, -1.7]],
}


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Array:
    noise = np.random.default_rng(seed).random((height, width)).astype(np.float32)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)


def filmed(camera: Array, *, side: int, step: tuple[int, int] = (5, 4), seed: int = 0) -> tuple[Array, Array]:
    """Two grey frames of a background that the camera moves and a square that moves otherwise; its mask."""
    matrix = np.vstack([np.eye(2, 3) + camera, [0, 0, 1]])
    still = texture(seed)
    inverse = np.linalg.inv(matrix)[:2]
    moved = cv2.warpAffine(
        still, inverse, (WIDTH, HEIGHT), flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )  # fmt: skip
    frames, square = np.stack([still, moved]), texture(seed + 50, side, side)
    top, left = 40, 60
    frames[0, top : top + side, left : left + side] = square
    frames[1, top + step[1] :, left + step[0] :][:side, :side] = square
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + side, left : left + side] = True
    return frames.clip(0, 255).astype(np.uint8), mask


def slow_flow(camera: Array, height: int, width: int) -> Array:
    """The camera's flow by loops, float64."""
    rows = [[[m[0] * x + m[1] * y + m[2] for m in camera] for x in range(width)] for y in range(height)]
    return np.array(rows)


@pytest.mark.parametrize("name", CAMERAS)
@pytest.mark.parametrize("side", [8, 40, 60])
def test_camera_is_found_under_a_moving_object(name: str, side: int) -> None:
    camera = np.array(CAMERAS[name], float)
    frames, _ = filmed(camera, side=side)
    found = camera_motion(farneback(frames))
    error = np.linalg.norm(camera_flow(found[0], HEIGHT, WIDTH) - slow_flow(camera, HEIGHT, WIDTH), axis=-1)
    # A tenth of a pixel a frame; what moves is told at half a pixel.
    assert error.mean() < 0.1
    assert error.max() < 0.3


@pytest.mark.parametrize("name", [name for name in CAMERAS if name != "still"])
def test_what_is_left_without_the_camera_is_the_object(name: str) -> None:
    frames, mask = filmed(np.array(CAMERAS[name], float), side=40)
    flow = farneback(frames)
    left = moving(object_flow(flow, camera_motion(flow)))[0]
    every = moving(flow)[0]
    inside = np.s_[10:-10, 10:-10]
    assert left[mask].mean() > 0.9
    # Farneback smears an object's border; further away nothing is left.
    near = cv2.dilate(mask.astype(np.uint8), np.ones((31, 31), np.uint8)).astype(bool)
    assert left[inside][~near[inside]].mean() < 0.02 < 0.5 < every[inside][~near[inside]].mean()


def test_still_camera_is_left_alone() -> None:
    flow = farneback(np.stack([texture(0).astype(np.uint8)] * 3))
    assert np.abs(camera_motion(flow)).max() < 0.01
    np.testing.assert_allclose(object_flow(flow, camera_motion(flow)), flow, atol=0.02)


def test_flow_of_a_map_is_its_product() -> None:
    camera = np.random.default_rng(0).normal(size=(3, 2, 3)).astype(np.float32)
    found = camera_flow(camera, 7, 9)
    assert found.shape == (3, 7, 9, 2)
    for frame, one in zip(found, camera.astype(float), strict=True):
        np.testing.assert_allclose(frame, slow_flow(one, 7, 9), rtol=1e-5, atol=1e-5)


def test_cropped_camera_says_the_same_of_the_same_pixels() -> None:
    camera = np.random.default_rng(1).normal(size=(2, 2, 3)).astype(np.float32)
    whole = camera_flow(camera, 20, 30)
    cropped = camera_flow(moved_origin(camera, top=4, left=7), 10, 12)
    np.testing.assert_allclose(cropped, whole[:, 4:14, 7:19], rtol=1e-4, atol=1e-4)


def test_unknown_flow_has_no_camera_and_no_object() -> None:
    flow = np.pad(
        farneback(filmed(np.array(CAMERAS["pan"], float), side=20)[0]),
        ((0, 1), (0, 0), (0, 0), (0, 0)),
        constant_values=np.nan,
    )
    camera = camera_motion(flow)
    assert camera.shape == (2, 2, 3)
    assert np.isfinite(camera[0]).all() and np.isnan(camera[1]).all()
    left = object_flow(flow, camera)
    assert np.isnan(left[1]).all() and not moving(left)[1].any()


def test_same_flow_same_camera() -> None:
    flow = np.random.default_rng(2).normal(0, 2, (2, HEIGHT, WIDTH, 2)).astype(np.float32)
    first = camera_motion(flow)
    np.testing.assert_array_equal(camera_motion(flow), first)
    assert np.isfinite(first).all()
    # Pairs are fitted one by one.
    np.testing.assert_array_equal(camera_motion(flow[1:]), first[1:])


def test_no_pair_no_camera() -> None:
    assert camera_motion(np.zeros((0, 8, 8, 2), np.float32)).shape == (0, 2, 3)


def test_a_frame_on_which_no_three_points_span_a_plane_has_a_still_camera() -> None:
    """From one pixel on; three points on one line gave NaN, which means unknown, and fewer an error."""
    for height, width in np.ndindex(16, 16):
        shape = (height + 1, width + 1)
        camera = camera_motion(np.broadcast_to(np.float32([3, -1]), (1, *shape, 2)))
        expected = [[0, 0, 3], [0, 0, -1]] if min(shape) >= 7 else np.zeros((2, 3))
        np.testing.assert_allclose(camera[0], expected, atol=1e-4, err_msg=str(shape))
        unknown = camera_motion(np.full((1, *shape, 2), np.nan, np.float32))
        assert np.isnan(unknown).all()
