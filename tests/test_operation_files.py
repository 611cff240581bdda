"""What every file of selrel/engine/operations promises, and that an operation takes one file."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from selrel.engine import PULLBACKS, Forward, Rules, UnsupportedModel, gradient_rule, operations, trace
from selrel.engine.operations import Operation, translations
from selrel.explain import method
from tests.test_deep_taylor import HIGH, LOW, Network, pixels

SHAPE = (3, 4, 6, 5)
FILES = [
    importlib.import_module(f"{operations.__name__}.{file.name}")
    for file in pkgutil.iter_modules(operations.__path__)
]
SINE = """
import torch
from selrel.engine.operations import Operation

class Sine(Operation):
    def forward(self, *inputs):
        return inputs[0].sin()

    def pullback(self, gradient, inputs, rounding):
        return (gradient * inputs[0].cos(),)

TRANSLATIONS = {torch.ops.aten.sin.default: lambda call: Sine()}
"""


def kinds(file: ModuleType) -> list[type[Operation]]:
    return [
        kind
        for _, kind in inspect.getmembers(file, inspect.isclass)
        if kind.__module__ == file.__name__ and issubclass(kind, Operation)
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.__name__.rpartition(".")[2])
def test_a_file_states_one_operation_and_the_rule_of_its_gradient(file: ModuleType) -> None:
    (kind,) = kinds(file)
    assert any(parent in PULLBACKS for parent in kind.__mro__)
    assert inspect.isabstract(kind) or getattr(file, "TRANSLATIONS", None)


def test_no_two_files_translate_the_same_operator() -> None:
    stated = [op for file in FILES for name in ("TRANSLATIONS", "PARTS") for op in getattr(file, name, ())]
    assert len(stated) == len(set(stated)) == sum(map(len, translations())) > 50


@pytest.fixture
def sine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file more in the folder."""
    (tmp_path / "sine.py").write_text(SINE)
    monkeypatch.setattr(operations, "__path__", [*operations.__path__, str(tmp_path)])
    translations.cache_clear()
    yield
    monkeypatch.undo()
    translations.cache_clear()


def wave() -> nn.Module:
    return Network(
        lambda m, x: m.fc(m.conv(x).sin().flatten(1)), conv=nn.Conv3d(3, 2, 1), fc=nn.Linear(240, 5)
    ).double()


def test_adding_an_operation_is_adding_a_file(sine: None) -> None:
    model, x, targets = wave(), pixels(2, SHAPE).requires_grad_(), torch.tensor([1, 3])
    forward = Forward(trace(model, SHAPE, low=LOW, high=HIGH), x.detach())
    torch.testing.assert_close(forward.logits, model(x))
    kind = type(forward.graph.nodes[1].operation)
    found = forward.backward(Rules("waves", {**PULLBACKS, kind: gradient_rule}), forward.at_target(targets))
    (expected,) = torch.autograd.grad(model(x).gather(1, targets[:, None]).sum(), x)
    torch.testing.assert_close(found, expected)
    # No method explains it before its table says how.
    with pytest.raises(UnsupportedModel, match=r"sensitivity has no rule for the model's forward \(sin\)"):
        method("sensitivity")(forward, targets)


def test_without_the_file_it_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"can't explain the model's forward \(sin\)"):
        trace(wave(), SHAPE, low=LOW, high=HIGH)
