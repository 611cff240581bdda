"""The selective step: temporal edges, threshold, mask."""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from selrel.selective import (
    PRESETS,
    SIGMAS,
    SelectiveParameters,
    levels,
    selective_mask,
    sweep,
    temporal_edges,
)
from tests.slow_selective import slow_edges, slow_mask

DEFAULT = PRESETS["default"]
CHOICES = list(itertools.product(("magnitude", "rising", "falling"), ("replicate", "zero")))


def random_cube(seed: int = 0, shape: tuple[int, ...] = (6, 5, 7)) -> torch.Tensor:
    """Heavy-tailed signed relevance."""
    generator = np.random.default_rng(seed)
    return torch.from_numpy((generator.standard_t(2.5, size=shape)).astype(np.float32))


def held(mask: torch.Tensor) -> set[tuple[int, ...]]:
    return {tuple(voxel) for voxel in mask.nonzero().tolist()}


def static_cube(n_frames: int = 16) -> torch.Tensor:
    return random_cube(5, (1, 9, 11)).abs().expand(n_frames, 9, 11).contiguous()


def antisymmetric_cube(seed: int, tail: float) -> torch.Tensor:
    """Relevance whose edge map has mean zero: each voxel has a mirror image of the opposite sign."""
    half = torch.from_numpy(np.random.default_rng(seed).standard_t(tail, size=(8, 6, 10)))
    return torch.cat([half, -half.flip(-1)], dim=-1)


@pytest.mark.parametrize("border", ["replicate", "zero"])
@pytest.mark.parametrize("shape", [(6, 5, 7), (1, 4, 4), (2, 1, 3)])
def test_edges_are_the_sobel_filter_restated(border: Any, shape: tuple[int, ...]) -> None:
    cube = random_cube(1, shape)
    expected = slow_edges(cube.tolist(), border)
    edges = temporal_edges(cube, border=border)
    assert edges.dtype == torch.float32
    assert edges.shape == cube.shape
    for voxel, edge in expected.items():
        assert edges[voxel].item() == pytest.approx(edge, abs=1e-6)


def test_edges_of_a_batch_are_those_of_its_clips() -> None:
    batch = random_cube(2, (3, 6, 5, 7))
    for border in ("replicate", "zero"):
        singles = torch.stack([temporal_edges(clip, border=border) for clip in batch])
        assert torch.equal(temporal_edges(batch, border=border), singles)


def test_an_edge_is_the_change_per_frame() -> None:
    ramp = torch.arange(8.0)[:, None, None].expand(8, 4, 4) * 3
    assert torch.allclose(temporal_edges(ramp)[1:-1], torch.tensor(3.0))


@pytest.mark.parametrize(("edge", "border"), CHOICES)
@pytest.mark.parametrize("n_valid", [1, 2, 5, 6])
@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_the_mask_restated(edge: Any, border: Any, n_valid: int, sigma: float) -> None:
    cube = random_cube(3)
    parameters = SelectiveParameters(edge=edge, sigma=sigma, border=border)
    expected = slow_mask(cube.tolist(), n_valid, sigma=sigma, edge=edge, border=border)
    assert held(selective_mask(cube, n_valid, parameters)) == expected
    assert expected or n_valid < 5


@pytest.mark.parametrize("edge", ["magnitude", "rising", "falling"])
@pytest.mark.parametrize("sigma", [0.01, 2.0])
def test_a_static_clip_selects_nothing(edge: Any, sigma: float) -> None:
    assert not selective_mask(static_cube(), 16, SelectiveParameters(edge=edge, sigma=sigma)).any()
    assert not selective_mask(torch.zeros(16, 9, 11), 16, SelectiveParameters(edge=edge, sigma=sigma)).any()


def test_a_static_clip_moves_at_the_ends_of_a_zero_border() -> None:
    mask = selective_mask(static_cube(), 16, SelectiveParameters(sigma=0.5, border="zero"))
    assert mask[0].any()
    assert mask[-1].any()
    assert not mask[1:-1].any()


def test_rounding_noise_is_under_the_floor() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).uniform(-1e-7, 1e-7, (16, 9, 11)))
    cube = static_cube().double() * (1 + noise)
    assert not selective_mask(cube, 16, DEFAULT).any()
    assert selective_mask(cube, 16, dataclasses.replace(DEFAULT, floor=0.0)).any()


def test_the_floor_is_relative_to_the_largest_relevance() -> None:
    cube = torch.zeros(8, 5, 5)
    cube[:, 0, 0] = -1000.0
    cube[4, 3, 3] = 1.0
    assert selective_mask(cube, 8, DEFAULT)[3, 3, 3]
    assert not selective_mask(cube, 8, dataclasses.replace(DEFAULT, floor=1e-3))[3, 3, 3]


def test_one_valid_frame_selects_nothing() -> None:
    assert not selective_mask(random_cube(), 1, SelectiveParameters(sigma=0.1)).any()


@pytest.mark.parametrize("border", ["replicate", "zero"])
def test_padded_frames_take_no_part(border: Any) -> None:
    parameters = SelectiveParameters(sigma=1.0, border=border)
    cube, other = random_cube(4), random_cube(4)
    other[4:] = 1e6
    mask = selective_mask(cube, 4, parameters)
    assert torch.equal(mask, selective_mask(other, 4, parameters))
    assert torch.equal(mask[:4], selective_mask(cube[:4], 4, parameters))
    assert mask[:4].any()
    assert not mask[4:].any()


@pytest.mark.parametrize(("edge", "border"), CHOICES)
def test_a_batch_is_its_clips(edge: Any, border: Any) -> None:
    batch, n_valid = random_cube(6, (4, 6, 5, 7)), [6, 3, 1, 5]
    parameters = SelectiveParameters(edge=edge, sigma=1.0, border=border)
    singles = torch.stack([selective_mask(c, n, parameters) for c, n in zip(batch, n_valid, strict=True)])
    assert torch.equal(selective_mask(batch, n_valid, parameters), singles)
    assert torch.equal(selective_mask(batch, torch.tensor(n_valid), parameters), singles)
    for_all = torch.stack([selective_mask(clip, 6, parameters) for clip in batch])
    assert torch.equal(selective_mask(batch, 6, parameters), for_all)
    assert selective_mask(batch[:0], 6, parameters).shape == (0, 6, 5, 7)


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), n_valid=st.integers(1, 6), choice=st.sampled_from(CHOICES))
def test_the_mask_shrinks_as_sigma_grows(seed: int, n_valid: int, choice: tuple[Any, Any]) -> None:
    cube = random_cube(seed)
    parameters = SelectiveParameters(edge=choice[0], border=choice[1])
    masks = sweep(cube, n_valid, SIGMAS, parameters)
    for wider, narrower in itertools.pairwise(masks):
        assert not (narrower & ~wider).any()


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), exponent=st.integers(-40, 20), choice=st.sampled_from(CHOICES))
def test_the_mask_does_not_depend_on_units(seed: int, exponent: int, choice: tuple[Any, Any]) -> None:
    cube = random_cube(seed)
    parameters = SelectiveParameters(edge=choice[0], sigma=1.0, border=choice[1])
    assert torch.equal(
        selective_mask(cube, 6, parameters), selective_mask(cube * 2.0**exponent, 6, parameters)
    )


def test_a_rise_is_a_fall_of_the_negative_and_of_the_reverse() -> None:
    cube = random_cube(7)
    masks = {
        e: selective_mask(cube, 6, SelectiveParameters(edge=e, sigma=1.0)) for e in ("rising", "falling")
    }
    rising = SelectiveParameters(edge="rising", sigma=1.0)
    assert torch.equal(selective_mask(-cube, 6, rising), masks["falling"])
    assert torch.equal(selective_mask(cube.flip(0), 6, rising).flip(0), masks["falling"])
    assert not (masks["rising"] & masks["falling"]).any()
    assert masks["rising"].any()


@pytest.mark.parametrize("edge", ["rising", "falling"])
@pytest.mark.parametrize(("sigma", "bound"), [(4.0, 1 / 17), (2.0, 1 / 5)])
def test_a_signed_zero_mean_map_is_bounded_by_cantelli(edge: Any, sigma: float, bound: float) -> None:
    parameters = SelectiveParameters(edge=edge, sigma=sigma)
    shares = [
        selective_mask(antisymmetric_cube(seed, tail), 8, parameters).double().mean().item()
        for seed, tail in itertools.product(range(10), (0.6, 1.5, 3.0, 30.0))
    ]
    assert 0 < max(shares) <= bound


def test_a_steady_rise_in_19_percent_comes_close_to_cantellis_bound() -> None:
    # What reaches the bound has two values: high in the share 1 / (1 + n^2), equally low elsewhere.
    change = torch.full((1000,), -190 / 810, dtype=torch.float64)
    change[:190] = 1.0
    cube = torch.arange(50, dtype=torch.float64)[:, None, None] * change
    share = selective_mask(cube, 50, SelectiveParameters(edge="rising")).double().mean().item()
    assert 0.18 < share <= 1 / 5


def test_the_sweep_is_every_sigma_by_itself_in_the_order_given() -> None:
    cube = random_cube(8)
    sigmas = [2.0, 0.5, 3.0, 0.5]
    masks = sweep(cube, 5, sigmas, PRESETS["paper"])
    assert masks.shape == (4, 6, 5, 7)
    for sigma, mask in zip(sigmas, masks, strict=True):
        assert torch.equal(mask, selective_mask(cube, 5, dataclasses.replace(PRESETS["paper"], sigma=sigma)))
    assert masks[0].any()


def test_levels_count_the_sigmas_that_select() -> None:
    cube = random_cube(9)
    expected = sweep(cube, 5, SIGMAS, DEFAULT).sum(0)
    reached = levels(cube, 5, SIGMAS, DEFAULT)
    assert reached.dtype == torch.uint8
    assert torch.equal(reached.long(), expected)
    assert reached.max() >= 4


def test_scaling_by_the_maximum_changes_no_mask() -> None:
    cube = random_cube(10)
    cube[3, 2, 2] = -64.0
    assert torch.equal(
        selective_mask(cube, 6, DEFAULT), selective_mask(cube, 6, dataclasses.replace(DEFAULT, scaling="max"))
    )
    assert not selective_mask(torch.zeros(6, 4, 4), 6, SelectiveParameters(scaling="max")).any()


def test_inputs_are_left_alone() -> None:
    cube = random_cube(11)
    before = cube.clone()
    selective_mask(cube, 4, SelectiveParameters(edge="falling", scaling="max", border="zero"))
    assert torch.equal(cube, before)


def test_presets_name_the_choices() -> None:
    assert PRESETS["default"] == SelectiveParameters("magnitude", 2.0, "replicate", 1e-6, "none")
    assert PRESETS["paper"] == SelectiveParameters("magnitude", 2.0, "zero", 1e-6, "none")
    assert SIGMAS == (0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sigma": 0.0}, "sigma is 0.0; use a number of standard deviations above 0"),
        ({"sigma": -1.0}, "sigma is -1.0"),
        ({"sigma": math.nan}, "sigma is nan"),
        ({"sigma": math.inf}, "sigma is inf"),
        ({"edge": "signed"}, "edge 'signed' is unknown; use one of magnitude, rising, falling"),
        ({"border": "wrap"}, "border 'wrap' is unknown; use one of replicate, zero"),
        ({"scaling": "minmax"}, "scaling 'minmax' is unknown; use one of none, max"),
        ({"floor": -1e-6}, "floor is -1e-06"),
        ({"floor": 1.0}, "floor is 1.0"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        SelectiveParameters(**values)
    assert "\n" not in str(error.value)


def test_bad_calls_are_refused_in_one_line() -> None:
    cube = random_cube()
    for call, message in [
        (lambda: selective_mask(cube, 0, DEFAULT), "n_valid is 0; a clip of 6 frames has 1 to 6"),
        (lambda: selective_mask(cube, 7, DEFAULT), "n_valid is 7"),
        (lambda: selective_mask(cube, [6, 6], DEFAULT), "give one a clip"),
        (lambda: selective_mask(cube[None], [6, 6], DEFAULT), "give one a clip"),
        (lambda: selective_mask(cube[0], 5, DEFAULT), "give one a clip"),
        (lambda: sweep(cube, 6, [], DEFAULT), "0 sigmas given"),
        (lambda: sweep(cube, 6, [1.0, -2.0], DEFAULT), "sigma is -2.0"),
        (lambda: levels(cube, 6, [2.0, 1.0], DEFAULT), "not ascending"),
        (lambda: levels(cube[None], 6, [2.0], DEFAULT), "one clip is"),
        (lambda: levels(cube, 6, [1.0 + i for i in range(255)], DEFAULT), "255 sigmas given"),
    ]:
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
