"""What models of one's own are made of, beside C3D's and ResNets' parts: each explained by every method.

Deep Taylor is compared with the slow restatement, the gradients with autograd's, guided backpropagation
with hooks on the rectifiers, and Grad-CAM with autograd behind the map that a person would choose; all in
float64.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selrel import explain
from selrel.engine import PULLBACKS, Forward, Graph, Rules, UnsupportedModel, gradient_rule
from selrel.engine.graph import Node
from selrel.engine.operations import Operation
from selrel.engine.operations.convolution import Convolution
from selrel.engine.operations.layer import Layer
from selrel.engine.operations.linear import Linear
from tests.slow_relevance import SlowRelevance, Value
from tests.test_deep_taylor import FLAT, Network, agree_everywhere, pixels, traced

SHAPE = (3, 4, 6, 5)
TARGETS = torch.tensor([0, 2])
RECTIFIERS = (nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh)


@dataclass(frozen=True)
class Case:
    """A model in two halves, with the map that Grad-CAM explains between them, and the whole restated.

    `slow` is None where the parts are those of another case.
    """

    layers: Callable[[], dict[str, nn.Module]]
    features: Callable[[Any, Tensor], Tensor]
    head: Callable[[Any, Tensor], Tensor]
    slow: Callable[[Any, SlowRelevance, Value], Value]

    def model(self) -> Network:
        model = Network(lambda m, x: self.head(m, self.features(m, x)), **self.layers())
        with torch.no_grad():
            # Every channel speaks for the targets, or guided maps and activation maps could be empty.
            model.fc.weight[TARGETS] = model.fc.weight[TARGETS].abs()
        return model


def _leaky() -> dict[str, nn.Module]:
    return {
        "one": nn.Conv3d(3, 4, 3, padding=1),
        "two": nn.Conv3d(4, 4, 2),
        "three": nn.Conv3d(4, 4, 1),
        "fc": nn.Linear(4, 5),
        "mild": nn.LeakyReLU(0.1, inplace=True),
        "strong": nn.LeakyReLU(0.6),
        "last": nn.LeakyReLU(),
    }


def _leaky_features(m: Any, x: Tensor) -> Tensor:
    y = F.max_pool3d(m.mild(m.one(x)), (1, 2, 2), 1)
    y = m.strong(m.two(y))
    return m.last(y + m.three(y))


def _leaky_slow(m: Any, s: SlowRelevance, x: Value) -> Value:
    y = s.max_pooled(s.rectified(s.layer(x, m.one), 0.1), (1, 2, 2), stride=(1, 1, 1))
    y = s.rectified(s.layer(y, m.two), 0.6)
    y = s.rectified(s.added(y, s.layer(y, m.three)), 0.01)
    return s.layer(s.averaged(y, lambda t: t.mean((2, 3, 4))), m.fc)


def _plain(size: int) -> Callable[[], dict[str, nn.Module]]:
    """A convolution with a rectifier behind it, one for the head, and classes of so many values."""
    return lambda: {
        "conv": nn.Conv3d(3, 4, 2),
        "relu": nn.ReLU(),
        "other": nn.Conv3d(4, 4, 1),
        "fc": nn.Linear(size, 5),
    }


def _rectified(m: Any, x: Tensor) -> Tensor:
    return m.relu(m.conv(x))


def _slow_rectified(m: Any, s: SlowRelevance, x: Value) -> Value:
    return s.relu(s.layer(x, m.conv))


def _maximum(
    of: Callable[[Tensor], Tensor],
    axes: Sequence[int],
    *,
    signed: bool = False,
    keep: bool = False,
    turned: bool = False,
    back: bool = False,
) -> Case:
    """A maximum over axes of the map, which has 3 frames of 5x4; maybe of what a layer makes of it.

    `turned`: the axes are those of the map with channels and frames exchanged; `back`: and exchanged again,
    so that nothing but one size is known of all channels.
    """

    def head(m: Any, y: Tensor) -> Tensor:
        return m.fc(FLAT(of(m.other(y) if signed else y)))

    def slow(m: Any, s: SlowRelevance, x: Value) -> Value:
        y = _slow_rectified(m, s, x)
        y = s.layer(y, m.other) if signed else y
        for _ in range(turned + back):
            y = s.moved(y, lambda t: t.transpose(1, 2))
        y = s.maximum(y, axes, keep=keep)
        return s.layer(s.moved(y, FLAT), m.fc)

    size = of(torch.zeros(1, 4, 3, 5, 4)).numel()
    return Case(_plain(size), _rectified, head, slow)


def _over_time(pool: Callable[[Tensor], Tensor], slow_pool: Callable[[SlowRelevance, Value], Value]) -> Case:
    """Of signals (clip, channel, time): means of frames."""
    size = 4 * pool(torch.zeros(1, 4, 3)).shape[-1]

    def slow(m: Any, s: SlowRelevance, x: Value) -> Value:
        y = s.averaged(_slow_rectified(m, s, x), lambda t: t.mean((3, 4)))
        return s.layer(s.moved(slow_pool(s, y), FLAT), m.fc)

    return Case(_plain(size), _rectified, lambda m, y: m.fc(pool(y.mean((3, 4))).flatten(1)), slow)


def _averaged(pool: Callable[[Tensor], Tensor]) -> Case:
    return _over_time(pool, lambda s, y: s.averaged(y, pool))


def _parts(divide: Callable[[Tensor], Sequence[Tensor]]) -> Case:
    """Every part of the map goes through a mean of its own, the first one through a rectifier before."""

    def means(y: Tensor) -> list[Tensor]:
        return [part.mean(tuple(range(2, part.dim()))) for part in divide(y)]

    def slow(m: Any, s: SlowRelevance, x: Value) -> Value:
        y = _slow_rectified(m, s, x)
        n = len(divide(torch.zeros(1, 4, 3, 5, 4)))
        parts = [s.moved(y, lambda t, k=k: divide(t)[k]) for k in range(n)]
        pooled = [s.averaged(p, lambda t: t.mean(tuple(range(2, t.dim())))) for p in parts]
        return s.layer(s.concatenated(pooled), m.fc)

    size = sum(part.shape[1] for part in divide(torch.zeros(1, 4, 3, 5, 4)))
    return Case(_plain(size), _rectified, lambda m, y: m.fc(torch.cat(means(y), 1)), slow)


def _branches() -> dict[str, nn.Module]:
    convs = {f"b{i}": nn.Conv3d(3, 4, (1, i + 1, 1), padding="same") for i in (0, 2, 4)}
    return {**convs, **{f"r{i}": nn.ReLU() for i in (0, 2, 4)}, "fc": nn.Linear(4, 5)}


def _slow_branches(m: Any, s: SlowRelevance, x: Value) -> Value:
    first, second, third = (s.relu(s.layer(x, m.get_submodule(f"b{i}"))) for i in (0, 2, 4))
    y = s.added(s.added(first, second), third)
    return s.layer(s.averaged(y, lambda t: t.mean((2, 3, 4))), m.fc)


def _capped(kind: Callable[[], nn.Module], ceiling: float) -> Case:
    def slow(m: Any, s: SlowRelevance, x: Value) -> Value:
        y = s.rectified(s.layer(x, m.one), ceiling=ceiling)
        y = s.rectified(s.layer(y, m.two), ceiling=ceiling)
        return s.layer(s.averaged(y, lambda t: t.mean((2, 3, 4))), m.fc)

    return Case(
        lambda: {
            "one": nn.Conv3d(3, 4, 3, padding=1),
            "two": nn.Conv3d(4, 4, 2),
            "first": kind(),
            "second": kind(),
            "fc": nn.Linear(4, 5),
        },
        lambda m, x: m.second(m.two(m.first(m.one(x)))),
        lambda m, y: m.fc(y.mean((2, 3, 4))),
        slow,
    )


CASES: dict[str, Case] = {
    "leaky rectifiers": Case(_leaky, _leaky_features, lambda m, y: m.fc(y.mean((2, 3, 4))), _leaky_slow),
    "rectifiers up to 6": _capped(lambda: nn.ReLU6(inplace=True), 6.0),
    "rectifiers up to 0.4": _capped(lambda: nn.Hardtanh(0, 0.4), 0.4),
    "maximum over time": _maximum(lambda y: y.amax(2), [1]),
    "maximum over time, of both signs": _maximum(lambda y: y.amax(2), [1], signed=True),
    "maximum over all": _maximum(lambda y: y.amax((2, 3, 4)), [1, 2, 3]),
    "maximum over all, of both signs": _maximum(
        lambda y: y.amax((-1, 2, 3), keepdim=True), [1, 2, 3], signed=True, keep=True
    ),
    "maximum over time, frames first": _maximum(
        lambda y: y.transpose(1, 2).amax(1), [1], turned=True, back=True
    ),
    "maximum over channels": _maximum(lambda y: y.amax(1), [1], turned=True),
    "maximum over channels and places": _maximum(lambda y: y.amax((1, -1)), [1, 3], turned=True),
    "max(dim)": _maximum(lambda y: y.max(2).values, [1]),
    "max(dim) from behind, kept": _maximum(lambda y: torch.max(y, -2, keepdim=True)[0], [2], keep=True),
    "max(dim) twice": _maximum(lambda y: y.max(4)[0].max(2)[0], [1, 3]),
    "max_pool1d": _over_time(
        lambda y: F.max_pool1d(y, 2, 1, 1), lambda s, y: s.max_pooled(y, (2,), stride=(1,), padding=(1,))
    ),
    "max_pool1d with indices": _over_time(
        lambda y: F.max_pool1d(y, 2, return_indices=True)[0], lambda s, y: s.max_pooled(y, (2,))
    ),
    "adaptive_max_pool1d": _over_time(
        lambda y: F.adaptive_max_pool1d(y, 2), lambda s, y: s.adaptive_max_pooled(y, (2,))
    ),
    "adaptive_avg_pool1d": _averaged(lambda y: F.adaptive_avg_pool1d(y, 2)),
    "adaptive_avg_pool1d to one": _averaged(lambda y: F.adaptive_avg_pool1d(y, 1)),
    "avg_pool1d": _averaged(lambda y: F.avg_pool1d(y, 2, 2, 1, count_include_pad=False)),
    "sum over an axis": _averaged(lambda y: y.sum(-1, keepdim=True)),
    "chunk": _parts(lambda y: y.chunk(3, 1)),
    "split": _parts(lambda y: y.split(2, dim=2)),
    "split into sizes": _parts(lambda y: torch.split(y, [1, 3, 1], -2)),
    "tensor_split": _parts(lambda y: y.tensor_split(3, dim=-1)),
    "unbind": _parts(lambda y: y.unbind(2)),
    "sum of a list": Case(
        _branches,
        lambda m, x: sum([m.r0(m.b0(x)), m.r2(m.b2(x)), m.r4(m.b4(x))]),
        lambda m, y: m.fc(y.mean((2, 3, 4))),
        _slow_branches,
    ),
}


def clips() -> Tensor:
    """Of these, no entry lies so near to 0, a ceiling or another one that it counts as equal."""
    return pixels(2, SHAPE, seed=2)


def _logit(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).gather(1, TARGETS[:, None]).sum()


def _gradient(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(_logit(model, x), x)[0]


def _near(found: Tensor, expected: Tensor) -> None:
    assert expected.abs().flatten(1).amax(dim=1).min() > 0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("name", CASES)
def test_deep_taylor_restated(name: str) -> None:
    case = CASES[name]
    model = case.model()
    agree_everywhere(model, lambda s, x: case.slow(model, s, x))


@pytest.fixture(scope="module", params=CASES)
def traced_case(request: pytest.FixtureRequest) -> tuple[Case, Network, Forward]:
    """A case with its model, and the forward pass of the clips."""
    case = CASES[request.param]
    model = case.model()
    return case, model, traced(model, SHAPE, clips())


def test_gradients_are_autograds(traced_case: tuple[Case, Network, Forward]) -> None:
    _, model, forward = traced_case
    gradient = _gradient(model, clips())
    _near(explain.method("gradient_x_input")(forward, TARGETS), (gradient * clips()).sum(dim=1))
    _near(explain.method("sensitivity")(forward, TARGETS), gradient.square().sum(dim=1))


def test_guided_backpropagation_rectifies_what_reaches_a_rectifier(
    traced_case: tuple[Case, Network, Forward],
) -> None:
    hooked = copy.deepcopy(traced_case[1])
    for module in hooked.modules():
        if isinstance(module, RECTIFIERS):
            # Hooks and in-place operations do not go together.
            module.inplace = False
            module.register_full_backward_pre_hook(lambda module, gradient: (gradient[0].clamp(min=0),))
    found = explain.method("guided_backprop")(traced_case[2], TARGETS)
    _near(found, _gradient(hooked, clips()).sum(dim=1))


def test_grad_cam_explains_the_last_whole_map(traced_case: tuple[Case, Network, Forward]) -> None:
    case, model, forward = traced_case
    maps = case.features(model, clips()).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(case.head(model, maps).gather(1, TARGETS[:, None]).sum(), maps)
    weighted = (gradient.mean((2, 3, 4), keepdim=True) * maps).sum(dim=1, keepdim=True).relu()
    cam = F.interpolate(weighted, SHAPE[1:], mode="trilinear", align_corners=False)[:, 0].detach()
    assert cam.max() > 0
    torch.testing.assert_close(explain.method("grad_cam")(forward, TARGETS), cam, rtol=0, atol=1e-12)
    guided = explain.method("guided_backprop")(forward, TARGETS) * cam
    torch.testing.assert_close(
        explain.method("guided_grad_cam")(forward, TARGETS), guided, rtol=0, atol=1e-12
    )


def test_some_of_what_is_rectified_is_cut_off() -> None:
    """Else the cases would say nothing of floors and ceilings."""
    x = clips()
    for name, ceiling in (("rectifiers up to 0.4", 0.4), ("leaky rectifiers", 9.0)):
        model = CASES[name].model().double()
        entries = model.one(x)
        assert 0.1 < (entries < 0).double().mean() < 0.9 and ((entries > ceiling).any() == (ceiling < 1))


def test_the_same_rectifier_by_another_name() -> None:
    def cubes(rectifier: Callable[[Tensor], Tensor]) -> list[Tensor]:
        model = Network(
            lambda m, x: m.fc(rectifier(m.conv(x)).mean((2, 3, 4))),
            conv=nn.Conv3d(3, 4, 3, padding=1),
            fc=nn.Linear(4, 5),
        )
        with torch.no_grad():
            model.conv.weight.mul_(6)
        forward = traced(model, SHAPE, clips())
        assert (forward.value(1) > 6).any()
        return [explain.method(method)(forward, TARGETS) for method in explain.methods()]

    capped, plain = cubes(F.relu6), cubes(F.relu)
    assert all(map(torch.equal, capped, cubes(lambda y: y.clamp(0, 6))))
    assert all(map(torch.equal, plain, cubes(lambda y: torch.clamp_min(y, 0.0))))
    assert all(map(torch.equal, plain, cubes(lambda y: F.leaky_relu(y, 0.0))))
    assert not any(map(torch.equal, plain, capped))


def test_a_nearly_plain_leaky_rectifier_is_nearly_a_plain_one() -> None:
    """Relevance and gradients follow the slope to 0 without a jump, but for where relevance is lost at 0."""
    cubes = []
    for slope in (0.0, 1e-9):
        model = CASES["leaky rectifiers"].model()
        with torch.no_grad():
            # Some input of every unit is active, so that none is lost.
            model.one.bias.add_(1)
            model.two.bias.add_(1)
        for rectifier in (model.mild, model.strong, model.last):
            rectifier.negative_slope = slope
        forward = traced(model, SHAPE, clips())
        cubes.append([explain.method(method)(forward, TARGETS) for method in explain.methods()])
    for plain, leaky, method in zip(*cubes, explain.methods(), strict=True):
        assert plain.abs().max() > 0 and (plain - leaky).abs().max() < 1e-6 * plain.abs().max(), method


# --- what a method has no rule for ----------------------------------------------------------------


class Square(Operation):
    """An operation that no rule knows, with a right derivative."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return inputs[0].square()

    def pullback(self, gradient: Tensor, inputs: Sequence[Tensor], rounding: Any) -> tuple[Tensor, ...]:
        return (2 * inputs[0] * gradient,)


class SquareOfLayer(Square, Linear):
    """One whose parent is in every table."""


def squared(x: Tensor, operation: Any) -> tuple[Network, Forward]:
    """A network with an operation planted in place of the identity that ends its features."""
    model = Network(
        lambda m, x: m.fc(m.conv(x).relu().flatten(1)), conv=nn.Conv3d(3, 2, 1), fc=nn.Linear(240, 5)
    )
    graph = traced(model, SHAPE, x).graph
    at = next(i for i, node in enumerate(graph.nodes) if "flatten" in node.name or "view" in node.name)
    nodes = list(graph.nodes)
    planted = Node("act (square)", operation, (at,), nonnegative=True)
    shifted = [
        Node(n.name, n.operation, tuple(i + (i >= at) for i in n.inputs), n.nonnegative, n.moves_pixels)
        for n in nodes[at:]
    ]
    shifted[0] = Node(shifted[0].name, shifted[0].operation, (at + 1,), True)
    model.function = lambda m, x: m.fc(m.conv(x).relu().square().flatten(1))
    return model, Forward(Graph((*nodes[:at], planted, *shifted), graph.bounds, graph.cam_value), x)


@pytest.mark.parametrize("method", explain.methods())
def test_an_operation_without_a_rule_is_refused_by_name(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where a method is nothing but the gradient, and the operation's derivative is right."""
    _, forward = squared(clips(), Square())
    monkeypatch.setattr(Forward, "_step", lambda *_: pytest.fail("computed"))
    refused = {"guided_grad_cam": "guided_backprop"}.get(method, method)
    with pytest.raises(UnsupportedModel, match=rf"^{refused} has no rule for act \(square\); choose other"):
        explain.method(method)(forward, TARGETS)


def test_a_table_with_one_more_entry_covers_one_more_operation() -> None:
    model, forward = squared(clips(), Square())
    rules = Rules("squares", {**PULLBACKS, Square: gradient_rule})
    found = forward.backward(rules, forward.at_target(TARGETS))
    _near(found, _gradient(model.double(), clips()))


def test_a_rule_is_that_of_the_type_or_of_its_nearest_parent() -> None:
    def rule(step: Any, share: Tensor) -> tuple[Tensor, ...]:
        return (share,)

    node = Node("act (square)", SquareOfLayer(torch.ones(1, 1), None), (0,))
    assert Rules("m", {Layer: rule}).at(node) is rule
    assert Rules("m", {Layer: gradient_rule, SquareOfLayer: rule}).at(node) is rule
    assert Rules("m", {Layer: gradient_rule, Linear: rule}).at(node) is rule
    with pytest.raises(UnsupportedModel, match=r"^m has no rule for act \(square\)"):
        Rules("m", {Convolution: rule}).at(node)
