"""Models of the user's own, by import path."""

import sys

import pytest
import torch
from torch import nn

from selrel.clips.profiles import Profile, View
from selrel.models import from_factory

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


class Own(nn.Module):
    """Some of its own names begin with what DataParallel puts before every name."""

    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Conv3d(3, 2, 3), nn.BatchNorm3d(2))
        self.head = nn.Linear(2, 5)

    def forward(self, clips):
        return self.head(self.module(clips).relu().mean((2, 3, 4)))


class AllOwn(nn.Module):
    """All of its names begin so, like those of a wrapper of the user's own."""

    def __init__(self):
        super().__init__()
        self.module = Tiny()

    def forward(self, clips):
        return self.module(clips)


def compiled_in_place():
    model = Tiny()
    model.compile(backend="eager")
    return model


MADE = {
    "plain": Tiny,
    "names of its own": Own,
    "nothing but names of its own": AllOwn,
    "parallel": lambda: nn.DataParallel(Tiny()),
    "parallel names of its own": lambda: nn.DataParallel(Own()),
    "compiled": lambda: torch.compile(Tiny(), backend="eager"),
    "compiled in place": compiled_in_place,
    "both": lambda: nn.DataParallel(torch.compile(Tiny(), backend="eager")),
    "a compiled part": lambda: nn.Sequential(torch.compile(Tiny(), backend="eager")),
}
SAVED = {"as it is": "", "parallel": "module.", "compiled": "_orig_mod.", "both": "_orig_mod.module."}


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("made", MADE)
def test_names_fit_however_model_and_weights_were_wrapped(monkeypatch, made, saved):
    """However it was made and however it was saved: as it is, parallelised, compiled, or both."""
    monkeypatch.setitem(globals(), "make", lambda: (MADE[made](), PROFILE))
    torch.manual_seed(7)
    weights = MADE[made]().state_dict()
    given = {f"{SAVED[saved]}{key}": value for key, value in weights.items()}
    monkeypatch.setitem(sys.modules, "wrapped_models", sys.modules[__name__])
    found = from_factory("wrapped_models:make", state=given).model
    assert not isinstance(found, nn.DataParallel) and found(torch.zeros(1, 3, 4, 8, 8)).shape == (1, 5)
    for kept, value in zip(found.state_dict().values(), weights.values(), strict=True):
        assert torch.equal(kept, value)


def test_names_that_do_not_fit_are_listed_as_those_that_fit_best(module):
    module("def tiny():\n    return Own(), PROFILE")
    weights = Own().state_dict()
    wrong = {key: value for key, value in weights.items() if key != "module.0.bias"}
    for prefix in ("", "module."):
        with pytest.raises(ValueError, match=r"family mine: 1 missing: module.0.bias$"):
            from_factory("my_models:tiny", state={f"{prefix}{key}": value for key, value in wrong.items()})


def test_one_weight_with_and_without_a_prefix_is_refused(module):
    module("def tiny():\n    return Tiny(), PROFILE")
    weights = Tiny().state_dict()
    with pytest.raises(ValueError, match="names some weights twice, with and without a prefix"):
        from_factory("my_models:tiny", state={**weights, "module.conv.bias": torch.zeros(2)})


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
        ("def tiny():\n    return None, PROFILE", "its factory returned None, Profile; it must return"),
        (
            "def tiny():\n    return Tiny, PROFILE",
            r"returned the class Tiny \(not an object of it\), Profile",
        ),
        ("def tiny():\n    return Tiny().forward, PROFILE", "its factory returned method, Profile"),
        ("def tiny():\n    return Tiny().state_dict(), PROFILE", "its factory returned OrderedDict, Profile"),
        ("def tiny():\n    raise SystemExit(3)", "factory raised SystemExit: 3$"),
        ("raise SystemExit", "can't be imported: SystemExit; install"),
        (
            "def tiny():\n    return torch.jit.script(Tiny()), PROFILE",
            "can't be used: it is compiled by TorchScript, .* before torch.jit.script or torch.jit.trace",
        ),
        (
            "def tiny():\n    return torch.jit.trace(Tiny(), torch.zeros(1, 3, 4, 8, 8)), PROFILE",
            "can't be used: it is compiled by TorchScript",
        ),
        (
            "def tiny():\n    return torch.jit.freeze(torch.jit.script(Tiny().eval())), PROFILE",
            "can't be used: it is compiled by TorchScript",
        ),
        (
            "def tiny():\n    return nn.Sequential(torch.jit.script(Tiny())), PROFILE",
            "can't be used: 0 is compiled by TorchScript",
        ),
        (
            "def tiny():\n    return nn.Sequential(nn.LazyConv3d(2, 3)), PROFILE",
            "can't be used: ValueError: .*uninitialized parameter.*; return .* neither lazy",
        ),
        (
            "def tiny():\n    return Tiny().to('meta'), PROFILE",
            "can't be used: NotImplementedError: .*no data.* nor on the meta device",
        ),
        (
            "def tiny():\n    return torch.ao.quantization.quantize_dynamic(Tiny(), {nn.Linear}), PROFILE",
            "can't be used: TypeError: head.* holds no plain numbers, as in a quantised model",
        ),
        (
            "def tiny():\n    clip = torch.zeros(1, 3, 4, 8, 8)\n"
            "    return torch.export.export(Tiny().eval(), (clip,)).module(), PROFILE",
            "can't be used: NotImplementedError: .*neither lazy, quantised, exported",
        ),
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
@pytest.mark.filterwarnings("ignore:.*deprecated")
def test_what_is_wrong_is_said_in_one_line(module, source, words):
    module(source)
    with pytest.raises(ValueError, match=words) as error:
        from_factory("my_models:tiny")
    assert "\n" not in str(error.value)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="No module named 'no_such_module'; install its package"):
        from_factory("no_such_module:tiny")
