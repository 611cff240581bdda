"""Every architecture in the engine: traced, explained by every method, relevance conserved."""

from dataclasses import replace

import pytest
import torch

from selrel.clips.profiles import bounds
from selrel.engine import Forward, Rules, trace
from selrel.engine.operations.layer import Layer, negative, positive, whole
from selrel.explain import method, methods
from selrel.explain.deep_taylor import rules
from selrel.models import families, recognise
from tests.published_models import CASES, random_clips, random_state

# Each kind of layer and shortcut once; other depths and names differ in nothing the engine sees.
KINDS = (
    *("r3d_18", "mc3_18", "r2plus1d_18"),
    *("resnet3d-18A-2018", "resnet3d-50B-2020", "resnext-50"),
    pytest.param("i3d-hassony2", marks=pytest.mark.slow),
)


@pytest.fixture(scope="module", params=KINDS)
def explained(request):
    """A narrow model, its forward pass through the engine and two clips."""
    family, shapes, _, size = CASES[request.param]
    low, high = bounds(families()[family][0].profile)
    clips = random_clips(2, (3, *size), low=low, high=high, seed=1)
    model = recognise(random_state(shapes, seed=2), family=family).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = trace(model, (3, *size), low=low, high=high)
    return model, before, Forward(graph, clips), clips


def test_the_engine_gives_the_models_logits(explained):
    model, _, forward, clips = explained
    with torch.no_grad():
        expected = model(clips)
    assert expected.std() > 0.01
    torch.testing.assert_close(forward.logits, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_deep_taylor_conserves_relevance(explained):
    """Layer by layer: nothing is lost but what arrives where no input contributes (0/0 is 0)."""
    _, _, forward, clips = explained
    plain, kept, orphans = rules(1.0), [], []

    def watched(step, relevance):
        orphans.append(orphaned(step, relevance))
        arrived = relevance.double().sum()
        shares = plain.at(step.node)(step, relevance)
        kept.append(float(sum(share.double().sum() for share in shares) + orphans[-1] - arrived))
        return shares

    cube = forward.backward(
        Rules("watched", dict.fromkeys(plain.table, watched)), forward.at_target(torch.tensor([0, 2]))
    )
    assert len(kept) == len(forward.graph.nodes) and max(map(abs, kept)) < 1e-5
    assert abs(float(cube.double().sum()) + sum(orphans) - len(clips)) < 1e-4
    assert (cube.sum(1) >= -1e-7 * cube.max()).all() and sum(orphans) < 0.5 * len(clips)


def orphaned(step, relevance):
    """What arrives where a layer has no positive contribution, restated in float64."""
    layer = step.node.operation
    if not isinstance(layer, Layer):
        return 0.0
    x, layer = step.inputs[0].double(), replace(layer, weight=layer.weight.double())
    source = step.node.inputs[0]
    if step.graph.holds_pixels(source):
        low, high = (bound.double() for bound in step.graph.bound_images(source))
        z = layer.apply(x, whole) - layer.apply(low, positive) - layer.apply(high, negative)
    else:
        z = layer.apply(x.clamp(min=0), positive) + layer.apply(x.clamp(max=0), negative)
    return float(relevance.double()[z <= 1e-20].sum())


def test_grad_cam_explains_the_map_before_the_last_pooling(explained):
    _, _, forward, _ = explained
    position = forward.graph.cam_value
    assert position is not None
    maps = forward.value(position)
    assert maps.ndim == 5 and (maps >= 0).all()
    later = forward.graph.nodes[position].name
    assert "pool" in later or "mean" in later


def test_every_method_runs_and_leaves_the_model_alone(explained):
    model, before, forward, clips = explained
    for name in methods():
        cube = method(name)(forward, torch.tensor([0, 2]))
        assert cube.shape == (len(clips), *clips.shape[2:])
        assert torch.isfinite(cube).all()
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
