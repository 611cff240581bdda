import itertools

import numpy as np
import pytest

from selrel.scores.ranks import (
    at_edge,
    auc,
    auc_interval,
    left_out_interval,
    spearman,
    spearman_interval,
    spearman_of_kinds,
    spearman_over_kinds,
)


def slow_ranks(values):
    return [
        sum(other < value for other in values) + (1 + sum(other == value for other in values)) / 2
        for value in values
    ]


def test_ties_share_their_ranks_as_counted_one_by_one():
    rng = np.random.default_rng(0)
    for n in (3, 7, 40):
        a, b = rng.integers(0, 6, n), rng.permutation(n)
        expected = np.corrcoef(slow_ranks(a.tolist()), slow_ranks(b.tolist()))[0, 1]
        assert spearman(a, b) == pytest.approx(expected)


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


def test_interval_leaves_every_block_out_in_turn():
    rng = np.random.default_rng(4)
    a = rng.integers(0, 9, 18).astype(float)
    b, blocks = a + rng.normal(0, 2, 18), np.arange(18) % 3
    without = []
    for block in range(3):
        left = blocks != block
        without.append(np.corrcoef(slow_ranks(a[left].tolist()), slow_ranks(b[left].tolist()))[0, 1])
    # The pseudo-values' standard error of the mean, another way to write the jackknife's.
    pseudo = 3 * spearman(a, b) - 2 * np.array(without)
    reach = 4.302653 * pseudo.std(ddof=1) / np.sqrt(3)
    expected = (spearman(a, b) - reach, min(spearman(a, b) + reach, 1))
    assert spearman_interval(a, b, blocks) == pytest.approx(expected)


@pytest.mark.parametrize(("of_seeds", "least"), [(0.0, 0.9), (2.0, 0.85)])
def test_interval_of_three_blocks_covers(of_seeds, least):
    rng = np.random.default_rng(7)
    use, seeds, covered = np.repeat(np.arange(6.0), 3), np.tile(np.arange(3), 6), []
    # Over very many seeds, the estimate for a line with this noise.
    many = np.repeat(np.arange(6.0), 2000)
    spread = np.hypot(2, of_seeds)
    truth = spearman(many + rng.normal(0, spread, len(many)), many)
    for _ in range(400):
        shares = use + rng.normal(0, 2, 18) + rng.normal(0, of_seeds, 3)[seeds]
        low, high = spearman_interval(shares, use, seeds)
        covered.append(low <= truth <= high)
    assert np.mean(covered) > least


def test_order_over_kinds_is_left_out_seed_by_seed():
    rng = np.random.default_rng(2)
    a, b, seeds = rng.normal(size=12), rng.normal(size=12), np.repeat(np.arange(4), 3)
    kinds = b > 0

    def over(chosen):
        return spearman(a[chosen], b[chosen]) - spearman_of_kinds(a[chosen], b[chosen], kinds[chosen])

    without = np.array([over(seeds != seed) for seed in range(4)])
    estimate = over(seeds >= 0)
    pseudo = 4 * estimate - 3 * without
    reach = 3.182446 * pseudo.std(ddof=1) / np.sqrt(4)
    found = left_out_interval(spearman_over_kinds, (a, b, kinds), seeds)
    assert found == pytest.approx((estimate - reach, estimate + reach))


def test_interval_shrinks_with_more_blocks():
    rng = np.random.default_rng(3)
    widths = []
    for n in (10, 60):
        a = rng.normal(size=n)
        b = a + rng.normal(size=n)
        low, high = spearman_interval(a, b, np.arange(n))
        assert low < spearman(a, b) < high
        widths.append(high - low)
    assert widths[1] < widths[0]


def test_pairs_of_a_block_are_not_taken_for_independent():
    rng = np.random.default_rng(5)
    of_block = rng.normal(size=(2, 12))
    a, b = (np.repeat(side, 8) + rng.normal(0, 0.01, 96) for side in of_block)
    low, high = spearman_interval(a, b, np.repeat(np.arange(12), 8))
    narrow_low, narrow_high = spearman_interval(a, b, np.arange(96))
    assert high - low > 2 * (narrow_high - narrow_low)


def test_no_interval_without_blocks_or_order():
    a = np.arange(9.0)
    assert spearman_interval(a, a**3, np.zeros(9)) is None
    assert spearman_interval(a, a + np.sin(9 * a), np.arange(9) % 2) is None
    assert spearman_interval(a, np.zeros(9), np.arange(9) % 3) is None
    assert spearman_interval(a, a**3, np.arange(9) % 3) == (pytest.approx(1), pytest.approx(1))


@pytest.mark.parametrize(("above", "below"), [(12, 6), (3, 4)])
def test_separation_alone_has_a_known_correlation(above, below):
    use = np.arange(above + below)
    known = 3 * above * below / ((above + below) ** 2 - 1)
    assert spearman_of_kinds(use**2, use, use >= below) == pytest.approx(known)
    assert round(3 * 12 * 6 / (18**2 - 1), 2) == 0.67


def test_correlation_of_kinds_is_the_mean_over_all_orders_within():
    first, second = np.array([1, 1, 5, 2, 4, 4, 9]), np.array([0, 2, 2, 1, 3, 7, 5])
    kinds = np.array([0, 0, 0, 0, 1, 1, 1])
    values = [
        spearman(np.concatenate([first[list(a)], first[list(b)]]), second)
        for a in itertools.permutations(range(4))
        for b in itertools.permutations(range(4, 7))
    ]
    assert spearman_of_kinds(first, second, kinds) == pytest.approx(np.mean(values))
    assert spearman_of_kinds(np.zeros(7), second, kinds) is None


def hanley_mcneil(area, n):
    """Variance by the chances that two values of a kind are both beyond one of the other, both kinds of n."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    return (area * (1 - area) + (n - 1) * (q1 - area**2 + q2 - area**2)) / n**2


@pytest.mark.parametrize(("estimate", "n", "m"), [(1.0, 12, 6), (0.0, 4, 9), (0.86, 12, 6), (0.5, 3, 3)])
def test_interval_of_the_auc_holds_every_area_that_is_not_refuted(estimate, n, m):
    areas = np.linspace(0, 1, 200_001)
    mean = (n + m) / 2
    variance = hanley_mcneil(areas, mean) * mean**2 / (n * m)
    held = areas[(areas - estimate) ** 2 <= 1.959964**2 * variance]
    low, high = auc_interval(estimate, n, m)
    assert (low, high) == (pytest.approx(held.min(), abs=1e-5), pytest.approx(held.max(), abs=1e-5))
    assert low <= estimate <= high


def test_interval_of_separated_kinds_is_not_a_point():
    low, high = auc_interval(1.0, 12, 6)
    assert 0.7 < low < 0.9 and high == 1
    assert auc_interval(0.0, 12, 6) == pytest.approx((0, 1 - low))
    assert auc_interval(1.0, 3, 3)[0] < low < auc_interval(1.0, 60, 60)[0]


def test_interval_of_the_auc_covers():
    rng = np.random.default_rng(6)
    # Of normal values a deviation and a half apart, the area is the normal distribution at 1.5 / sqrt(2).
    ours, theirs = rng.normal(1.5, 1, (2000, 12)), rng.normal(0, 1, (2000, 6))
    intervals = [auc_interval(auc(a, b), 12, 6) for a, b in zip(ours, theirs, strict=True)]
    covered = np.mean([low <= 0.855578 <= high for low, high in intervals])
    assert 0.93 <= covered <= 0.99


def test_what_was_never_seen_may_be_that_often():
    assert (1 - at_edge(16)) ** 16 == pytest.approx(0.025)
