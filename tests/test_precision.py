"""Precision, base rate, lift, relevance-weighted and area-matched precision."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selrel.scores import precision
from selrel.scores.nested import reach, tally
from tests.slow_selective import slow_area_precision

Array = npt.NDArray[Any]

SHAPE = (3, 4, 5)


def clip(seed: int = 0, *, positive: bool = False, ties: bool = False) -> tuple[Array, Array, Array, Array]:
    """Relevance, moving voxels, counted voxels and a selective mask of one small clip."""
    generator = np.random.default_rng(seed)
    relevance = generator.normal(size=SHAPE).astype(np.float32)
    if ties:
        relevance = np.round(relevance * 2) / 2
    if positive:
        relevance = np.abs(relevance) + np.float32(0.1)
    moving, counted, selected = (generator.random(SHAPE) < share for share in (0.4, 0.8, 0.5))
    return relevance, moving, counted, selected


def slow_counts(
    relevance: Array, moving: Array, counted: Array, selected: Array | None = None
) -> dict[str, Any]:
    names = (
        "counted_voxels",
        "moving_voxels",
        "relevant_voxels",
        "relevant_moving_voxels",
        "positive_relevance",
        "positive_relevance_moving",
    )
    sums = dict.fromkeys(names, 0)
    for voxel in np.ndindex(SHAPE):
        if not counted[voxel]:
            continue
        sums["counted_voxels"] += 1
        sums["moving_voxels"] += bool(moving[voxel])
        if relevance[voxel] > 0 and (selected is None or selected[voxel]):
            sums["relevant_voxels"] += 1
            sums["relevant_moving_voxels"] += bool(moving[voxel])
            sums["positive_relevance"] += float(relevance[voxel])
            sums["positive_relevance_moving"] += float(relevance[voxel]) * bool(moving[voxel])
    return sums


@pytest.mark.parametrize("seed", range(5))
def test_counts_restated(seed: int) -> None:
    relevance, moving, counted, selected = clip(seed)
    for mask in (None, selected):
        expected = slow_counts(relevance, moving, counted, mask)
        assert precision.counts(relevance, moving, counted, mask) == pytest.approx(expected, rel=1e-12)


def test_counts_are_plain_numbers() -> None:
    counts = precision.counts(*clip())
    kinds = {name: type(value) for name, value in counts.items()}
    assert {name for name, kind in kinds.items() if kind is float} == {
        "positive_relevance",
        "positive_relevance_moving",
    }
    assert set(kinds.values()) == {int, float}


def test_ratios_restated() -> None:
    counts = {
        "counted_voxels": 200,
        "moving_voxels": 50,
        "relevant_voxels": 40,
        "relevant_moving_voxels": 30,
        "positive_relevance": 8.0,
        "positive_relevance_moving": 7.0,
    }
    expected = {"precision": 0.75, "base_rate": 0.25, "lift": 3.0, "weighted_precision": 0.875}
    assert precision.ratios(counts) == expected


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_a_map_positive_everywhere_has_the_base_rate_to_the_last_digit(seed: int) -> None:
    relevance, moving, counted, _ = clip(seed, positive=True)
    ratios = precision.ratios(precision.counts(relevance, moving, counted))
    assert ratios["precision"] == ratios["base_rate"]
    assert ratios["lift"] in (1.0, None)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_counts_of_the_parts_add_up_to_those_of_the_whole(seed: int) -> None:
    relevance, moving, counted, selected = clip(seed)
    first = np.random.default_rng(seed + 1).random(SHAPE) < 0.5
    parts = [precision.counts(relevance, moving, counted & half, selected) for half in (first, ~first)]
    merged = {name: parts[0][name] + parts[1][name] for name in parts[0]}
    assert merged == pytest.approx(precision.counts(relevance, moving, counted, selected), rel=1e-12)


def test_nothing_relevant_is_null_and_not_zero() -> None:
    relevance, moving, counted, _ = clip()
    counts = precision.counts(-np.abs(relevance), moving, counted)
    ratios = precision.ratios(counts)
    assert ratios["precision"] is None
    assert ratios["lift"] is None
    assert ratios["weighted_precision"] is None
    assert ratios["base_rate"] == counts["moving_voxels"] / counts["counted_voxels"]
    assert set(precision.area_matched(-np.abs(relevance), moving, counted).values()) == {None}


def test_nothing_counted_is_null() -> None:
    relevance, moving, counted, selected = clip()
    counts = precision.counts(relevance, moving, np.zeros_like(counted), selected)
    assert set(counts.values()) == {0}
    assert set(precision.ratios(counts).values()) == {None}
    assert set(precision.area_matched(relevance, moving, np.zeros_like(counted)).values()) == {None}


def test_nothing_moving_has_precision_zero_and_no_lift() -> None:
    relevance, moving, counted, _ = clip()
    ratios = precision.ratios(precision.counts(relevance, np.zeros_like(moving), counted))
    assert ratios == {"precision": 0.0, "base_rate": 0.0, "lift": None, "weighted_precision": 0.0}


def test_where_next_to_nothing_moves_there_is_no_lift() -> None:
    # A few voxels that happen to be marked make it any number.
    counts = {
        "counted_voxels": 10_000, "relevant_voxels": 96, "relevant_moving_voxels": 1,
        "positive_relevance": 1.0, "positive_relevance_moving": 0.0,
    }  # fmt: skip
    below, enough = (precision.ratios({**counts, "moving_voxels": n}) for n in (99, 100))
    assert (below["precision"], below["lift"]) == (1 / 96, None)
    assert enough["lift"] == pytest.approx(100 / 96)


def test_sums_are_in_double_precision() -> None:
    relevance = np.full((64, 64, 64), 0.1, np.float32)
    everywhere = np.ones(relevance.shape, bool)
    total = precision.counts(relevance, everywhere, everywhere)["positive_relevance"]
    assert total == pytest.approx(float(np.float32(0.1)) * 64**3, rel=1e-12)


def test_relevance_of_zero_is_not_relevant() -> None:
    everywhere = np.ones(SHAPE, bool)
    assert precision.counts(np.zeros(SHAPE, np.float32), everywhere, everywhere)["relevant_voxels"] == 0


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_area_matched_precision_restated(seed: int, ties: bool) -> None:
    relevance, moving, counted, selected = clip(seed, ties=ties)
    shares = (0.02, 0.05, 0.1, 0.2, 0.3, 0.6)
    for mask in (counted, counted & selected):
        values = np.where(mask, relevance, 0)[counted].astype(np.float64).tolist()
        moves = moving[counted].tolist()
        result = precision.area_matched(
            relevance, moving, counted, None if mask is counted else selected, shares=shares
        )
        assert list(result) == [f"area_precision_{n}" for n in (2, 5, 10, 20, 30, 60)]
        for share, value in zip(shares, result.values(), strict=True):
            expected = slow_area_precision(values, moves, int(counted.sum()), share)
            assert value == (None if expected is None else pytest.approx(expected, abs=1e-12))
        assert any(value is not None for value in result.values())
        assert result["area_precision_60"] is None


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_area_matched_precision_does_not_depend_on_the_order_of_ties(seed: int) -> None:
    relevance, moving, _, _ = clip(seed, positive=True, ties=True)
    everywhere = np.ones(SHAPE, bool)
    order = np.random.default_rng(seed).permutation(relevance.size)
    shuffled = [array.ravel()[order].reshape(SHAPE) for array in (relevance, moving)]
    result = precision.area_matched(relevance, moving, everywhere)
    assert result == precision.area_matched(*shuffled, everywhere)


def test_a_constant_map_has_the_base_rate_at_every_area() -> None:
    _, moving, counted, _ = clip()
    constant = np.ones(SHAPE, np.float32)
    base_rate = precision.ratios(precision.counts(constant, moving, counted))["base_rate"]
    areas = precision.area_matched(constant, moving, counted, shares=(0.05, 0.2, 1.0))
    assert list(areas.values()) == pytest.approx([base_rate] * 3)


def test_the_whole_area_of_a_positive_map_has_the_base_rate_and_a_perfect_map_has_one() -> None:
    relevance, moving, counted, _ = clip(3, positive=True)
    base_rate = precision.ratios(precision.counts(relevance, moving, counted))["base_rate"]
    areas = precision.area_matched(relevance, moving, counted, shares=(1.0,))
    assert areas["area_precision_100"] == pytest.approx(base_rate)
    perfect = relevance + 100 * moving
    assert precision.area_matched(perfect, moving, counted)["area_precision_20"] == 1.0
    assert precision.area_matched(-perfect + 200, moving, counted)["area_precision_20"] == 0.0


def test_an_area_larger_than_the_map_is_null() -> None:
    relevance = np.zeros((1, 10, 10), np.float32)
    relevance[0, 0, :5] = 1
    everywhere = np.ones(relevance.shape, bool)
    areas = precision.area_matched(relevance, relevance > 0, everywhere)
    assert areas == {
        "area_precision_2": 1.0,
        "area_precision_5": 1.0,
        "area_precision_10": None,
        "area_precision_20": None,
    }


def test_an_area_that_rounds_to_no_voxel_is_null() -> None:
    ones = np.ones((1, 1, 10), np.float32)
    assert precision.area_matched(ones, ones > 0, ones > 0)["area_precision_2"] is None


def test_all_maps_in_one_pass_are_each_map_by_itself() -> None:
    relevance, moving, counted, _ = clip(4)
    levels = np.random.default_rng(5).integers(0, 4, SHAPE).astype(np.uint8)
    reached = reach(relevance[counted], levels[counted])
    rows = precision.nested_counts(relevance[counted], moving[counted], reached, 4)
    areas = precision.nested_area_matched(relevance[counted], moving[counted], reached, 4)
    for i in range(4):
        selected = None if i == 0 else levels >= i
        assert rows[i] == pytest.approx(slow_counts(relevance, moving, counted, selected), rel=1e-12)
        assert areas[i] == precision.area_matched(relevance, moving, counted, selected)


def test_tally_restated() -> None:
    reached = np.array([0, 1, 3, 2, 3, 0, 1], np.uint8)
    weights = np.array([5.0, 1, 2, 3, 4, 6, 7])
    assert tally(reached, 4).tolist() == [sum(r > i for r in reached.tolist()) for i in range(4)]
    pairs = list(zip(reached.tolist(), weights.tolist(), strict=True))
    expected = [math.fsum(w for r, w in pairs if r > i) for i in range(4)]
    assert tally(reached, 4, weights=weights).tolist() == expected
    assert tally(reached[:0], 4).tolist() == [0] * 4
