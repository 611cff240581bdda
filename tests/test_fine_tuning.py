import pytest
import torch

from selrel.models import recognise
from selrel.models.c3d import C3D, CONVOLUTIONS, LAYERS
from selrel.training.fine_tuning import fine_tuned

WIDTHS, HIDDEN = (2, 3, 4, 4, 5, 5, 6, 6), (7, 8)
SPORTS1M = [*(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)), *(f"classifier.{i}" for i in (0, 3))]
MMACTION2 = ["conv1a", "conv2a", *CONVOLUTIONS[2:]]


def source(n_outputs=487):
    torch.manual_seed(1)
    return C3D(WIDTHS, HIDDEN, n_outputs)


def renamed(model, names):
    """The weights of the first layers under published names; layers without one are left out."""
    pairs = zip(LAYERS, names, strict=False)
    state = model.state_dict()
    return {f"{new}.{kind}": state[f"{own}.{kind}"] for own, new in pairs for kind in ("weight", "bias")}


FORMATS = {
    "features and classifier, without a head": lambda model: renamed(model, SPORTS1M),
    "conv1 to fc8": lambda model: dict(model.state_dict()),
    "module. in front": lambda model: {f"module.{key}": v for key, v in model.state_dict().items()},
    "conv1 to fc7": lambda model: renamed(model, LAYERS[:10]),
}


@pytest.mark.parametrize("published", FORMATS.values(), ids=FORMATS)
def test_everything_but_the_last_layer_is_taken_over(published):
    old = source()
    new = fine_tuned(published(old), 5, colour_order="BGR", seed=3)
    for key, value in new.state_dict().items():
        if not key.startswith("fc8"):
            assert torch.equal(value, old.state_dict()[key]), key
    assert new.fc8.weight.shape == (5, HIDDEN[1])
    assert 0.005 < new.fc8.weight.std() < 0.02
    assert not new.fc8.bias.any()
    # What comes out is published in the format of a family that explains it.
    found = recognise(new.state_dict())
    assert (found.family, found.n_outputs) == ("c3d-jfzhang", 5)


def test_weights_of_the_other_colour_order_see_the_same_picture():
    old = source(4)
    names = [
        *(f"backbone.{name}.conv" for name in MMACTION2),
        "backbone.fc6",
        "backbone.fc7",
        "cls_head.fc_cls",
    ]
    new = fine_tuned(renamed(old, names), 3, colour_order="BGR")
    clip = torch.randn(1, 3, 16, 112, 112)
    with torch.no_grad():
        assert torch.allclose(new.conv1(clip.flip(1)), old.conv1(clip), atol=1e-5)


def test_last_layer_follows_from_the_seed():
    state = source().state_dict()
    a, b, c = (fine_tuned(state, 4, colour_order="BGR", seed=seed).fc8.weight for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_source_is_not_changed():
    old = source()
    before = {key: value.clone() for key, value in old.state_dict().items()}
    new = fine_tuned(old.state_dict(), 4, colour_order="BGR")
    with torch.no_grad():
        for weight in new.parameters():
            weight.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in old.state_dict().items())


def test_weights_of_another_architecture_are_refused():
    from selrel.models import r3d_18

    with torch.device("meta"):
        model = r3d_18.build({})
    state = {key: torch.zeros(value.shape, dtype=value.dtype) for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="of family r3d_18; give those of a C3D"):
        fine_tuned(state, 4, colour_order="BGR")


def test_missing_layers_are_listed():
    state = source().state_dict()
    del state["conv3a.weight"]
    with pytest.raises(ValueError, match="1 missing: conv3a.weight"):
        fine_tuned(state, 4, colour_order="BGR")
