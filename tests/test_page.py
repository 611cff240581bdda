import numpy as np
import pandas as pd
import pytest

from tasks.page import _examples, _own_scales, _scales, _shown

# clip: motion share, class, whole, right
CLIPS = {0: (0.9, "a", False, True), 1: (0.8, "a", True, False), 2: (0.5, "a", True, True),
         3: (0.4, "b", True, True), 4: (0.3, "b", True, True), 5: (0.2, "b", True, True),
         6: (0.1, "c", True, False)}  # fmt: skip


def ranked(clips):
    rows = [
        {"clip": clip, "kept_relevance": share, "class": name, "correct": right, "n_valid_frames": 16 * whole}
        for clip, (share, name, whole, right) in CLIPS.items()
        if clip in clips
    ]
    return pd.DataFrame(rows).sort_values("kept_relevance")


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        (CLIPS, {2: "highest", 3: "typical", 5: "lowest"}),
        # Neither a rest of a video nor a wrong answer, where there is anything else.
        ([0, 1, 2], {2: "highest"}),
        ([0, 1], {1: "highest"}),
        ([6], {6: "highest"}),
        ([3, 5], {3: "highest", 5: "lowest"}),
    ],
)
def test_examples_are_the_highest_the_middle_and_the_lowest(clips, expected):
    assert {row["clip"]: row["place"] for row in _examples(ranked(clips))} == expected


def test_a_class_shows_its_own_examples_only():
    featured = [row["clip"] for row in _examples(ranked(CLIPS))]
    shown = _shown(ranked(CLIPS), [*featured, 2])
    places = [(row["class"], row["clip"], row["place"]) for row in shown]
    assert ("b", 3, "highest") in places and ("c", 6, "highest") in places
    assert len({clip for _, clip, _ in places}) == len(places)


def test_a_scale_is_the_middle_one_of_the_clips_that_have_any_relevance():
    cubes = [{"m": np.full((2, 3, 3), value)} for value in (0.0, 1.0, 2.0, 30.0)]
    own = [_own_scales(cube) for cube in cubes]
    assert own[0] == {}
    assert _scales(own, ["m", "other"]) == {"m": 2.0, "other": 1.0}
