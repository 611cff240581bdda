import numpy as np
import pytest

from selrel.pictures.films import film
from selrel.pictures.images import NEGATIVE, PALETTES, POSITIVE, flow_colours, overlay, relevance_scale

RNG = np.random.default_rng(1)


def clip_of(n, height, width, methods=("a",)):
    frames = RNG.integers(0, 256, (n, height, width, 3), dtype=np.uint8)
    flow = RNG.normal(0, 1, (n, height, width, 2))
    cubes = {method: RNG.normal(0, 1, (n, height, width)) for method in methods}
    return frames, flow, cubes, {method: cube > 1 for method, cube in cubes.items()}


def place(picture, part):
    """Where a part is found in a picture, (row, column)."""
    height, width = part.shape[:2]
    # One corner pixel narrows millions of windows down to a few.
    corners = np.argwhere((picture[: -height + 1, : -width + 1] == part[0, 0]).all(axis=2))
    found = [(y, x) for y, x in corners if np.array_equal(picture[y : y + height, x : x + width], part)]
    assert len(found) == 1
    return found[0]


def test_a_frame_shows_input_flow_baseline_and_selective_in_a_row():
    frames, flow, cubes, masks = clip_of(3, 200, 210)
    pictures = film(frames, flow, cubes, masks, flow_scale=2.0, title="x")
    assert len(pictures) == 3
    scale = relevance_scale(cubes["a"])
    for t, picture in enumerate(pictures):
        selected = np.where(masks["a"][t], cubes["a"][t], 0)
        panels = [
            frames[t],
            flow_colours(flow[t], scale=2.0),
            overlay(frames[t], cubes["a"][t], scale=scale),
            overlay(frames[t], selected, scale=scale),
        ]
        places = [place(picture, panel) for panel in panels]
        assert len({row for row, _ in places}) == 1
        columns = [column for _, column in places]
        assert (np.diff(columns) >= 210).all()


def test_methods_stand_in_rows_of_their_own():
    frames, flow, cubes, masks = clip_of(2, 192, 192, ("a", "b"))
    (picture, _) = film(frames, flow, cubes, masks, flow_scale=2.0, title="x")
    rows = [
        place(picture, overlay(frames[0], cube[0], scale=relevance_scale(cube)))[0] for cube in cubes.values()
    ]
    assert rows[1] - rows[0] >= 192


def test_small_pictures_are_enlarged_by_whole_pixels():
    frames, flow, cubes, masks = clip_of(1, 50, 100)
    (picture,) = film(frames, flow, cubes, masks, flow_scale=2.0, title="x")
    place(picture, np.repeat(np.repeat(frames[0], 2, axis=0), 2, axis=1))


@pytest.mark.parametrize(("height", "width"), [(30, 193), (31, 194), (7, 1), (1, 1)])
def test_both_sides_are_even(height, width):
    pictures = film(*clip_of(2, height, width), flow_scale=2.0, title="a long title of a clip" * 9)
    assert pictures.shape[1] % 2 == pictures.shape[2] % 2 == 0


def test_scale_and_legend_stay_the_same_in_every_frame():
    frames, flow, cubes, masks = clip_of(2, 40, 200)
    cubes["a"][1] *= 100
    pictures = film(frames, flow, cubes, masks, flow_scale=2.0, title="x")
    legends = [picture[64 + 2 :] for picture in pictures]
    ends = (POSITIVE, NEGATIVE)
    for legend in legends:
        assert all((legend == end).all(axis=2).any() for end in ends)
    assert np.array_equal(legends[0][40:], legends[1][40:])


def test_title_captions_and_palette_are_drawn():
    clip = clip_of(1, 192, 192)
    plain, titled, renamed, recoloured = (
        film(*clip, flow_scale=2.0, **{"title": "x", **changed})
        for changed in (
            {},
            {"title": "another"},
            {"selected": "3 sigma"},
            {"palette": "orange-purple"},
        )
    )
    assert not np.array_equal(plain[0, :22], titled[0, :22])
    assert np.array_equal(plain[0, 22:], titled[0, 22:])
    assert not np.array_equal(plain[0, 22:44], renamed[0, 22:44])
    for colour in PALETTES["orange-purple"]:
        assert (recoloured[0] == colour).all(axis=2).any()
