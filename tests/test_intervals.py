"""Intervals over UCF groups."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats  # type: ignore[import-untyped]

from selrel.scores.intervals import (
    difference_interval,
    mean_interval,
    no_interval,
    ratio_interval,
    student,
)

Array = npt.NDArray[Any]


def clips_of_groups(
    generator: np.random.Generator, n_groups: int = 20, between: float = 1.0, within: float = 0.3
) -> tuple[Array, Array]:
    """Scores of 1 to 9 clips a group, alike within the group."""
    sizes = generator.integers(1, 10, n_groups)
    levels = generator.normal(0, between, n_groups)
    values = np.repeat(levels, sizes) + generator.normal(0, within, sizes.sum())
    return values, np.repeat([f"YoYo/g{i:02}" for i in range(n_groups)], sizes)


def test_the_interval_restated() -> None:
    values, groups = clips_of_groups(np.random.default_rng(0))
    values[::4] = np.nan
    has = {label: [v for v in values[groups == label].tolist() if v == v] for label in sorted(set(groups))}
    has = {label: clips for label, clips in has.items() if clips}
    mean = np.mean([v for clips in has.values() for v in clips])
    # The pseudo-values' standard error of the mean, another way to write the jackknife's.
    without = [np.mean([v for other, clips in has.items() if other != label for v in clips]) for label in has]
    pseudo = len(has) * mean - (len(has) - 1) * np.array(without)
    sizes = np.array([len(clips) for clips in has.values()])
    t = stats.t.ppf(0.975, sizes.sum() ** 2 / (sizes**2).sum() - 1)
    reach = t * pseudo.std(ddof=1) / np.sqrt(len(has))
    assert mean_interval(values, groups) == pytest.approx((mean - reach, mean + reach), rel=1e-9)


def test_equal_groups_have_the_interval_of_a_mean() -> None:
    means = np.random.default_rng(1).normal(3, 2, 7)
    expected = stats.t.interval(0.95, 6, means.mean(), stats.sem(means))
    assert mean_interval(np.repeat(means, 5), np.repeat(np.arange(7), 5)) == pytest.approx(expected)


def test_student_is_the_known_distribution() -> None:
    assert student(1) == pytest.approx(np.tan(0.475 * np.pi))
    assert student(2) == pytest.approx(0.95 * np.sqrt(2 / (1 - 0.95**2)))
    assert student(1) > student(1.5) > student(2)
    # Fewer is no distribution that helps.
    assert student(0.2) == student(1)


@pytest.mark.parametrize("of", ["share", "positive"])
@pytest.mark.parametrize("n_groups", [3, 4, 5, 8, 10, 15, 25])
def test_the_interval_covers_the_truth_as_often_as_it_says(n_groups: int, of: Any) -> None:
    # Levels as skewed as precisions of real videos (beta) or more (gamma), and groups of unequal size.
    generator = np.random.default_rng(n_groups)
    shape = (1500, n_groups)
    levels = generator.beta(2, 5, shape) if of == "share" else generator.gamma(4, 0.25, shape)
    truth = 2 / 7 if of == "share" else 1.0
    sizes = np.ceil(generator.lognormal(2, 0.5, shape))
    covered = [
        low <= truth <= high
        for low, high in (
            ratio_interval(n * level, n, of=of) or (1, 0) for level, n in zip(levels, sizes, strict=True)
        )
    ]
    assert np.mean(covered) >= 0.93


@pytest.mark.parametrize("n_groups", [3, 5, 10, 25])
def test_the_interval_of_a_difference_covers_no_difference(n_groups: int) -> None:
    generator = np.random.default_rng(n_groups)
    covered = []
    for _ in range(1500):
        sizes, hard = np.ceil(generator.lognormal(2, 0.5, n_groups)), generator.beta(2, 5, n_groups)
        first, second = (sizes * (hard + generator.gamma(4, 0.02, n_groups)) for _ in range(2))
        low, high = difference_interval((first, sizes), (second, sizes)) or (1, 0)
        covered.append(low <= 0 <= high)
    assert np.mean(covered) >= 0.93


def test_copies_within_a_group_add_no_certainty() -> None:
    values, groups = np.random.default_rng(2).normal(size=30), np.arange(30)
    copied = mean_interval(np.repeat(values, 8), np.repeat(groups, 8))
    assert copied == pytest.approx(mean_interval(values, groups))
    independent = mean_interval(np.repeat(values, 8), np.arange(240))
    assert independent[1] - independent[0] < 0.5 * (copied[1] - copied[0])


def test_a_group_that_rules_the_mean_widens_the_interval() -> None:
    values = np.random.default_rng(3).normal(size=12)
    low, high = ratio_interval(values, np.ones(12))
    weights = np.r_[30.0, np.ones(11)]
    ruled_low, ruled_high = ratio_interval(weights * values, weights)
    assert ruled_high - ruled_low > 2 * (high - low)


def test_shares_and_ratios_stay_in_their_range() -> None:
    few, sums = np.array([0.01, 0.02, 0.3]), np.ones(3)
    plain = ratio_interval(few, sums)
    assert plain[0] < 0
    low, high = ratio_interval(few, sums, of="share")
    assert 0 < low < few.mean() < high < 1
    # A share and what is left of it have the same interval, seen from the other end.
    assert ratio_interval(1 - few, sums, of="share") == pytest.approx((1 - high, 1 - low))
    low, high = ratio_interval(few, sums, of="positive")
    assert low > 0 and low * high == pytest.approx(few.mean() ** 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("of", "top"), [("share", 1), ("positive", np.inf)])
def test_a_group_that_rules_the_ratio_leaves_its_whole_range(of: Any, top: float) -> None:
    weights = np.array([5000.0, 0.01, 0.01])
    low, high = ratio_interval(weights * [0.001, 1, 1], weights, of=of)
    assert (low, high) == (pytest.approx(0), top)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("of", ["share", "positive", "any"])
def test_a_score_that_is_the_same_everywhere_has_no_spread(value: float, of: Any) -> None:
    assert mean_interval(np.full(9, value), np.arange(9), of=of) == (value, value)


def test_order_and_labels_do_not_matter() -> None:
    values, groups = clips_of_groups(np.random.default_rng(4))
    order = np.random.default_rng(5).permutation(len(values))
    interval = mean_interval(values, groups)
    assert mean_interval(values[order], groups[order]) == pytest.approx(interval, rel=1e-12)
    assert mean_interval(values, np.unique(groups, return_inverse=True)[1]) == interval


def test_nulls_are_left_out() -> None:
    values, groups = clips_of_groups(np.random.default_rng(6))
    with_nulls = np.concatenate([values, np.full(21, np.nan)])
    # Also a group that has none but nulls.
    same_groups = np.concatenate([groups, groups[:20], ["YoYo/g99"]])
    assert mean_interval(with_nulls, same_groups) == pytest.approx(mean_interval(values, groups))
    as_objects = np.array([None if v != v else v for v in with_nulls.tolist()], object)
    assert mean_interval(as_objects, same_groups) == mean_interval(with_nulls, same_groups)


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        ([], []),
        ([1.0, 2.0, 3.0], ["a", "a", "a"]),
        ([1.0, 2.0, 2.0], ["a", "b", "b"]),
        ([1.0, 2.0, np.nan], ["a", "b", "c"]),
        ([np.nan, np.nan], ["a", "b"]),
    ],
)
def test_fewer_than_three_groups_have_no_interval(values: list[float], groups: list[str]) -> None:
    assert mean_interval(np.array(values), np.array(groups)) is None


def test_why_there_is_no_interval_is_said() -> None:
    assert no_interval(3) is None
    assert no_interval(2) == (
        "only 2 groups of videos have a value, and it takes 3 to tell how far apart groups lie"
    )
    assert no_interval(1).startswith("only 1 group of videos has a value")
    assert no_interval(0) == "no clip has a value"


def test_the_interval_of_a_ratio_leaves_both_sums_out_together() -> None:
    sums = np.random.default_rng(9).uniform(1, 2, 12)
    assert ratio_interval(3 * sums, sums) == pytest.approx((3, 3))
    separately = ratio_interval(3 * sums, np.ones(12))
    assert separately[1] - separately[0] > 0.1
