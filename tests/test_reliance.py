"""Reliance: what a change of the clips takes away of a decision, on models of which it is known."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from selrel.clips.changes import CHANGES, change_clip
from selrel.clips.profiles import Profile, View
from selrel.explainer import Explainer
from selrel.scores.reliance import (
    LEAST_SCORE,
    centred,
    clip_decisions,
    clip_reliance,
    in_words,
    reliance,
    reliance_rows,
)

N, T, SIZE, CLASSES = 12, 8, 16, 3


def rows_of(logits, changed, *, labels, groups, classes):
    """The table, from logits."""
    answer = logits.argmax(axis=1)
    clips = clip_decisions(logits, changed, answer=answer, labels=labels)
    about = {"groups": groups, "classes": classes, "n_answers": logits.shape[1]}
    return reliance_rows(clips, list(changed), answer=answer, labels=labels, **about)


def slow_centred(logits, chosen):
    return [row[c] - np.mean(np.delete(row, c)) for row, c in zip(logits.astype(float), chosen, strict=True)]


def test_the_centred_logit_is_the_logit_less_the_mean_of_the_others():
    logits = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    chosen = np.array([0, 3, 1, 2, 2])
    assert centred(logits, chosen) == pytest.approx(slow_centred(logits, chosen))
    assert np.isnan(centred(logits, np.array([0, -1, 1, 2, -1]))).tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(ValueError, match="the model has one class: a decision takes two"):
        centred(logits[:, :1], chosen)


def test_a_number_added_to_all_logits_changes_nothing():
    rng = np.random.default_rng(1)
    logits, frozen = rng.normal(size=(2, 20, 5)) * 4
    about = {"labels": logits.argmax(1), "groups": np.arange(20) // 4, "classes": np.array(["a", "b"] * 10)}
    shift = rng.normal(size=(20, 1)) * 100
    first = rows_of(logits, {"frozen": frozen}, **about)
    second = rows_of(logits + shift, {"frozen": frozen - shift}, **about)
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == (pytest.approx(value) if isinstance(value, float) else value), key


def test_reliance_is_a_ratio_of_sums_with_a_jackknife_over_groups():
    rng = np.random.default_rng(2)
    intact = rng.uniform(1, 5, 30)
    changed = intact * rng.uniform(0, 1, 30)
    groups = np.repeat(np.arange(6), 5)
    row = reliance(intact, changed, groups)
    value = 1 - changed.sum() / intact.sum()
    left_out = [1 - changed[groups != g].sum() / intact[groups != g].sum() for g in range(6)]
    # Student's t of 5 degrees of freedom.
    reach = 2.570582 * math.sqrt(5 / 6 * sum((x - np.mean(left_out)) ** 2 for x in left_out))
    assert row["reliance"] == pytest.approx(value)
    assert (row["low"], row["high"]) == pytest.approx((value - reach, value + reach))
    assert (row["n_clips"], row["n_groups"], row["no_decision"]) == (30, 6, None)


def test_clips_without_a_label_are_in_no_sum():
    intact = np.array([2.0, np.nan, 2.0, 2.0])
    row = reliance(intact, np.array([1.0, np.nan, 1.0, 1.0]), np.array([0, 1, 2, 3]))
    assert (row["reliance"], row["n_clips"], row["n_groups"]) == (0.5, 3, 3)
    none = reliance(np.full(3, np.nan), np.full(3, np.nan), np.arange(3))
    assert none["reliance"] is None and "no clip has a label" in none["no_decision"]


def test_no_decision_is_no_number():
    weak = np.full(9, 0.04)
    row = reliance(weak, -weak, np.arange(9))
    assert row["reliance"] is row["low"] is None
    assert row["no_decision"].startswith("no decision to speak of: on average, the class is only 1.04 times")
    assert np.isnan(clip_reliance(np.array([0.04]), np.array([0.0]))).all()
    assert clip_reliance(np.array([LEAST_SCORE, 4.0]), np.array([0.0, -4.0])).tolist() == [1.0, 2.0]


def test_guesses_are_no_decision_however_sure_they_are():
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(60, 4)) * 10
    about = {"groups": np.arange(60) // 6, "classes": np.array(["a"] * 30 + ["b"] * 30)}
    guesses = rows_of(logits, {"frozen": logits}, labels=rng.integers(0, 4, 60), **about)
    assert {row["reliance"] for row in guesses} == {None}
    assert "guesses among 4 classes are right on 25.0 %" in guesses[0]["no_decision"]
    unknown = rows_of(logits, {"frozen": logits}, labels=np.full(60, -1), **about)
    assert {row["reliance"] for row in unknown if row["target"] == "predicted"} == {0.0}
    assert {row["reliance"] for row in unknown if row["target"] == "true"} == {None}
    assert {row["accuracy"] for row in unknown} == {None}


def test_a_class_of_one_group_has_a_number_and_no_interval():
    logits = np.tile([5.0, 0.0], (8, 1))
    about = {"labels": np.zeros(8, int), "groups": np.array([0] * 2 + [1, 2, 3, 4, 5, 6])}
    rows = rows_of(logits, {"frozen": logits / 2}, classes=np.array(["a"] * 2 + ["b"] * 6), **about)
    (one,) = (row for row in rows if (row["class"], row["target"]) == ("a", "true"))
    assert one["reliance"] == 0.5 and one["low"] is None
    assert one["no_interval"].startswith("only 1 group of videos has")


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (0.02, -0.01, 0.05, "hardly"),
        (0.4, 0.3, 0.5, "partly"),
        (0.9, 0.8, 1.1, "mostly"),
        (0.2, 0.1, 0.3, "hardly to partly"),
        (0.4, 0.1, 0.7, "hardly to mostly"),
        (0.7, None, None, "mostly"),
    ],
)
def test_a_number_in_words(value, low, high, words):
    assert in_words({"reliance": value, "low": low, "high": high}) == words


# --- models of which it is known ------------------------------------------------------------------


class OfFrames(nn.Module):
    """A small network of what a weighting of the frames gives, (time,) to (pictures,)."""

    def __init__(self, weights):
        super().__init__()
        torch.manual_seed(0)
        pictures, time = weights.shape
        self.frames = nn.Conv3d(3, 3 * pictures, (time, 1, 1), groups=3, bias=False)
        self.frames.weight.data = weights.repeat(3, 1)[:, None, :, None, None]
        self.look = nn.Conv3d(3 * pictures, 16, (1, 5, 5), bias=False)
        self.answer = nn.Linear(16, CLASSES, bias=False)
        self.answer.weight.data *= 40

    def forward(self, clips):
        return self.answer(torch.relu(self.look(self.frames(clips))).amax(dim=(2, 3, 4)))


VIEW = View(clip_length=T, resize=(SIZE, SIZE), crop=(SIZE, SIZE))
PROFILE = Profile("own", VIEW, "RGB", 1 / 255, (0.5,) * 3, (0.25,) * 3, "sorted")


def measured(weights):
    """The reliances of such a model on clips of noise, by its own answers."""
    explainer = Explainer(OfFrames(weights).eval(), PROFILE)
    rng = np.random.default_rng(5)
    clips = rng.integers(0, 256, (N, T, SIZE, SIZE, 3), dtype=np.uint8)
    intact = explainer.logits(clips).numpy()
    singles = np.concatenate([explainer.logits(clip[None]).numpy() for clip in clips])
    assert singles == pytest.approx(intact, rel=1e-4, abs=1e-4 * float(np.abs(intact).max()))
    changed = {}
    for change in CHANGES:
        frames = np.stack([change_clip(clip, change, str(i)) for i, clip in enumerate(clips)])
        changed[change] = explainer.logits(frames).numpy()
    rows = rows_of(intact, changed, labels=np.full(N, -1), groups=np.arange(N), classes=np.array(["a"] * N))
    return {
        row["change"]: row["reliance"] for row in rows if (row["class"], row["target"]) == (None, "predicted")
    }


def test_a_model_of_the_mean_frame_relies_on_no_order_and_no_direction():
    found = measured(torch.full((1, T), 1 / T))
    assert abs(found["shuffled"]) < 1e-5 and abs(found["reversed"]) < 1e-5
    assert abs(found["frozen"]) > 0.01, "other frames show something else"


def test_a_model_of_the_frozen_frame_relies_on_no_motion():
    found = measured(torch.eye(T)[T // 2 : T // 2 + 1])
    assert found["frozen"] == 0
    assert abs(found["shuffled"]) > 0.001


def test_a_model_of_what_changes_between_frames_relies_on_motion_alone():
    found = measured(torch.eye(T)[1:] - torch.eye(T)[:-1])
    assert found["frozen"] == pytest.approx(1, abs=1e-6)
