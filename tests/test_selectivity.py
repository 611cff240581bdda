"""Selectivity: the share of voxels and of relevance that a selective map keeps."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selrel.scores import selectivity

Array = npt.NDArray[Any]

SHAPE = (3, 4, 5)


def clip(seed: int = 0) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(seed)
    baseline = generator.normal(size=SHAPE).astype(np.float32)
    return baseline, generator.random(SHAPE) < 0.4, generator.random(SHAPE) < 0.8


@pytest.mark.parametrize("seed", range(5))
def test_selectivity_restated(seed: int) -> None:
    baseline, selected, counted = clip(seed)
    before = [float(baseline[v]) for v in np.ndindex(SHAPE) if counted[v] and baseline[v] > 0]
    after = [float(baseline[v]) for v in np.ndindex(SHAPE) if counted[v] and selected[v] and baseline[v] > 0]
    counts = selectivity.counts(baseline, selected, counted)
    assert counts == pytest.approx(
        {
            "relevant_voxels": len(after),
            "positive_relevance": sum(after),
            "baseline_voxels": len(before),
            "baseline_relevance": sum(before),
        },
        rel=1e-12,
    )
    expected = {"kept_voxels": len(after) / len(before), "kept_relevance": sum(after) / sum(before)}
    assert selectivity.ratios(counts) == pytest.approx(expected, rel=1e-12)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_a_smaller_mask_keeps_less_and_complements_keep_all(seed: int) -> None:
    baseline, selected, counted = clip(seed)
    smaller = selected & (np.random.default_rng(seed + 1).random(SHAPE) < 0.5)
    wide, narrow, rest = (
        selectivity.ratios(selectivity.counts(baseline, mask, counted))
        for mask in (selected, smaller, ~selected)
    )
    for name in ("kept_voxels", "kept_relevance"):
        assert 0 <= narrow[name] <= wide[name] <= 1
        assert wide[name] + rest[name] == pytest.approx(1)


def test_the_whole_and_nothing() -> None:
    baseline, selected, counted = clip()
    everything = selectivity.counts(baseline, np.ones_like(selected), counted)
    nothing = selectivity.counts(baseline, np.zeros_like(selected), counted)
    assert selectivity.ratios(everything) == {"kept_voxels": 1.0, "kept_relevance": 1.0}
    assert selectivity.ratios(nothing) == {"kept_voxels": 0.0, "kept_relevance": 0.0}


def test_a_baseline_without_positive_relevance_is_null() -> None:
    baseline, selected, counted = clip()
    counts = selectivity.counts(-np.abs(baseline), selected, counted)
    assert selectivity.ratios(counts) == {"kept_voxels": None, "kept_relevance": None}


def test_the_two_shares_differ_where_relevance_is_uneven() -> None:
    baseline = np.array([[[9.0, 1.0, -5.0, 0.0]]], np.float32)
    selected = np.array([[[True, False, True, True]]])
    ratios = selectivity.ratios(selectivity.counts(baseline, selected, np.ones_like(selected)))
    assert ratios == {"kept_voxels": 0.5, "kept_relevance": 0.9}
