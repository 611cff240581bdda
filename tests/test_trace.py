"""Tracing: what is read, what is refused, and that the model stays as it came."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selrel.engine import Forward, UnsupportedModel, trace
from selrel.explain import deep_taylor

SHAPE = (3, 4, 6, 6)
LOW, HIGH = torch.full((3,), -1.0), torch.full((3,), 2.0)


class Model(nn.Module):
    """A convolution and whatever a test does with it."""

    def __init__(self, function: Callable[["Model", Tensor], object], **layers: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(3, 4, 3, padding=1)
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def clips(n: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype) * 3 - 1


def traced(model: nn.Module) -> Callable[[Tensor], Forward]:
    graph = trace(model, SHAPE, low=LOW, high=HIGH)
    return lambda x: Forward(graph, x)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3, 4))


# --- what is read -----------------------------------------------------------------------------


class Padded(nn.Conv3d):
    """A convolution that rectifies, under a name of its own."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).relu()


def _twice(m: Model, x: Tensor) -> Tensor:
    return pooled(m.same(m.same(m.conv(x)).relu()))


def _in_place(m: Model, x: Tensor) -> Tensor:
    y = m.relu(m.norm(m.conv(x)))
    y += m.relu(m.same(y))
    return m.fc(y.view(y.size(0), -1))


def _branches(m: Model, x: Tensor) -> Tensor:
    y = m.conv(x).relu()
    dead = m.same(y).sigmoid()
    del dead
    parts = [
        F.max_pool3d(y, 3, 1, 1),
        F.avg_pool3d(y, 3, 1, 1),
        m.same(y)[:, :2],
        F.dropout(y, 0.5, m.training),
    ]
    return pooled(F.relu(torch.cat(parts, 1))).unsqueeze(2).squeeze(-1)


def _frames(m: Model, x: Tensor) -> Tensor:
    first, last = (m.flat(x[:, :, t]).relu() for t in (0, -1))
    return (first + last).transpose(1, 2).flatten(1)[..., 3:40]


READ: dict[str, Callable[[], Model]] = {
    "one module used twice": lambda: Model(_twice, same=nn.Conv3d(4, 4, 3, padding="same")),
    "in place": lambda: Model(
        _in_place,
        relu=nn.ReLU(inplace=True),
        norm=nn.BatchNorm3d(4),
        same=nn.Conv3d(4, 4, 1),
        fc=nn.Linear(4 * 144, 5),
    ),
    "branches": lambda: Model(_branches, same=nn.Conv3d(4, 4, 1)),
    "frames": lambda: Model(_frames, flat=nn.Conv2d(3, 4, 3, padding="valid")),
    "a subclass": lambda: Model(lambda m, x: pooled(m.own(x)), own=Padded(3, 5, 3)),
    "a linear tail": lambda: Model(
        lambda m, x: m.norm(m.fc(pooled(m.conv(x).relu()))), fc=nn.Linear(4, 6), norm=nn.BatchNorm1d(6)
    ),
    "a rectified tail": lambda: Model(lambda m, x: pooled(m.conv(x)).relu()),
    "a batch norm on pixels": lambda: Model(lambda m, x: pooled(m.conv(m.norm(x))), norm=nn.BatchNorm3d(3)),
    "a view of the clip": lambda: Model(lambda m, x: x.flatten(1)),
}


def settle(model: nn.Module) -> nn.Module:
    """Give the batch norms statistics and factors that are not the initial ones."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, -1, 2)
            nn.init.uniform_(module.bias, -1, 1)
    return model.eval()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("n", [1, 3])
def test_logits_are_the_plain_models(name: str, n: int, dtype: torch.dtype, tolerance: float) -> None:
    model = settle(READ[name]()).to(dtype)
    x = clips(n, dtype)
    with torch.no_grad():
        # Not every model squeezes a batch of one as it does any other.
        expected = model(torch.cat([x, x]))[:n]
    found = traced(model)(x).logits
    assert found.dtype == dtype
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_the_clips_are_never_written_to() -> None:
    model = settle(READ["a view of the clip"]())
    model.function = lambda m, x: pooled(F.relu(x[:, :, 1:]) + x[:, :, :-1].relu())
    x = clips()
    before = x.clone()
    traced(model)(x)
    assert torch.equal(x, before)


def test_dead_branches_are_left_out() -> None:
    """`_branches` has a sigmoid that nothing reads: it is no reason to refuse."""
    graph = trace(settle(READ["branches"]()), SHAPE, low=LOW, high=HIGH)
    assert not any("sigmoid" in node.name for node in graph.nodes)


def test_nodes_carry_the_name_of_their_module() -> None:
    graph = trace(settle(READ["in place"]()), SHAPE, low=LOW, high=HIGH)
    assert [n.name for n in graph.nodes][0] == "conv (conv3d)"
    assert "the model's forward (add)" in [n.name for n in graph.nodes]


# --- the model stays as it came ---------------------------------------------------------------


def state(model: nn.Module) -> tuple[object, ...]:
    tensors = {k: (v.clone(), v.data_ptr(), v._version) for k, v in model.state_dict(keep_vars=True).items()}
    flags = {
        name: (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), type(m), set(vars(m)))
        for name, m in model.named_modules()
    }
    gradients = {k: (p.requires_grad, p.grad) for k, p in model.named_parameters()}
    return tensors, flags, gradients


def same_state(first: tuple[object, ...], second: tuple[object, ...]) -> bool:
    (a, *rest), (b, *others) = first, second
    same = a.keys() == b.keys() and all(torch.equal(a[k][0], b[k][0]) and a[k][1:] == b[k][1:] for k in a)
    return same and rest == others


def _mixed(model: nn.Module, training: bool) -> nn.Module:
    model.train(training)
    model.norm.train(not training)
    model.conv.weight.requires_grad_(False)
    model.conv.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_came(training: bool) -> None:
    model = _mixed(settle(READ["in place"]()), training)
    before = state(model)
    forward = traced(model)(clips())
    deep_taylor.explain(forward, torch.tensor([0, 1, 2]), alpha=2.0)
    assert same_state(before, state(model))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("failing", [lambda m, x: 1 / 0, lambda m, x: m.conv(x).sigmoid().mean((2, 3, 4))])
def test_the_model_is_left_as_it_came_after_a_failure(failing: Callable, training: bool) -> None:
    model = _mixed(settle(READ["in place"]()), training)
    model.function = failing
    before = state(model)
    with pytest.raises(UnsupportedModel):
        traced(model)
    assert same_state(before, state(model))


def test_a_model_in_training_mode_is_explained_in_eval_mode() -> None:
    model = settle(READ["in place"]())
    expected = traced(model)(clips()).logits
    assert torch.equal(traced(model.train())(clips()).logits, expected)


def test_weights_edited_after_tracing_need_a_new_trace() -> None:
    """Documented: a graph is that of the weights it was traced with."""
    model = settle(READ["in place"]())
    traced(model)(clips())
    with torch.no_grad():
        model.fc.weight *= -1
        model.conv.weight += 0.1
    fresh = copy.deepcopy(model)
    targets = torch.tensor([0, 1, 2])
    found, expected = (traced(m)(clips()) for m in (model, fresh))
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(deep_taylor.explain(found, targets), deep_taylor.explain(expected, targets))


# --- what is refused --------------------------------------------------------------------------

REFUSED: dict[str, tuple[str, Callable[[], Model]]] = {
    "sigmoid": (r"forward \(sigmoid\)", lambda: Model(lambda m, x: pooled(m.conv(x).sigmoid()))),
    "softmax": (r"\(softmax\)", lambda: Model(lambda m, x: F.softmax(pooled(m.conv(x)), dim=1))),
    "gelu": (r"act \(gelu\)", lambda: Model(lambda m, x: pooled(m.act(m.conv(x))), act=nn.GELU())),
    "product": (r"\(mul\)", lambda: Model(lambda m, x: pooled(m.conv(x) * m.conv(x)))),
    "scalar product": (r"\(mul\)", lambda: Model(lambda m, x: pooled(m.conv(x) * 2))),
    "subtraction": (r"\(sub\)", lambda: Model(lambda m, x: pooled(m.conv(x) - m.conv(x)))),
    "weighted sum": ("plain sum", lambda: Model(lambda m, x: pooled(m.conv(x).add(m.conv(x), alpha=2)))),
    "sum with a number": ("plain sum", lambda: Model(lambda m, x: pooled(m.conv(x) + 1))),
    "broadcast sum": ("plain sum", lambda: Model(lambda m, x: pooled(m.conv(x) + m.conv(x)[:, :1]))),
    "sum with a parameter": (
        "adds a parameter|plain sum",
        lambda: Model(lambda m, x: pooled(m.conv(x)) + m.fc.bias, fc=nn.Linear(4, 4)),
    ),
    "lstm": (
        r"rnn \(",
        lambda: Model(
            lambda m, x: m.rnn(m.conv(x).flatten(2))[0][:, -1], rnn=nn.LSTM(144, 5, batch_first=True)
        ),
    ),
    "reflecting padding": (
        "reflect, not with zeros",
        lambda: Model(
            lambda m, x: pooled(m.edge(x)), edge=nn.Conv3d(3, 2, 3, padding=1, padding_mode="reflect")
        ),
    ),
    "padding with ones": (
        "pads with 1",
        lambda: Model(lambda m, x: pooled(m.conv(F.pad(x, (1, 1), value=1.0)))),
    ),
    "lopsided padding": (
        'padding="same" is lopsided',
        lambda: Model(lambda m, x: pooled(m.even(x)), even=nn.Conv3d(3, 2, 2, padding="same")),
    ),
    "a rectifier that turns round": (
        "slope is -0.1, and only slopes of 0 to 1",
        lambda: Model(lambda m, x: pooled(F.leaky_relu(m.conv(x), -0.1))),
    ),
    "a learnt slope": (
        r"act \(prelu\)",
        lambda: Model(lambda m, x: pooled(m.act(m.conv(x))), act=nn.PReLU()),
    ),
    "a range below 0": (
        r"act \(hardtanh\): it keeps values in -1.0 to 1.0, and only ranges from 0 on",
        lambda: Model(lambda m, x: pooled(m.act(m.conv(x))), act=nn.Hardtanh()),
    ),
    "a range above 0": (
        r"\(clamp\): it keeps values in 1 to 2",
        lambda: Model(lambda m, x: pooled(m.conv(x).clamp(1, 2))),
    ),
    "a ceiling alone": (
        r"\(clamp\): it keeps values in -inf to 6",
        lambda: Model(lambda m, x: pooled(m.conv(x).clamp(max=6))),
    ),
    "the larger of two": (
        r"\(maximum\)",
        lambda: Model(lambda m, x: pooled(torch.maximum(m.conv(x), x[:, :1]))),
    ),
    "a maximum over the batch": (
        "maximum over the batch|lost the batch",
        lambda: Model(lambda m, x: m.conv(x).amax((0, 2, 3, 4), keepdim=True)),
    ),
    "a maximum over the batch from behind": (
        "maximum over the batch|lost the batch",
        lambda: Model(lambda m, x: m.conv(x).max(-5, keepdim=True)[0]),
    ),
    "a maximum over everything": ("lost the batch", lambda: Model(lambda m, x: m.conv(x).amax())),
    "where a maximum is": (
        "indices",
        lambda: Model(lambda m, x: m.conv(x).flatten(2).max(-1).indices.float()),
    ),
    "a sum over the batch": (
        "over the batch|lost the batch",
        lambda: Model(lambda m, x: m.conv(x).sum((0, 2, 3, 4), True)),
    ),
    "parts of the batch": (
        r"\(split\): it cuts the batch|lost the batch",
        lambda: Model(lambda m, x: pooled(m.conv(x).split(7)[0])),
    ),
    "the clips one by one": (
        r"\(unbind\): it cuts the batch|lost the batch",
        lambda: Model(lambda m, x: m.conv(x).unbind()[0].mean((2, 3))),
    ),
    "a stack of batches": (
        "lost the batch|before the batch",
        lambda: Model(lambda m, x: torch.stack([pooled(m.conv(x))] * 2)),
    ),
    "a mean over the batch": (
        "over the batch|lost the batch",
        lambda: Model(lambda m, x: m.conv(x).mean((0, 2, 3, 4), True)),
    ),
    "a mean over the batch from behind": (
        "over the batch|lost the batch",
        lambda: Model(lambda m, x: m.conv(x).mean(-5, True)),
    ),
    "a slice of the batch": (
        "cuts the batch|lost the batch",
        lambda: Model(lambda m, x: pooled(m.conv(x)[:2])),
    ),
    "clips as frames": ("lost the batch", lambda: Model(lambda m, x: m.conv(x).reshape(-1, 144))),
    "a turned batch": (
        "lost the batch|batch axis",
        lambda: Model(lambda m, x: pooled(m.conv(x)).permute(1, 0)),
    ),
    "a turned batch, transposed": (
        "lost the batch|batch axis",
        lambda: Model(lambda m, x: pooled(m.conv(x)).transpose(-1, -2)),
    ),
    "clips beside each other": (
        "batch",
        lambda: Model(lambda m, x: pooled(torch.cat([m.conv(x), m.conv(x)]))),
    ),
    "dropout that never rests": (
        "dropout",
        lambda: Model(lambda m, x: pooled(F.dropout(m.conv(x), 0.5, True))),
    ),
    "batch statistics": (
        r"norm \(",
        lambda: Model(
            lambda m, x: pooled(m.norm(m.conv(x))), norm=nn.BatchNorm3d(4, track_running_stats=False)
        ),
    ),
    "indices of a pooling": (
        "indices",
        lambda: Model(lambda m, x: pooled(F.max_pool3d(m.conv(x), 2, return_indices=True)[1].float())),
    ),
    "a pair": ("one tensor", lambda: Model(lambda m, x: (pooled(m.conv(x)), x))),
    "a tuple of one": ("one tensor", lambda: Model(lambda m, x: (pooled(m.conv(x)),))),
    "a dictionary": ("one tensor", lambda: Model(lambda m, x: {"logits": pooled(m.conv(x))})),
    "a map": (r"logits \(clip, class\)", lambda: Model(lambda m, x: m.conv(x))),
    "the clip": ("one tensor", lambda: Model(lambda m, x: x)),
    "a choice by value": (
        "control flow",
        lambda: Model(lambda m, x: pooled(m.conv(x)) if x.sum() > 0 else x),
    ),
    "another shape": (
        "can't be traced",
        lambda: Model(lambda m, x: m.fc(m.conv(x).flatten(1)), fc=nn.Linear(3, 2)),
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_rule_is_refused_by_name_before_anything_is_computed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message, make = REFUSED[name]
    model = make().eval()
    monkeypatch.setattr(Forward, "__init__", lambda *_: pytest.fail("computed"))
    with pytest.raises(UnsupportedModel, match=message) as refusal:
        traced(model)
    assert "\n" not in str(refusal.value)


def test_a_model_without_parameters_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="no parameters"):
        traced(nn.Flatten())


def test_bounds_must_fit_the_channels() -> None:
    with pytest.raises(ValueError, match="3 channels"):
        trace(READ["a view of the clip"](), SHAPE, low=torch.zeros(1), high=HIGH)


# --- the value that Grad-CAM explains -----------------------------------------------------------


def test_cam_value_is_the_last_map_before_its_pooling() -> None:
    model = Model(
        lambda m, x: m.head(F.relu(m.squeezed(F.avg_pool3d(m.conv(x).relu(), (4, 6, 6))))).flatten(1),
        squeezed=nn.Conv3d(4, 5, 1),
        head=nn.Conv3d(5, 2, 1),
    )
    graph = trace(model.eval(), SHAPE, low=LOW, high=HIGH)
    assert graph.cam_value is not None
    assert Forward(graph, clips()).value(graph.cam_value).shape == (3, 4, 4, 6, 6)


def test_cam_value_of_parallel_maps_is_their_concatenation() -> None:
    graph = trace(settle(READ["branches"]()), SHAPE, low=LOW, high=HIGH)
    assert graph.cam_value is not None
    assert Forward(graph, clips()).value(graph.cam_value).shape == (3, 14, 4, 6, 6)


def test_a_model_of_frames_has_no_cam_value() -> None:
    assert trace(settle(READ["frames"]()), SHAPE, low=LOW, high=HIGH).cam_value is None
