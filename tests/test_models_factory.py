"""Models of the user's own, by import path."""

import sys

import pytest
import torch
from torch import nn

from selrel.models import from_factory
from selrel.profiles import Profile, View

PROFILE = Profile(
    family="mine",
    view=View(resize=8, crop=(8, 8), clip_length=4),
    colour_order="RGB",
    scale=1.0,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
    label_order="classInd",
)


class Tiny(nn.Module):
    """Its head is not its last module, and it has a batch norm."""

    def __init__(self, outputs=5):
        super().__init__()
        self.head = nn.Linear(2, outputs)
        self.conv = nn.Conv3d(3, 2, 3)
        self.norm = nn.BatchNorm3d(2)

    def forward(self, clips):
        return self.head(self.norm(self.conv(clips)).relu().mean((2, 3, 4)))


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that can be imported as my_models, and give its factories."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(source):
        monkeypatch.delitem(sys.modules, "my_models", raising=False)
        (tmp_path / "my_models.py").write_text(f"from tests.test_models_factory import *\n{source}\n")

    yield write
    sys.modules.pop("my_models", None)


@pytest.mark.parametrize("profile", ["PROFILE", "PROFILE.as_dict()"])
def test_a_factory_gives_model_and_profile(module, profile):
    module(f"def tiny():\n    return Tiny().double(), {profile}")
    found = from_factory("my_models:tiny")
    assert isinstance(found.model.head, nn.Linear) and not found.model.training
    assert (found.family, found.profile, found.n_outputs) == ("mine", PROFILE, 5)
    assert all(p.dtype == torch.float32 and p.requires_grad for p in found.model.parameters())


def test_weights_are_optional_and_strict(module):
    module("def tiny():\n    return Tiny(), PROFILE")
    weights = Tiny().state_dict()
    found = from_factory("my_models:tiny", state={f"module.{key}": value for key, value in weights.items()})
    assert all(torch.equal(value, weights[key]) for key, value in found.model.state_dict().items())
    uncounted = {key: value for key, value in weights.items() if "num_batches" not in key}
    assert from_factory("my_models:tiny", state=uncounted).n_outputs == 5
    wrong = {**uncounted, "extra": torch.zeros(1), "head.bias": torch.zeros(6)}
    del wrong["conv.weight"]
    with pytest.raises(
        ValueError, match="1 missing: conv.weight; 1 unexpected: extra; 1 misshapen: head.bias"
    ):
        from_factory("my_models:tiny", state=wrong)


@pytest.mark.parametrize(
    "path",
    ["my_models", "my_models.tiny", ":tiny", "my_models:", "my-models:tiny", "../a:tiny", "a:b:c"],
)
def test_only_import_paths_are_accepted(path):
    with pytest.raises(ValueError, match=r"is not an import path; write package\.module:factory"):
        from_factory(path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "import no_such_package",
            r"can't be imported: ModuleNotFoundError: No module named 'no_such_p",
        ),
        ("1 +", "can't be imported: SyntaxError"),
        ("", "my_models has no function tiny"),
        ("tiny = 3", "my_models has no function tiny"),
        ("def tiny(width):\n    return Tiny(), PROFILE", "factory raised TypeError: .*missing 1 required"),
        ("def tiny():\n    raise OSError('first\\nsecond')", "factory raised OSError: first$"),
        ("def tiny():\n    return Tiny()", "its factory returned Tiny; it must return"),
        ("def tiny():\n    return Tiny(), 'RGB'", "its factory returned Tiny, str; it must return"),
        ("def tiny():\n    return PROFILE, Tiny()", "its factory returned Profile, Tiny; it must return"),
        (
            "def tiny():\n    return Tiny(), {'family': 'x'}",
            "the profile .* is not one: ValueError",
        ),
        (
            "def tiny():\n    return nn.Conv3d(3, 2, 9), PROFILE",
            r"can't run a clip of shape \(1, 3, 4, 8",
        ),
        ("def tiny():\n    return nn.Conv3d(3, 2, 3), PROFILE", r"returned \(1, 2, 2, 6, 6\) for one clip"),
        (
            "def tiny():\n    return nn.MaxPool3d(2, return_indices=True), PROFILE",
            "returned tuple for one clip",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line(module, source, words):
    module(source)
    with pytest.raises(ValueError, match=words) as error:
        from_factory("my_models:tiny")
    assert "\n" not in str(error.value)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="No module named 'no_such_module'; install its package"):
        from_factory("no_such_module:tiny")
