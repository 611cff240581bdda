"""Which clips a report plays."""

import pandas as pd
import pytest

from tasks.shown import Shown, _examples

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


def test_those_that_count_most_come_first():
    rows = [
        {"clip": clip, "place": place}
        for clip, place in ((1, "highest"), (2, "typical"), (3, "lowest"), (4, "highest"), (5, None))
    ]
    shown = Shown({5: "highest", 2: "lowest"}, rows)
    assert shown.first(3) == [5, 2, 1]
    assert shown.first(99) == [5, 2, 1, 4, 3]
    assert shown.first(0) == []
