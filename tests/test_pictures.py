import cv2
import numpy as np
import pytest

from selrel.pictures.images import (
    NEGATIVE,
    PALETTES,
    POSITIVE,
    UNKNOWN,
    contact_sheet,
    flow_colours,
    flow_wheel,
    mask_picture,
    overlay,
    png,
    relevance_colours,
    relevance_legend,
    relevance_scale,
    steps,
    strip,
    webp,
)

RNG = np.random.default_rng(0)
FRAME = RNG.integers(0, 256, (12, 10, 3), dtype=np.uint8)


def test_relevance_is_red_blue_or_white():
    colours = relevance_colours(np.array([[2.0, -2.0, 0.0, 9.0, np.nan]]), scale=2.0)
    assert colours.dtype == np.uint8
    assert [tuple(c) for c in colours[0]] == [POSITIVE, NEGATIVE, (255, 255, 255), POSITIVE, UNKNOWN]


def test_more_relevance_is_darker_and_signs_mirror():
    values = np.linspace(0, 1, 21)
    for sign, strong in ((1, 0), (-1, 2)):
        colours = relevance_colours(sign * values[None], scale=1.0)[0].astype(int)
        assert (np.diff(colours.sum(axis=1)) < 0).all()
        # The colour's own channel leads at every strength.
        assert (colours[1:, strong] == colours[1:].max(axis=1)).all()


def test_scale_is_fixed_and_not_that_of_the_frame():
    cube = np.stack([np.full((4, 4), 0.5), np.full((4, 4), 1.0)])
    faint, strong = (relevance_colours(frame, scale=1.0) for frame in cube)
    assert faint.sum() > strong.sum()
    assert np.array_equal(relevance_colours(3 * cube[0], scale=3.0), faint)


def test_scale_bears_single_peaks():
    cube = np.full((4, 50, 50), -2.0)
    cube[0, 0, 0] = 1e6
    cube[1] = 0
    cube[2, 0, 0] = np.nan
    assert relevance_scale(cube) == pytest.approx(2.0)
    assert relevance_scale(np.zeros((2, 3, 3))) == 1.0


def test_frame_stays_as_it_is_where_nothing_is_relevant():
    relevance = np.zeros((12, 10))
    relevance[:6] = 1.0
    plain = overlay(FRAME, np.zeros((12, 10)), scale=1.0)
    tinted = overlay(FRAME, relevance, scale=1.0)
    assert np.array_equal(tinted[6:], plain[6:])
    assert (plain[..., 0] == plain[..., 1]).all()
    # Brighter in the frame is brighter in the overlay, and nothing is so dark that colour is lost.
    grey = cv2.cvtColor(FRAME, cv2.COLOR_RGB2GRAY).astype(float)
    assert np.corrcoef(grey.ravel(), plain[..., 0].ravel())[0, 1] > 0.999
    assert plain.min() > 100
    assert (tinted[:6, :, 0].astype(int) > tinted[:6, :, 2]).all()


def test_directions_of_flow_have_hues_of_their_own():
    directions = {"right": (1, 0), "down": (0, 1), "left": (-1, 0), "up": (0, -1)}
    hues = {}
    for name, flow in directions.items():
        colour = flow_colours(np.array([[flow]], np.float32), scale=1.0)
        hues[name] = int(cv2.cvtColor(colour, cv2.COLOR_RGB2HSV)[0, 0, 0]) * 2
    assert hues == {"right": 0, "down": 90, "left": 180, "up": 270}


def test_still_is_white_fast_is_full_and_unknown_is_grey():
    flow = np.array([[(0, 0), (0.5, 0), (1, 0), (7, 0), (np.nan, np.nan)]], np.float32)
    colours = flow_colours(flow, scale=1.0)[0]
    assert tuple(colours[0]) == (255, 255, 255)
    assert tuple(colours[1]) == (255, 128, 128)
    assert tuple(colours[2]) == tuple(colours[3]) == (255, 0, 0)
    assert tuple(colours[4]) == UNKNOWN


def test_stored_half_precision_is_drawn_too():
    flow = RNG.normal(0, 1, (12, 10, 2))
    colours = flow_colours(flow.astype(np.float16), scale=2.0)
    assert np.abs(colours.astype(int) - flow_colours(flow, scale=2.0)).max() <= 2


def test_legends_are_drawn_with_the_same_colours():
    legend = relevance_legend(129, 5)
    assert legend.shape == (5, 129, 3)
    assert [tuple(legend[2, x]) for x in (0, 64, 128)] == [NEGATIVE, (255, 255, 255), POSITIVE]
    wheel = flow_wheel(65)
    assert tuple(wheel[32, 32]) == (255, 255, 255) == tuple(wheel[0, 0])
    assert np.array_equal(wheel[32, 64], flow_colours(np.array([[(1.0, 0.0)]]), scale=1.0)[0, 0])


def test_mask_is_black_on_white():
    assert mask_picture(np.array([[True, False]])).tolist() == [[[0] * 3, [255] * 3]]


def sheet_of(n_frames=6, n_valid=5):
    frames = RNG.integers(0, 256, (n_valid, 24, 30, 3), dtype=np.uint8)
    flow = RNG.normal(0, 1, (n_valid, 24, 30, 2))
    cube = RNG.normal(0, 1, (n_valid, 24, 30))
    mask = cube > 1
    sheet = contact_sheet(frames, flow, {"a": cube}, {"a": mask}, flow_scale=2.0, n_frames=n_frames)
    return frames, flow, cube, mask, sheet


def where(sheet, picture):
    """Every place at which a picture is found in a sheet."""
    h, w = picture.shape[:2]
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (h, w, 3))[:, :, 0]
    return [tuple(place) for place in np.argwhere((windows == picture).all(axis=(2, 3, 4)))]


def test_contact_sheet_holds_every_picture_in_its_row_and_column():
    frames, flow, cube, mask, sheet = sheet_of()
    scale = relevance_scale(cube)
    places = []
    for t in range(5):
        selected = np.where(mask[t], cube[t], 0)
        column = [
            frames[t],
            flow_colours(flow[t], scale=2.0),
            overlay(frames[t], cube[t], scale=scale),
            overlay(frames[t], selected, scale=scale),
        ]
        found = [where(sheet, picture) for picture in column]
        assert all(len(place) == 1 for place in found)
        places.append([place[0] for place in found])
    tops, lefts = np.array(places)[..., 0], np.array(places)[..., 1]
    assert (tops == tops[0]).all()
    assert (np.diff(tops[0]) > 24).all()
    assert (lefts == lefts[:, :1]).all()
    assert (np.diff(lefts[:, 0]) > 30).all()


def test_contact_sheet_takes_both_ends_of_a_long_clip():
    frames, *_, sheet = sheet_of(n_frames=3, n_valid=9)
    assert [len(where(sheet, frame)) for frame in frames] == [1, 0, 0, 0, 1, 0, 0, 0, 1]


def test_one_frame_makes_a_sheet():
    frames, *_, sheet = sheet_of(n_valid=1)
    assert len(where(sheet, frames[0])) == 1


def test_steps_show_the_method_in_order():
    relevance, edges = RNG.normal(0, 1, (2, 24, 30))
    frame = RNG.integers(0, 256, (24, 30, 3), dtype=np.uint8)
    mask = np.abs(edges) > 1
    picture = steps(frame, relevance, edges, mask, scale=2.0)
    panels = [
        frame,
        overlay(frame, relevance, scale=2.0),
        relevance_colours(edges, scale=relevance_scale(edges)),
        mask_picture(mask),
        overlay(frame, np.where(mask, relevance, 0), scale=2.0),
    ]
    lefts = [where(picture, panel)[0][1] for panel in panels]
    assert lefts == sorted(lefts)


def test_png_keeps_every_pixel_and_its_bytes():
    data = png(FRAME)
    assert data.startswith(b"\x89PNG")
    back = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(cv2.cvtColor(back, cv2.COLOR_BGR2RGB), FRAME)
    assert png(FRAME.copy()) == data


def test_palettes_paint_the_signs_and_the_second_survives_greyscale():
    values = np.array([[2.0, -2.0, 0.0, np.nan]])
    for palette, (positive, negative) in PALETTES.items():
        colours = relevance_colours(values, scale=2.0, palette=palette)[0]
        assert [tuple(c) for c in colours] == [positive, negative, (255, 255, 255), UNKNOWN]
    lightness = cv2.cvtColor(np.array([PALETTES["orange-purple"]], np.uint8), cv2.COLOR_RGB2GRAY)[0]
    assert int(lightness[0]) - int(lightness[1]) > 80


def test_every_picture_of_relevance_takes_the_palette():
    frames = np.stack([FRAME, FRAME])
    cube = np.stack([np.ones((12, 10)), -np.ones((12, 10))])
    mask, flow = cube != 0, np.zeros((2, 12, 10, 2))
    for draw in (
        lambda palette: overlay(FRAME, cube[0], scale=1.0, palette=palette),
        lambda palette: relevance_legend(palette=palette),
        lambda palette: steps(FRAME, cube[0], cube[0], mask[0], scale=1.0, palette=palette),
        lambda palette: contact_sheet(
            frames, flow, {"a": cube}, {"a": mask}, flow_scale=1.0, palette=palette
        ),
    ):
        pictures = [draw(palette) for palette in PALETTES]
        assert pictures[0].shape == pictures[1].shape
        assert not np.array_equal(*pictures)


def test_strip_holds_the_frames_in_order():
    frames = RNG.integers(0, 256, (3, 12, 10, 3), dtype=np.uint8)
    laid = strip(frames)
    assert laid.shape == (12, 30, 3)
    for t, frame in enumerate(frames):
        assert np.array_equal(laid[:, 10 * t : 10 * t + 10], frame)


def test_webp_is_nearly_the_picture_and_smaller_at_a_lower_quality():
    frame = cv2.resize(FRAME, (80, 96), interpolation=cv2.INTER_CUBIC)
    sizes, losses = [], []
    for quality in (100, 85, 40):
        data = webp(frame, quality=quality)
        back = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        sizes.append(len(data))
        losses.append(np.abs(back.astype(int) - frame).mean())
    assert data[:4] + data[8:12] == b"RIFFWEBP"
    # With red and blue changed over it is 50.
    assert losses == sorted(losses) and losses[0] < 4
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] < sizes[0] / 2
