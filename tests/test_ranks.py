import itertools

import numpy as np
import pytest

from selrel.scores.ranks import auc, auc_interval, ranks, spearman, spearman_interval


def slow_ranks(values):
    return [
        sum(other < value for other in values) + (1 + sum(other == value for other in values)) / 2
        for value in values
    ]


def test_ranks_as_counted_one_by_one():
    rng = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        values = rng.integers(0, 6, n)
        assert ranks(values).tolist() == slow_ranks(values.tolist())


def test_spearman_without_ties_is_the_formula_of_differences():
    rng = np.random.default_rng(1)
    for n in (3, 5, 12):
        a, b = rng.permutation(n), rng.permutation(n)
        expected = 1 - 6 * float(((a - b) ** 2).sum()) / (n * (n**2 - 1))
        assert spearman(a * 3.5, np.exp(b)) == pytest.approx(expected)


def test_spearman_with_ties_is_the_correlation_of_ranks():
    a, b = np.array([1, 1, 2, 3, 3, 3]), np.array([5, 4, 4, 2, 2, 9])
    expected = np.corrcoef(slow_ranks(a.tolist()), slow_ranks(b.tolist()))[0, 1]
    assert spearman(a, b) == pytest.approx(expected)
    assert spearman(a, np.zeros(6)) is None
    assert spearman(a[:2], b[:2]) is None


def test_auc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(2)
    ours, theirs = rng.integers(0, 5, 9), rng.integers(0, 5, 13)
    pairs = list(itertools.product(ours.tolist(), theirs.tolist()))
    assert auc(ours, theirs) == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]))
    assert auc(ours, np.array([])) is None


def test_intervals_hold_the_estimate_and_shrink_with_more_values():
    rng = np.random.default_rng(3)
    widths = []
    for n in (10, 60):
        a = rng.normal(size=n)
        b = a + rng.normal(size=n)
        low, high = spearman_interval(a, b)
        assert low < spearman(a, b) < high
        widths.append(high - low)
        low, high = auc_interval(a + 0.5, b)
        assert low < auc(a + 0.5, b) < high
    assert widths[1] < widths[0]
    assert spearman_interval(a, b) == spearman_interval(a, b)


def test_interval_of_a_perfect_order_is_one_value():
    a = np.arange(9.0)
    assert spearman_interval(a, a**3) == (1.0, 1.0)
    assert auc_interval(a + 100, a) == (1.0, 1.0)
    assert spearman_interval(a, np.zeros(9)) is None
    assert auc_interval(a[:1], a) is None


def test_resampled_ranks_are_those_of_each_draw():
    rng = np.random.default_rng(4)
    a, b = rng.integers(0, 4, 8).astype(float), rng.integers(0, 4, 8).astype(float)
    drawn = np.random.default_rng(0).integers(0, 8, (1000, 8))
    values = [spearman(a[row], b[row]) for row in drawn]
    held = [value for value in values if value is not None]
    assert spearman_interval(a, b) == pytest.approx(tuple(np.quantile(held, [0.025, 0.975])))
