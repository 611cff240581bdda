import numpy as np
import pytest
import torch

from selrel.pictures.playback import EDGE_LIMIT, EDGE_STEPS, STEPS, flow_strip, frame_strip, layer, thinned
from selrel.selective import SelectiveParameters, selective_mask, temporal_edges

SIGMAS = (0.5, 1.0, 2.0, 4.0)


@pytest.fixture
def cube():
    return np.random.default_rng(0).normal(size=(16, 20, 24)).astype(np.float32)


@pytest.mark.parametrize("edge", ["magnitude", "rising", "falling"])
def test_masks_of_every_sigma_are_exact(cube, edge):
    made = layer(cube, SIGMAS, SelectiveParameters(edge=edge), scale=1.0)
    for at, sigma in enumerate(SIGMAS):
        parameters = SelectiveParameters(edge=edge, sigma=sigma)
        mask = selective_mask(torch.from_numpy(cube), len(cube), parameters).numpy()
        assert ((made["levels"] > at) == mask).all()


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_relevance_is_right_within_half_a_step_on_the_fixed_and_on_its_own_scale(cube, scale):
    """Whichever is larger: what is above a clip's own scale is not cut off below the fixed one."""
    made = layer(cube, SIGMAS, SelectiveParameters(), scale=scale)
    assert np.mean(np.abs(cube) <= made["own"]) == pytest.approx(0.99, abs=1e-3)
    shown = made["relevance"] * made["range"] / STEPS
    for full in (scale, made["own"]):
        painted, wanted = (np.clip(values / full, -1, 1) for values in (shown, cube))
        assert np.abs(painted - wanted).max() <= 0.501 * made["range"] / full / STEPS


def test_edges_are_right_within_half_a_step(cube):
    made = layer(cube, SIGMAS, SelectiveParameters(), scale=1.0)
    edges = temporal_edges(torch.from_numpy(cube)).numpy()
    deviation = np.abs(edges).std(dtype=np.float64)
    in_deviations = np.clip(edges / deviation, -EDGE_LIMIT, EDGE_LIMIT)
    assert (
        np.abs(made["edges"] * EDGE_LIMIT / EDGE_STEPS - in_deviations).max()
        <= 0.501 * EDGE_LIMIT / EDGE_STEPS
    )


def test_shares_over_time_are_those_of_the_maps(cube):
    made = layer(cube, SIGMAS, SelectiveParameters(), scale=1.0)
    positive = np.maximum(cube, 0)
    assert sum(made["over_time"][0]) == pytest.approx(1)
    for at in range(len(SIGMAS)):
        kept = np.where(made["levels"] > at, positive, 0).sum((1, 2)) / positive.sum()
        assert made["over_time"][at + 1] == pytest.approx(kept.tolist(), rel=1e-5)


def test_nothing_relevant_is_shown_as_nothing():
    made = layer(np.zeros((4, 5, 6), np.float32), SIGMAS, SelectiveParameters(), scale=1.0)
    assert not made["relevance"].any()
    assert not made["levels"].any()
    assert np.sum(made["over_time"]) == 0


def test_large_frames_are_thinned_alike():
    frames = np.random.default_rng(1).integers(0, 256, (3, 224, 300, 3), dtype=np.uint8)
    assert thinned(frames).shape == (3, 75, 100, 3)
    assert frame_strip(frames).shape == (75, 300, 3)
    assert flow_strip(np.zeros((3, 224, 300, 2), np.float32), scale=4.0).shape == (75, 300, 3)
    assert thinned(frames[:, :112, :112]).shape == (3, 112, 112, 3)
