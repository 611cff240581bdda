import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from selrel.clips.profiles import crop, normalise, resize_frame
from selrel.clips.windows import loop_pad
from selrel.models import check_outputs, families, recognise
from selrel.models.c3d import C3D, LAYERS
from storage.checkpoints.files import read_checkpoint
from storage.datasets.ucf101 import label_index, read_dataset
from storage.videos.reader import read_frames

WIDTHS = (2, 3, 4, 4, 5, 5, 6, 6)
HIDDEN = (7, 8)

PUBLISHED = {
    "c3d-jfzhang": LAYERS,
    "c3d-sports1m": (
        *(f"features.{i}" for i in (0, 3, 6, 8, 11, 13, 16, 18)),
        *(f"classifier.{i}" for i in (0, 3, 6)),
    ),
    "c3d-mmaction2": (
        *(f"backbone.conv{s}.conv" for s in ("1a", "2a", "3a", "3b", "4a", "4b", "5a", "5b")),
        "backbone.fc6",
        "backbone.fc7",
        "cls_head.fc_cls",
    ),
}


@pytest.fixture(scope="module")
def narrow():
    torch.manual_seed(0)
    return C3D(WIDTHS, HIDDEN, 11).eval()


def published_state(model, family):
    layers = dict(zip(LAYERS, PUBLISHED[family], strict=True))
    return {
        f"{layers[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value.clone()
        for key, value in model.state_dict().items()
    }


def test_forward_restated_with_functions_in_float64(narrow):
    clips = torch.randn(2, 3, 16, 112, 112, generator=torch.Generator().manual_seed(1))
    weights = {key: value.double() for key, value in narrow.state_dict().items()}

    def conv(x, name):
        return F.conv3d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).clamp(min=0)

    x = F.max_pool3d(conv(clips.double(), "conv1"), (1, 2, 2))
    x = F.max_pool3d(conv(x, "conv2"), 2)
    x = F.max_pool3d(conv(conv(x, "conv3a"), "conv3b"), 2)
    x = F.max_pool3d(conv(conv(x, "conv4a"), "conv4b"), 2)
    x = conv(conv(x, "conv5a"), "conv5b")
    assert x.shape[2:] == (2, 7, 7)
    # Zeros stand for the padding of minus infinity, which never wins: after a ReLU nothing is below.
    x = F.max_pool3d(F.pad(x, (1, 1, 1, 1)), 2)
    assert x.shape[2:] == (1, 4, 4)
    x = x.reshape(2, -1)
    for name in ("fc6", "fc7"):
        x = (x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]).clamp(min=0)
    expected = x @ weights["fc8.weight"].T + weights["fc8.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(narrow(clips), expected, rtol=1e-4, atol=1e-5)


def test_the_published_widths_are_the_default():
    with torch.device("meta"):
        model = C3D()
    assert model.fc6.in_features == 8192
    assert sum(p.numel() for p in model.parameters()) == 78_409_573
    assert set(model.state_dict()) == {f"{layer}.{kind}" for layer in LAYERS for kind in ("weight", "bias")}


def test_every_activation_is_a_module_of_its_own_and_not_in_place(narrow):
    relus = [module for module in narrow.modules() if isinstance(module, torch.nn.ReLU)]
    assert len(relus) == 10 and len({id(relu) for relu in relus}) == 10
    assert not any(relu.inplace for relu in relus)
    assert narrow.relu5b(torch.tensor([-1.0])).item() == 0


def test_it_trains():
    model = C3D(WIDTHS, HIDDEN, 3)
    model(torch.rand(1, 3, 16, 112, 112)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("family", ["c3d-jfzhang", "c3d-mmaction2"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_a_published_format_gives_the_same_model(narrow, family, prefix):
    state = {f"{prefix}{key}": value for key, value in published_state(narrow, family).items()}
    found = recognise(state)
    assert found.family == family == found.profile.family
    assert found.n_outputs == 11
    assert not found.model.training
    for key, value in narrow.state_dict().items():
        assert torch.equal(found.model.state_dict()[key], value)


def test_487_outputs_are_sports1m_under_either_set_of_names():
    wide = C3D(WIDTHS, HIDDEN, 487)
    for family in ("c3d-jfzhang", "c3d-sports1m"):
        found = recognise(published_state(wide, family))
        assert found.family == "c3d-sports1m" and found.n_outputs == 487
    assert recognise(wide.state_dict(), family="c3d-jfzhang").family == "c3d-jfzhang"


def test_half_precision_weights_become_float32(narrow):
    half = {key: value.half() for key, value in narrow.state_dict().items()}
    model = recognise(half).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_recognising_leaves_the_state_alone(narrow):
    state = published_state(narrow, "c3d-mmaction2")
    before = {key: value.clone() for key, value in state.items()}
    recognise(state)
    assert list(state) == list(before) and all(torch.equal(state[key], before[key]) for key in before)


def test_a_strangers_shapes_allocate_nothing(narrow):
    state = narrow.state_dict()
    state["fc7.weight"] = torch.zeros(1).expand(2**40, 7)
    with pytest.raises(ValueError, match="misshapen: fc7.bias"):
        recognise(state)


def _without(key):
    return lambda state: {k: v for k, v in state.items() if k != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("conv5b.bias"), "1 missing: conv5b.bias"),
        (_without("fc8.weight"), "1 missing: fc8.weight"),
        (lambda state: state | {"bn1.weight": torch.zeros(1)}, "1 unexpected: bn1.weight"),
        (lambda state: state | {"conv2.bias": torch.zeros(9)}, r"conv2.bias \(9,\) instead of \(3,\)"),
        (lambda state: state | {"conv2.weight": torch.tensor(1.0)}, r"conv2.weight \(\) instead of"),
        (lambda state: state | {"conv2.weight": torch.zeros(0, 2, 3, 3, 3)}, "misshapen: conv2.weight"),
        (
            lambda state: state | {"fc6.weight": torch.zeros(7, 6 * 9)},
            r"fc6.weight \(7, 54\) instead of \(7, 96\)",
        ),
        (lambda state: state | {"module.conv1.bias": torch.zeros(2)}, "twice"),
        (lambda state: {"blocks.0.attn.weight": torch.zeros(1)}, "unknown checkpoint family"),
        (lambda state: {}, "unknown checkpoint family"),
    ],
)
def test_what_does_not_fit_is_listed_in_one_line(narrow, change, words):
    with pytest.raises(ValueError, match=words) as error:
        recognise(change(narrow.state_dict()))
    assert "\n" not in str(error.value)


def test_all_faults_come_in_one_message_and_in_published_names(narrow):
    state = published_state(narrow, "c3d-mmaction2") | {"backbone.extra": torch.zeros(1)}
    del state["backbone.conv3a.conv.bias"]
    state["cls_head.fc_cls.bias"] = torch.zeros(5)
    with pytest.raises(ValueError) as error:
        recognise(state)
    for words in ("missing: conv3a.bias", "unexpected: backbone.extra", "cls_head.fc_cls.bias (5,)"):
        assert words in str(error.value)


def test_one_weight_under_two_names_is_refused(narrow):
    wide = C3D(WIDTHS, HIDDEN, 487)
    state = published_state(wide, "c3d-sports1m") | {"conv1.bias": torch.zeros(2)}
    with pytest.raises(ValueError, match="2 repeated: features.0.bias, conv1.bias"):
        recognise(state)


def test_an_unknown_family_lists_the_known_ones(narrow):
    with pytest.raises(ValueError, match="c3d-jfzhang, c3d-sports1m, c3d-mmaction2"):
        recognise(narrow.state_dict(), family="c3d")


def test_outputs_must_be_the_classes():
    check_outputs(101, 101)
    with pytest.raises(ValueError, match="487 outputs and the data set 101 classes"):
        check_outputs(487, 101)


def test_wrong_sizes_are_refused(narrow):
    with pytest.raises(ValueError, match="8 widths"):
        C3D((1, 2, 3))
    with pytest.raises(ValueError, match=r"not \(1, 3, 16, 96, 112\)"):
        narrow(torch.zeros(1, 3, 16, 96, 112))


def test_every_family_keeps_its_contract():
    for name, (family, architecture) in families().items():
        assert name == family.name == family.profile.family
        assert family in architecture.FAMILIES and callable(architecture.build)
        assert family.rename("no.such.key") is None


@pytest.mark.parametrize(
    ("file", "family", "label_order"),
    [
        ("C3D_mini_epoch-19.pth.tar", "c3d-jfzhang", "sorted"),
        ("C3D_mini_epoch-49.pth.tar", "c3d-jfzhang", "sorted"),
        ("c3d_mini_mmaction2.pth", "c3d-mmaction2", "classInd"),
    ],
)
def test_real_checkpoints_are_recognised(shared_data, file, family, label_order):
    found = recognise(read_checkpoint(shared_data / "checkpoints" / file).state)
    assert (found.family, found.profile.label_order, found.n_outputs) == (family, label_order, 101)
    assert found.model.conv1.out_channels == 16 and found.model.fc7.out_features == 512


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "accuracy"),
    [
        ("C3D_mini_epoch-19.pth.tar", 0.30),
        ("C3D_mini_epoch-49.pth.tar", 0.53),
        ("c3d_mini_mmaction2.pth", 0.60),
    ],
)
def test_real_checkpoints_reach_their_published_accuracy(shared_data, file, accuracy):
    data = shared_data / "ucf101-mini"
    with open(data / "manifest.csv") as manifest:
        counts = {row["file"].partition("/")[2]: int(row["frames"]) for row in csv.DictReader(manifest)}
    dataset = read_dataset(data)
    found = recognise(read_checkpoint(shared_data / "checkpoints" / file).state)
    outputs = [centre_output(found, video.path, counts[video.name]) for video in dataset.videos]
    hits = {
        order: sum(
            label_index(dataset.classes, order)[video.label] == output
            for video, output in zip(dataset.videos, outputs, strict=True)
        )
        for order in ("classInd", "sorted")
    }
    # One video of 124 may fall either way: the README does not say where its centre clip starts.
    assert abs(hits[found.profile.label_order] / len(outputs) - accuracy) < 1.5 / len(outputs)
    assert hits[found.profile.label_order] == max(hits.values()) > min(hits.values())


def centre_output(found, path, n_frames):
    view = found.profile.view
    start = max(0, (n_frames - view.clip_length) // 2)
    stop = min(n_frames, start + view.clip_length)
    frames = [crop(resize_frame(frame, view), view) for frame in read_frames(path, start=start, stop=stop)]
    clip = loop_pad(np.stack(frames), view.clip_length)
    with torch.no_grad():
        return int(found.model(normalise(clip[None], found.profile)).argmax())
