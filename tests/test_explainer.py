"""The one way from frames to logits and cubes, against the parts that it is made of."""

import numpy as np
import pytest
import torch
from torch import nn

from selrel.clips.profiles import Profile, View, bounds, normalise
from selrel.engine import Forward, trace
from selrel.explain import method
from selrel.explainer import Explainer

PROFILE = Profile(
    family="tests",
    view=View(clip_length=4, resize=(10, 8), crop=(8, 8)),
    colour_order="BGR",
    scale=1.0,
    mean=(90.0, 98.0, 102.0),
    std=(64.0, 64.0, 64.0),
    label_order="classInd",
)
METHODS = {"deep_taylor": {}, "grad_cam": {}, "guided_backprop": {}}


def model() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def frames(n: int) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (n, 4, 8, 8, 3), dtype=np.uint8)


def test_logits_are_the_models() -> None:
    expected = model()(normalise(frames(3), PROFILE))
    torch.testing.assert_close(Explainer(model(), PROFILE).logits(frames(3)), expected)


def test_frames_may_be_a_tensor() -> None:
    explainer = Explainer(model(), PROFILE)
    assert torch.equal(explainer.logits(torch.from_numpy(frames(2))), explainer.logits(frames(2)))


@pytest.mark.parametrize("targets", [None, torch.tensor([2, 0, 1])])
def test_cubes_are_those_of_the_methods(targets: torch.Tensor | None) -> None:
    low, high = bounds(PROFILE)
    forward = Forward(trace(model(), PROFILE.sample_shape, low=low, high=high), normalise(frames(3), PROFILE))
    found = Explainer(model(), PROFILE).explain(frames(3), METHODS, targets=targets)
    chosen = forward.logits.argmax(dim=1) if targets is None else targets
    assert found.targets.tolist() == chosen.tolist()
    for name in METHODS:
        assert torch.equal(found.cubes[name], method(name)(forward, chosen)), name
    assert found.conservation_error.abs().max() < 1e-5


def test_a_batch_is_its_clips_one_by_one() -> None:
    explainer = Explainer(model(), PROFILE)
    together = explainer.explain(frames(3), METHODS)
    for number in range(3):
        alone = explainer.explain(frames(3)[number : number + 1], METHODS)
        for name in METHODS:
            torch.testing.assert_close(alone.cubes[name][0], together.cubes[name][number])


def test_without_deep_taylor_nothing_is_said_of_its_conservation() -> None:
    found = Explainer(model(), PROFILE).explain(frames(2), {"grad_cam": {}})
    assert found.conservation_error.isnan().all()


def test_every_step_is_timed_once_in_its_order() -> None:
    steps = []

    def timed(step, function):
        steps.append(step)
        return function()

    Explainer(model(), PROFILE).explain(frames(1), METHODS, timed=timed)
    assert steps == ["forward", *METHODS]


def test_a_rehearsal_says_what_can_not_be_explained() -> None:
    # No rectified map of space and time is left once the clip is flat.
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 8 * 8, 2))
    Explainer(flat, PROFILE).rehearse({"gradient_x_input": {}})
    with pytest.raises(ValueError, match="grad_cam needs a rectified feature map"):
        Explainer(flat, PROFILE).rehearse({"grad_cam": {}})


def test_the_model_stays_as_it_came() -> None:
    given = model().train()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    Explainer(given, PROFILE).explain(frames(1), METHODS)
    assert given.training
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
