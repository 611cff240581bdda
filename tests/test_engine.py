"""One forward pass and many backward passes: batches, bits, and what every method promises."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from selrel import explain
from selrel.engine import Forward, Graph, trace
from selrel.explain import deep_taylor, grad_cam, gradient_x_input, sensitivity

SHAPE = (3, 6, 12, 12)
LOW, HIGH = torch.full((3,), -1.0), torch.full((3,), 2.0)
TARGETS = torch.tensor([0, 4, 2, 2])
METHODS = pytest.mark.parametrize("name", explain.methods())


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(3, 6, 3, padding=1), nn.Conv3d(6, 6, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm3d(6), nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool3d(self.relu(self.conv1(x)), (1, 2, 2))
        x = self.relu(self.norm(self.conv2(x)) + x)
        return self.fc(x.mean((2, 3, 4)))


def clips(n: int = 4, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(4)).to(dtype) * 3 - 1


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    return trace(Model().eval(), SHAPE, low=LOW, high=HIGH)


# --- what every method promises -----------------------------------------------------------------


@METHODS
def test_a_method_gives_one_finite_cube_a_clip(name: str, graph: Graph) -> None:
    cube = explain.method(name)(Forward(graph, clips()), TARGETS)
    assert cube.shape == (4, *SHAPE[1:])
    assert cube.dtype == torch.float32
    assert not cube.requires_grad
    assert cube.isfinite().all()
    assert (cube.flatten(1).abs().amax(dim=1) > 0).all()


@METHODS
@pytest.mark.parametrize("value", [-1.0, 0.0, 2.0])
def test_a_method_is_finite_on_clips_without_content(name: str, value: float, graph: Graph) -> None:
    forward = Forward(graph, torch.full((2, *SHAPE), value))
    assert explain.method(name)(forward, TARGETS[:2]).isfinite().all()


@METHODS
def test_a_method_changes_nothing_that_another_one_reads(name: str, graph: Graph) -> None:
    """Whatever ran before it on the same forward pass, a method gives the same bits."""
    forward = Forward(graph, clips())
    first = explain.method(name)(forward, TARGETS).clone()
    kept = [forward.value(i).clone() for i in range(len(graph.nodes) + 1)]
    for other in explain.methods():
        explain.method(other)(forward, TARGETS)
    assert all(torch.equal(forward.value(i), value) for i, value in enumerate(kept))
    assert torch.equal(forward.clips, clips())
    assert torch.equal(explain.method(name)(forward, TARGETS), first)
    assert torch.equal(explain.method(name)(Forward(graph, clips()), TARGETS), first)


@METHODS
def test_a_batch_of_n_is_n_singles_in_double_precision(name: str) -> None:
    """In single precision a rounding may turn the winner of a pooling between two equal voxels."""
    torch.manual_seed(0)
    exact = trace(Model().double().eval(), SHAPE, low=LOW, high=HIGH)
    x = clips(dtype=torch.float64)
    together = explain.method(name)(Forward(exact, x), TARGETS)
    for i, cube in enumerate(together):
        alone = explain.method(name)(Forward(exact, x[i : i + 1]), TARGETS[i : i + 1])[0]
        assert (alone - cube).abs().max() <= 1e-13 * cube.abs().max()


@METHODS
def test_a_batch_of_n_is_n_singles_in_single_precision(name: str, graph: Graph) -> None:
    together = explain.method(name)(Forward(graph, clips()), TARGETS)
    for i, cube in enumerate(together):
        alone = explain.method(name)(Forward(graph, clips()[i : i + 1]), TARGETS[i : i + 1])[0]
        assert (alone - cube).abs().max() <= 1e-6 * cube.abs().max()


@METHODS
def test_a_method_heeds_its_target(name: str, graph: Graph) -> None:
    forward = Forward(graph, clips())
    cubes = [explain.method(name)(forward, torch.full((4,), target)) for target in (0, 1)]
    assert not torch.allclose(*cubes)


@METHODS
def test_default_settings_are_those_of_a_plain_call(name: str, graph: Graph) -> None:
    settings = explain.default_settings(name)
    assert not {"forward", "targets"} & settings.keys()
    assert all(isinstance(value, (str, int, float, bool)) for value in settings.values())
    forward = Forward(graph, clips())
    plain, explicit = (
        explain.method(name)(forward, TARGETS),
        explain.method(name)(forward, TARGETS, **settings),
    )
    assert torch.equal(plain, explicit)


@METHODS
def test_a_method_gives_double_precision_for_double_precision(name: str, graph: Graph) -> None:
    torch.manual_seed(0)
    exact = trace(Model().double().eval(), SHAPE, low=LOW, high=HIGH)
    found = explain.method(name)(Forward(exact, clips(dtype=torch.float64)), TARGETS)
    single = explain.method(name)(Forward(graph, clips()), TARGETS)
    assert found.dtype == torch.float64
    assert (single - found).abs().max() <= 1e-4 * found.abs().max()


def test_an_unknown_method_is_refused_with_those_known() -> None:
    with pytest.raises(ValueError, match="'magic'.*deep_taylor, .*grad_cam"):
        explain.method("magic")


# --- the passes -----------------------------------------------------------------------------------


def test_a_backward_pass_is_linear_in_its_start(graph: Graph) -> None:
    forward = Forward(graph, clips())
    starts = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    for rules in (sensitivity.RULES, deep_taylor.rules(1.0), deep_taylor.rules(2.0)):
        one, two, both = (
            forward.backward(rules, s) for s in (starts[0], starts[1], starts[0] - 2 * starts[1])
        )
        torch.testing.assert_close(both, one - 2 * two, rtol=1e-4, atol=1e-5 * both.abs().max().item())


def test_a_start_is_left_as_it_was(graph: Graph) -> None:
    forward = Forward(graph, clips())
    start = forward.at_target(TARGETS, torch.tensor([1.0, -2.0, 0.5, 3.0]))
    assert start.sum(dim=1).tolist() == [1.0, -2.0, 0.5, 3.0]
    assert start.argmax(dim=1)[[0, 2, 3]].tolist() == TARGETS[[0, 2, 3]].tolist()
    before = start.clone()
    forward.backward(deep_taylor.rules(2.0), start)
    assert torch.equal(start, before)


def test_relevance_is_kept_at_every_value_on_the_way(graph: Graph) -> None:
    """Every value that all paths cross holds all of it."""
    forward = Forward(graph, clips())
    start = forward.at_target(TARGETS)
    counts = [sum(node.inputs.count(i) for node in graph.nodes) for i in range(len(graph.nodes))]
    crossed = [i for i in range(len(graph.nodes)) if i <= counts.index(2) or i > counts.index(2) + 4]
    assert crossed == [0, 1, 2, 3, 8]
    for position in crossed:
        relevance = forward.backward(deep_taylor.rules(1.0), start, stop=position)
        sums = relevance.double().flatten(1).sum(dim=1)
        torch.testing.assert_close(sums, torch.ones(4, dtype=torch.float64), rtol=0, atol=1e-5)


def test_what_is_computed_once_is_told_apart_by_method_target_and_settings(graph: Graph) -> None:
    forward = Forward(graph, clips())
    calls = []

    def method(forward: Forward, targets: Tensor, *, size: float = 1.0) -> Tensor:
        calls.append((targets.tolist(), size))
        return targets * size

    for _ in range(2):
        forward.once(method, TARGETS, {"size": 2.0})
        forward.once(method, TARGETS + 0, {"size": 3.0})
        forward.once(method, TARGETS.flip(0), {"size": 2.0})
    assert calls == [([0, 4, 2, 2], 2.0), ([0, 4, 2, 2], 3.0), ([2, 2, 4, 0], 2.0)]


def test_a_graph_serves_any_number_of_passes_and_batch_sizes(graph: Graph) -> None:
    """Constants that are remembered (W+, the zB corner) depend on no clip."""
    fresh = copy.copy(graph)
    for n in (3, 1, 4):
        found = deep_taylor.explain(Forward(graph, clips(n)), TARGETS[:n])
        torch.testing.assert_close(found, deep_taylor.explain(Forward(fresh, clips()), TARGETS)[:n])


def test_grad_cam_needs_no_backward_pass_below_its_maps(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    visited = []
    step = Forward._step
    monkeypatch.setattr(Forward, "_step", lambda f, i, node: visited.append(i) or step(f, i, node))
    forward = Forward(graph, clips())
    grad_cam.explain(forward, TARGETS)
    assert graph.cam_value is not None and min(visited) == graph.cam_value + 1
    visited.clear()
    gradient_x_input.explain(forward, TARGETS)
    assert min(visited) == 1
