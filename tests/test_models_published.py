"""Architectures against their published checkpoints: keys, shapes, geometry, profiles, recognition."""

import itertools
import math

import pytest
import torch

from selrel.clips.profiles import bounds
from selrel.models import COUNTER, families, recognise
from storage.checkpoints.files import read_checkpoint
from tests.published_models import (
    CASES,
    HASSONY2,
    NARROW,
    NEW,
    OLD,
    PIERGIAJ,
    i3d_shapes,
    kenshohara_shapes,
    random_clips,
    random_state,
    torchvision_shapes,
    without_counters,
)

FULL = {
    "r3d_18": torchvision_shapes("r3d_18"),
    "mc3_18": torchvision_shapes("mc3_18"),
    "r2plus1d_18": torchvision_shapes("r2plus1d_18"),
    NEW: kenshohara_shapes(50),
    "i3d-hassony2": i3d_shapes(HASSONY2),
    "i3d-piergiaj": i3d_shapes(PIERGIAJ),
}


@pytest.fixture(params=CASES)
def case(request):
    family, shapes, forward, size = CASES[request.param]
    low, high = bounds(families()[family][0].profile)
    return family, random_state(shapes), forward, random_clips(1, (3, *size), low=low, high=high)


def on_meta(state):
    """The model of a full-width state, without memory for its activations."""
    return recognise(state).model.to("meta")


def empty_state(shapes):
    """Weights that take no memory."""
    return {key: torch.zeros(1).expand(shape) if shape else torch.tensor(0) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", FULL)
def test_keys_and_shapes_are_the_published_ones(name):
    family, architecture = families()[name]
    with torch.device("meta"):
        # The depth, and the width inside a (2+1)D convolution, are in the weights alone.
        made = architecture.build(empty_state(FULL[name]) if name in (NEW, "r2plus1d_18") else {})
    ours = {key: tuple(value.shape) for key, value in made.state_dict().items()}
    published = {family.rename(key): shape for key, shape in FULL[name].items()}
    assert None not in published and len(published) == len(FULL[name])
    expected = ours if any(key.endswith(COUNTER) for key in published) else without_counters(ours)
    assert published == expected


@pytest.mark.parametrize(
    # The numbers of torchvision's own documentation.
    ("name", "n_parameters"),
    [("r3d_18", 33371472), ("mc3_18", 11695440), ("r2plus1d_18", 31505325)],
)
def test_torchvision_counts_as_many_parameters(name, n_parameters):
    learnt = [shape for key, shape in FULL[name].items() if "running" not in key and COUNTER not in key]
    assert sum(math.prod(shape) for shape in learnt) == n_parameters


@pytest.mark.parametrize(("depth", "shortcut", "n_pairs"), [(18, "A", 17), (34, "A", 33), (50, "B", 53)])
def test_the_files_of_2018_are_recognised_at_full_width(depth, shortcut, n_pairs):
    shapes = without_counters(kenshohara_shapes(depth, shortcut=shortcut))
    # A convolution has one key and its batch norm four; the head has two.
    assert len(shapes) == 5 * n_pairs + 2
    found = recognise(empty_state({f"module.{key}": shape for key, shape in shapes.items()}))
    assert (found.family, found.n_outputs) == (OLD, 400)


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (
            FULL["r3d_18"],
            {"stem": (64, 16, 56, 56), "layer1": (64, 16, 56, 56), "layer2": (128, 8, 28, 28)}
            | {"layer3": (256, 4, 14, 14), "layer4": (512, 2, 7, 7)},
        ),
        (
            FULL["mc3_18"],
            {"stem": (64, 16, 56, 56), "layer1": (64, 16, 56, 56), "layer2": (128, 16, 28, 28)}
            | {"layer3": (256, 16, 14, 14), "layer4": (512, 16, 7, 7)},
        ),
        (
            FULL["r2plus1d_18"],
            {"stem": (64, 16, 56, 56), "layer1": (64, 16, 56, 56), "layer2": (128, 8, 28, 28)}
            | {"layer3": (256, 4, 14, 14), "layer4": (512, 2, 7, 7)},
        ),
        (
            kenshohara_shapes(34, shortcut="A"),
            {"conv1": (64, 16, 56, 56), "maxpool": (64, 8, 28, 28), "layer1": (64, 8, 28, 28)}
            | {"layer2": (128, 4, 14, 14), "layer3": (256, 2, 7, 7), "layer4": (512, 1, 4, 4)},
        ),
        (
            FULL[NEW],
            {"conv1": (64, 16, 56, 56), "maxpool": (64, 8, 28, 28), "layer1": (256, 8, 28, 28)}
            | {"layer2": (512, 4, 14, 14), "layer3": (1024, 2, 7, 7), "layer4": (2048, 1, 4, 4)},
        ),
        (
            FULL["i3d-hassony2"],
            {"conv3d_1a_7x7": (64, 32, 112, 112), "maxPool3d_2a_3x3": (64, 32, 56, 56)}
            | {"conv3d_2c_3x3": (192, 32, 56, 56), "maxPool3d_3a_3x3": (192, 32, 28, 28)}
            | {"mixed_3c": (480, 32, 28, 28), "maxPool3d_4a_3x3": (480, 16, 14, 14)}
            | {"mixed_4f": (832, 16, 14, 14), "maxPool3d_5a_2x2": (832, 8, 7, 7)}
            | {"mixed_5c": (1024, 8, 7, 7), "avg_pool": (1024, 7, 1, 1), "conv3d_0c_1x1": (400, 7, 1, 1)},
        ),
    ],
    ids=["r3d_18", "mc3_18", "r2plus1d_18", "resnet3d-34", "resnet3d-50", "i3d"],
)
def test_activations_have_the_published_shapes(shapes, expected):
    state = empty_state(shapes)
    found = recognise(state)
    model, seen = on_meta(state), {}

    def keep(name):
        return lambda module, inputs, output: seen.update({name: tuple(output.shape[1:])})

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in expected]
    logits = model(torch.zeros(2, *found.profile.sample_shape, device="meta"))
    for hook in hooks:
        hook.remove()
    assert seen == expected and logits.shape == (2, 400)


def test_logits_are_those_of_the_published_forward_pass(case):
    _, state, forward, clips = case
    with torch.no_grad():
        ours = recognise(state).model(clips)
    expected = forward(state, clips)
    assert expected.std() > 0.01
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_the_keys_alone_tell_the_family(case, prefix):
    family, state, _, _ = case
    found = recognise({prefix + key: value for key, value in state.items()})
    assert (found.family, found.n_outputs) == (family, 3)
    assert found.profile == families()[family][0].profile and not found.model.training
    kept = {key: value for key, value in found.model.state_dict().items() if not key.endswith(COUNTER)}
    rename = families()[family][0].rename
    assert kept.keys() == {rename(key) for key in state if not key.endswith(COUNTER)}
    for key, value in state.items():
        assert torch.equal(found.model.state_dict()[rename(key)], value)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict"])
def test_a_saved_checkpoint_is_recognised(case, tmp_path, wrapper):
    family, state, _, _ = case
    path = tmp_path / "save_200.pth"
    saved = {f"module.{key}": value for key, value in state.items()}
    torch.save({"epoch": 200, "arch": "some-18", wrapper: saved, "optimizer": {"state": {}}}, path)
    assert recognise(read_checkpoint(path).state).family == family


def test_batch_counters_are_neither_needed_nor_refused(case):
    family, state, _, clips = case
    norms = {key.removesuffix(".running_var") for key in state if key.endswith(".running_var")}
    few = {key: value for key, value in state.items() if not key.endswith(COUNTER)}
    all_counted = {**few, **{f"{name}.{COUNTER}": torch.tensor(3) for name in norms}}
    with torch.no_grad():
        outputs = [recognise(s, family=family).model(clips) for s in (few, all_counted)]
    assert torch.equal(*outputs)


def test_what_does_not_fit_is_listed_in_one_line(case):
    family, state, _, _ = case
    head = [key for key in state if key.endswith(".weight")][-1]
    for change, words in (
        ({key: value for key, value in state.items() if key != head}, "1 missing: .*"),
        ({**state, "layer9.weight": state[head]}, "1 unexpected: layer9.weight"),
        ({**state, head: state[head][:, :-1]}, f"1 misshapen: {head} "),
    ):
        with pytest.raises(ValueError, match=f"does not fit family {family}: {words}") as error:
            recognise(change)
        assert "\n" not in str(error.value)


def test_families_with_the_same_keys_are_told_apart():
    flat = random_state(torchvision_shapes("mc3_18", **NARROW))
    solid = random_state(torchvision_shapes("r3d_18", **NARROW))
    assert flat.keys() == solid.keys()
    assert (recognise(flat).family, recognise(solid).family) == ("mc3_18", "r3d_18")
    for wrong, state in (("r3d_18", flat), ("mc3_18", solid)):
        with pytest.raises(ValueError, match="misshapen"):
            recognise(state, family=wrong)


def test_a_newer_fine_tuning_of_an_older_resnet_may_name_its_family():
    state = random_state(kenshohara_shapes(50, base=4, classes=101))
    assert recognise(state).family == NEW
    found = recognise(state, family=OLD)
    assert found.family == OLD and found.profile.mean == (114.7748, 107.7354, 99.475)


@pytest.mark.parametrize(("depth", "shortcut"), [(18, "A"), (34, "B"), (50, "B")])
def test_a_missing_block_or_shortcut_is_not_taken_for_another_depth(depth, shortcut):
    state = random_state(kenshohara_shapes(depth, shortcut=shortcut, base=4, classes=3))
    last = {key: value for key, value in state.items() if not key.startswith("layer4.1.")}
    with pytest.raises(ValueError, match=r"missing: layer4\.1\.conv1\.weight"):
        recognise(last)
    if shortcut == "B":
        with pytest.raises(
            ValueError, match=r"6 missing: layer3\.0\.downsample\.0\.weight|5 missing: layer3"
        ):
            recognise({key: value for key, value in state.items() if "layer3.0.downsample" not in key})


def test_a_shortcut_of_type_a_cannot_narrow():
    shapes = kenshohara_shapes(18, shortcut="A", base=4, classes=3)
    state = random_state(shapes)
    state["layer2.0.conv2.weight"] = torch.zeros(2, 8, 3, 3, 3)
    with pytest.raises(ValueError, match="from 4 to 2; give weights"):
        recognise(state)


def test_i3d_of_optical_flow_is_refused():
    state = random_state(i3d_shapes(HASSONY2, divide=16))
    state["conv3d_1a_7x7.conv3d.weight"] = state["conv3d_1a_7x7.conv3d.weight"][:, :2]
    with pytest.raises(ValueError, match=r"conv3d_1a_7x7.conv3d.weight \(4, 2, 7, 7, 7\) instead of \(4, 3,"):
        recognise(state)


@pytest.mark.parametrize("size", [(8, 224, 224), (16, 192, 224), (16, 224, 112)])
def test_i3d_refuses_clips_that_are_too_small(size):
    model = recognise(random_state(i3d_shapes(HASSONY2, divide=16))).model
    with pytest.raises(ValueError, match=r"9 or more frames of 193x193 .* not \(\d+, \d+, \d+\)"):
        model(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    ("family", "black", "white", "view"),
    [
        *(
            (name, -0.43216 / 0.22803, (1 - 0.43216) / 0.22803, ((171, 128), (112, 112), 16))
            for name in ("r3d_18", "mc3_18", "r2plus1d_18")
        ),
        (OLD, -114.7748, 255 - 114.7748, (112, (112, 112), 16)),
        (NEW, -0.4345 / 0.2768, (1 - 0.4345) / 0.2768, (112, (112, 112), 16)),
        ("i3d-hassony2", -1.0, 1.0, (256, (224, 224), 64)),
        ("i3d-piergiaj", -1.0, 1.0, (256, (224, 224), 64)),
    ],
)
def test_profiles_are_the_published_preprocessing(family, black, white, view):
    profile = families()[family][0].profile
    low, high = bounds(profile)
    assert (float(low[0]), float(high[0])) == pytest.approx((black, white), rel=1e-6)
    assert (profile.view.resize, profile.view.crop, profile.view.clip_length) == view
    assert profile.colour_order == "RGB"
    assert profile.label_order == ("sorted" if family.endswith("_18") else "classInd")


def test_no_two_families_claim_one_state():
    claims = {}
    for name, (family, shapes, _, _) in CASES.items():
        state = empty_state(shapes)
        for other, (candidate, _) in families().items():
            renamed = {candidate.rename(key): value for key, value in state.items()}
            if None not in renamed and candidate.accepts(renamed):
                claims.setdefault(name, []).append(other)
        assert claims[name] == [family]
    assert len(claims) == len(CASES)
    assert len(set(itertools.chain(*claims.values()))) == 7
