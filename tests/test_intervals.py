"""Bootstrap intervals over UCF groups."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from selrel.scores.intervals import group_bootstrap, ratio_interval

Array = npt.NDArray[Any]


def clips_of_groups(
    generator: np.random.Generator, n_groups: int = 20, between: float = 1.0, within: float = 0.3
) -> tuple[Array, Array]:
    """Scores of 1 to 9 clips a group, alike within the group."""
    sizes = generator.integers(1, 10, n_groups)
    levels = generator.normal(0, between, n_groups)
    values = np.repeat(levels, sizes) + generator.normal(0, within, sizes.sum())
    return values, np.repeat([f"YoYo/g{i:02}" for i in range(n_groups)], sizes)


def test_the_bootstrap_restated() -> None:
    values, groups = clips_of_groups(np.random.default_rng(0))
    values[::4] = np.nan
    labels = sorted(set(groups.tolist()))
    generator = np.random.default_rng(7)
    means = []
    for _ in range(50):
        drawn = [labels[i] for i in generator.integers(0, len(labels), len(labels))]
        clips = [v for label in drawn for v in values[groups == label].tolist() if v == v]
        means.append(sum(clips) / len(clips))
    expected = np.quantile(means, [0.025, 0.975]).tolist()
    assert group_bootstrap(values, groups, n=50, seed=7) == pytest.approx(expected, rel=1e-12)


def test_two_groups_have_three_possible_means() -> None:
    values, groups = np.array([1.0, 1.0, 1.0, 5.0]), np.array(["a", "a", "a", "b"])
    assert group_bootstrap(values, groups) == (1.0, 5.0)
    # 1/4 of the resamples have mean 1, 1/2 have 2, 1/4 have 5.
    assert group_bootstrap(values, groups, confidence=0.2) == (2.0, 2.0)


def test_one_clip_a_group_has_the_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(3, 2, 400)
    low, high = group_bootstrap(values, np.arange(400))
    half = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_copies_within_a_group_add_no_certainty() -> None:
    values, groups = np.random.default_rng(2).normal(size=30), np.arange(30)
    copied = group_bootstrap(np.repeat(values, 8), np.repeat(groups, 8))
    assert copied == pytest.approx(group_bootstrap(values, groups))
    independent = group_bootstrap(np.repeat(values, 8), np.arange(240))
    assert independent[1] - independent[0] < 0.5 * (copied[1] - copied[0])


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        low, high = group_bootstrap(*clips_of_groups(generator, n_groups=40), n=400)
        covered += low <= 0 <= high
    assert 0.88 < covered / 300 < 0.985


def test_order_and_labels_do_not_matter_but_the_seed_does() -> None:
    values, groups = clips_of_groups(np.random.default_rng(4))
    order = np.random.default_rng(5).permutation(len(values))
    interval = group_bootstrap(values, groups)
    assert group_bootstrap(values[order], groups[order]) == pytest.approx(interval, rel=1e-12)
    assert group_bootstrap(values, np.unique(groups, return_inverse=True)[1]) == interval
    assert group_bootstrap(values, groups) == interval
    assert group_bootstrap(values, groups, seed=1) != interval


def test_nulls_are_left_out() -> None:
    values, groups = clips_of_groups(np.random.default_rng(6))
    with_nulls = np.concatenate([values, np.full(20, np.nan)])
    same_groups = np.concatenate([groups, groups[:20]])
    assert group_bootstrap(with_nulls, same_groups) == pytest.approx(group_bootstrap(values, groups))
    as_objects = np.array([None if v != v else v for v in with_nulls.tolist()], object)
    assert group_bootstrap(as_objects, same_groups) == group_bootstrap(with_nulls, same_groups)


def test_groups_without_a_value_make_no_nan() -> None:
    low, high = group_bootstrap(np.array([1.0, 2.0, np.nan, np.nan, np.nan]), np.arange(5))
    assert (low, high) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("values", "groups"),
    [([], []), ([1.0, 2.0], ["a", "a"]), ([1.0, np.nan], ["a", "b"]), ([np.nan, np.nan], ["a", "b"])],
)
def test_fewer_than_two_groups_have_no_interval(values: list[float], groups: list[str]) -> None:
    assert group_bootstrap(np.array(values), np.array(groups)) is None


def test_a_score_that_is_the_same_everywhere_has_no_spread() -> None:
    assert group_bootstrap(np.full(9, 0.25), np.arange(9)) == (0.25, 0.25)


def test_a_wider_confidence_is_a_wider_interval() -> None:
    values, groups = clips_of_groups(np.random.default_rng(8))
    (low, high), (lower, higher) = (group_bootstrap(values, groups, confidence=c) for c in (0.8, 0.99))
    assert lower < low < np.mean(values) < high < higher


def test_the_interval_of_a_ratio_resamples_both_sums_together() -> None:
    sums = np.random.default_rng(9).uniform(1, 2, 12)
    assert ratio_interval(3 * sums, sums) == pytest.approx((3, 3))
    separately = ratio_interval(3 * sums, np.ones(12))
    assert separately[1] - separately[0] > 0.1


@pytest.mark.parametrize(("n", "confidence"), [(0, 0.95), (10, 0.0), (10, 1.0), (10, 95)])
def test_bad_settings_are_refused(n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="resamples at confidence"):
        group_bootstrap(np.arange(4.0), np.arange(4), n=n, confidence=confidence)
