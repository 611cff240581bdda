import numpy as np
import pytest

from selrel.behaviour import CHANGES, changed, cue_conflict, freeze_effect, motion_use
from selrel.training.samples import Samples

CLIP = np.arange(16, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 3, 3), np.uint8)


def order(change, seed=0):
    samples = Samples(lambda number, shift: CLIP, np.array([3]))
    return changed(samples, change, seed=seed).read(0, 0)[:, 0, 0, 0].tolist()


def test_changes_in_time():
    assert order("intact") == list(range(16))
    assert order("frozen") == [8] * 16
    assert order("reversed") == list(range(15, -1, -1))
    assert sorted(order("shuffled")) == list(range(16))
    assert order("shuffled") == order("shuffled") != order("shuffled", seed=1)
    assert CHANGES == ("intact", "frozen", "shuffled", "reversed")


def test_unknown_change_is_refused():
    with pytest.raises(ValueError, match="change 'slow' is unknown; use one of frozen, shuffled"):
        order("slow")


def test_every_sample_has_its_own_order_and_keeps_it():
    samples = changed(Samples(lambda number, shift: CLIP, np.array([3, 1])), "shuffled", seed=5)
    first, second = (samples.read(number, 0)[:, 0, 0, 0].tolist() for number in (0, 1))
    assert first != second
    assert first == samples.read(0, 0)[:, 0, 0, 0].tolist()
    assert samples.labels.tolist() == [3, 1]


def test_conflicts_are_counted_where_motion_and_scene_differ():
    motion = np.array([0, 0, 0, 1, 1])
    context = np.array([0, 1, 1, 0, 2])
    predicted = np.array([0, 0, 1, 0, 3])
    counts = cue_conflict(predicted, motion, context)
    assert counts == {"conflicts": 4, "follows_motion": 1, "follows_context": 2}
    assert motion_use(counts) == pytest.approx(1 / 3)
    assert motion_use({"conflicts": 4, "follows_motion": 0, "follows_context": 0}) is None


def test_freeze_effect_is_the_probability_that_the_chosen_class_loses():
    intact = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]))
    frozen = np.log(np.array([[0.4, 0.5, 0.1], [0.1, 0.2, 0.7]])) + 3.0
    assert freeze_effect(intact, frozen) == pytest.approx([0.3, -0.1])


def test_freeze_effect_of_equal_classes_is_that_of_the_first():
    frozen = np.log(np.array([[0.1, 0.6, 0.3]], np.float32))
    for last_bit in (-1, 0, 1):
        intact = np.log(np.array([[0.4, 0.4, 0.2]], np.float32)) + np.float32([0, last_bit * 1e-7, 0])
        assert freeze_effect(intact, frozen) == pytest.approx([0.3], abs=1e-5)
