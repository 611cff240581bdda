"""Agreement of two methods."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selrel.scores import agreement
from selrel.scores.nested import reach

Array = npt.NDArray[Any]

SHAPE = (3, 4, 5)


def clip(seed: int = 0) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(2, *SHAPE)).astype(np.float32)
    return a, b, generator.random(SHAPE) < 0.8


def slow_counts(a: Array, b: Array, counted: Array) -> dict[str, Any]:
    relevant = [(a[v] > 0, b[v] > 0) for v in np.ndindex(SHAPE) if counted[v]]
    return {
        "counted_voxels": len(relevant),
        "a_voxels": sum(bool(in_a) for in_a, _ in relevant),
        "b_voxels": sum(bool(in_b) for _, in_b in relevant),
        "both_voxels": sum(bool(in_a and in_b) for in_a, in_b in relevant),
        "either_voxels": sum(bool(in_a or in_b) for in_a, in_b in relevant),
    }


@pytest.mark.parametrize("seed", range(5))
def test_agreement_restated(seed: int) -> None:
    a, b, counted = clip(seed)
    expected = slow_counts(a, b, counted)
    counts = agreement.counts(a, b, counted)
    assert counts == expected
    assert {type(value) for value in counts.values()} == {int}
    assert agreement.ratios(counts) == {
        "agreement": expected["both_voxels"] / expected["counted_voxels"],
        "iou": expected["both_voxels"] / expected["either_voxels"],
    }


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_agreement_is_symmetric_and_bounded(seed: int) -> None:
    a, b, counted = clip(seed)
    there, back = (agreement.counts(*pair, counted) for pair in ((a, b), (b, a)))
    ratios = agreement.ratios(there)
    assert ratios == agreement.ratios(back)
    assert ratios["agreement"] <= min(there["a_voxels"], there["b_voxels"]) / there["counted_voxels"]
    assert ratios["agreement"] <= ratios["iou"] <= 1


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_counts_of_the_parts_add_up_to_those_of_the_whole(seed: int) -> None:
    a, b, counted = clip(seed)
    first = np.random.default_rng(seed + 1).random(SHAPE) < 0.5
    parts = [agreement.counts(a, b, counted & half) for half in (first, ~first)]
    assert {name: parts[0][name] + parts[1][name] for name in parts[0]} == agreement.counts(a, b, counted)


def test_a_method_agrees_with_itself_where_it_is_relevant() -> None:
    a, _, counted = clip()
    counts = agreement.counts(a, a, counted)
    expected = {"agreement": counts["a_voxels"] / counts["counted_voxels"], "iou": 1.0}
    assert agreement.ratios(counts) == expected


def test_agreement_with_an_empty_map_is_zero_and_of_two_empty_maps_has_no_iou() -> None:
    a, _, counted = clip()
    empty = np.zeros_like(a)
    assert agreement.ratios(agreement.counts(a, empty, counted)) == {"agreement": 0.0, "iou": 0.0}
    assert agreement.ratios(agreement.counts(empty, -np.abs(a), counted)) == {"agreement": 0.0, "iou": None}


def test_nothing_counted_is_null() -> None:
    a, b, counted = clip()
    counts = agreement.counts(a, b, np.zeros_like(counted))
    assert agreement.ratios(counts) == {"agreement": None, "iou": None}


def test_all_maps_in_one_pass_are_each_map_by_itself() -> None:
    a, b, counted = clip(1)
    levels_a, levels_b = np.random.default_rng(2).integers(0, 4, (2, *SHAPE)).astype(np.uint8)
    reaches = [reach(cube[counted], levels[counted]) for cube, levels in ((a, levels_a), (b, levels_b))]
    for i, counts in enumerate(agreement.nested_counts(*reaches, 4)):
        selective_a, selective_b = np.where(levels_a >= i, a, 0), np.where(levels_b >= i, b, 0)
        assert counts == slow_counts(selective_a, selective_b, counted)
