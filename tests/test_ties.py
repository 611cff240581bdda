"""What rounding does not choose: winners of poolings, states of rectifiers, predictions."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selrel.engine import Forward, gradient_rule, ties, trace
from selrel.engine.operations.max_pool import MaxPool
from selrel.engine.operations.relu import Relu
from selrel.engine.ties import adaptive_windows, first_highest, regular_windows, to_first, where_positive
from selrel.explain import guided_backprop
from tests import slow_relevance
from tests.slow_relevance import SlowRelevance, Value
from tests.test_deep_taylor import (
    CLIP,
    FLAT,
    HIGH,
    LOW,
    MAX_POOLINGS,
    NETWORKS,
    Network,
    agree_everywhere,
    network,
    pixels,
    special_clips,
)
from tests.test_operations import CASES

EVERY_NETWORK = pytest.mark.parametrize("kind", NETWORKS)
PROCESSORS: dict[str, dict[str, str]] = {
    "this one": {},
    "default": {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def decisions(kind: type[nn.Module], dtype: torch.dtype, clips: Tensor) -> list[Tensor]:
    """What every pooling and rectifier gives each of its inputs, of 1 that arrives at each output."""
    graph = trace(network(kind, dtype=dtype), CLIP, low=LOW, high=HIGH)
    forward = Forward(graph, clips.to(dtype))
    steps = [forward._step(*found) for found in enumerate(graph.nodes, start=1)]
    deciding = [step for step in steps if isinstance(step.node.operation, MaxPool | Relu)]
    return [gradient_rule(step, torch.ones_like(step.output))[0].double() for step in deciding]


def same(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).abs().max() < 0.05


@EVERY_NETWORK
def test_still_and_uniform_clips_have_the_same_winners_in_both_precisions(
    kind: type[nn.Module], threads: Callable[[int], None]
) -> None:
    """With one and two threads, alone and in a batch, whose memory layouts and kernels differ."""
    clips = torch.stack(list(special_clips().values()))
    expected = decisions(kind, torch.float64, clips)
    for n in (1, 2):
        threads(n)
        same(decisions(kind, torch.float64, clips), expected)
        same(decisions(kind, torch.float32, clips), expected)
        alone = [decisions(kind, torch.float32, clip[None]) for clip in clips]
        same([torch.cat(parts) for parts in zip(*alone, strict=True)], expected)


@pytest.mark.slow
def test_still_and_uniform_clips_have_the_same_winners_on_every_processor(tmp_path: Path) -> None:
    found = {}
    for name, settings in PROCESSORS.items():
        path = tmp_path / f"{name}.pt"
        code = f"import sys, tests.test_ties as t; t.write_decisions({str(path)!r})"
        subprocess.run([sys.executable, "-c", code], env=os.environ | settings, check=True)
        found[name] = torch.load(path)
    for ours in found.values():
        for (kind, dtype), given in ours.items():
            same(given, found["this one"][kind, "float64"])
            assert dtype in ("float32", "float64")


def write_decisions(path: str) -> None:
    clips = torch.stack(list(special_clips().values()))
    torch.save(
        {
            (kind.__name__, str(dtype).removeprefix("torch.")): decisions(kind, dtype, clips)
            for kind in NETWORKS
            for dtype in (torch.float32, torch.float64)
        },
        path,
    )


@pytest.mark.parametrize("rectified", [True, False])
@pytest.mark.parametrize("pooling", [*MAX_POOLINGS, "adaptive"])
def test_many_near_ties_are_shared_as_the_rule_says(
    pooling: str, rectified: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values that differ by up to a twentieth count as equal, at least in part: most windows are close."""
    for module in (ties, slow_relevance):
        monkeypatch.setattr(module, "EQUAL", 0.05)
    geometry = MAX_POOLINGS.get(pooling, {})
    size = (2, 4, 3)
    if pooling == "adaptive":
        pool: nn.Module = nn.AdaptiveMaxPool3d(size)
    else:
        pool = nn.MaxPool3d(
            geometry["kernel"],
            geometry.get("stride"),
            geometry.get("padding", 0),
            geometry.get("dilation", 1),
            ceil_mode="shape" in geometry,
        )

    def rectify(x: Tensor) -> Tensor:
        return x.relu() if rectified else x

    model = Network(lambda m, x: pool(rectify(m.conv(x))).flatten(1), conv=nn.Conv3d(3, 2, 1))

    def slow(s: SlowRelevance, x: Value) -> Value:
        y = s.layer(x, model.conv)
        y = s.relu(y) if rectified else y
        pooled = s.adaptive_max_pooled(y, size) if pooling == "adaptive" else s.max_pooled(y, **geometry)
        return s.moved(pooled, FLAT)

    agree_everywhere(model, slow)


@pytest.mark.parametrize("name", [*(kind.__name__ for kind in NETWORKS), *CASES])
def test_a_network_with_many_near_ties(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, zeros and winners behind one another, as the restatement has them."""
    for module in (ties, slow_relevance):
        monkeypatch.setattr(module, "EQUAL", 0.05)
    if name in CASES:
        case, model = CASES[name], CASES[name].model()
        agree_everywhere(model, lambda s, x: case.slow(model, s, x))
    else:
        (kind,) = (kind for kind in NETWORKS if kind.__name__ == name)
        model = network(kind)
        agree_everywhere(model, model.slow, shape=CLIP)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_rectifier_and_a_pooling_change_places_where_no_windows_overlap(overlapping: bool) -> None:
    """Only there guided backpropagation gives the same, which cuts off what a rectifier gets in all."""
    pool = partial(F.max_pool3d, kernel_size=2, stride=1 if overlapping else 2)
    model = Network(
        lambda m, x: m.fc(m.last(pool(m.first(x).relu())).relu().mean((2, 3, 4))),
        first=nn.Conv3d(3, 4, 3, padding=1),
        last=nn.Conv3d(4, 4, 2, padding=1),
        fc=nn.Linear(4, 5),
    )
    with torch.no_grad():
        model.fc.weight.abs_()
    clips = pixels(2, CLIP)
    forward = Forward(trace(model.double().eval(), CLIP, low=LOW, high=HIGH), clips)
    order = [type(node.operation) for node in forward.graph.nodes[1:3]]
    assert order == ([Relu, MaxPool] if overlapping else [MaxPool, Relu])
    torch.testing.assert_close(forward.logits, model(clips))
    # Below 0, as the first layer's rule must find it.
    assert forward.value(1).min() < 0
    rectified = []

    def hook(gradient: Tensor) -> Tensor:
        rectified.append(gradient)
        return gradient.clamp(min=0)

    x = clips.clone().requires_grad_()
    first = model.first(x)
    y = first.relu() * 1
    first.register_hook(hook)
    last = model.last(pool(y))
    last.register_hook(hook)
    (expected,) = torch.autograd.grad(model.fc(last.relu().mean((2, 3, 4)))[:, 1].sum(), x)
    assert (rectified[-1] < 0).any()
    found = guided_backprop.explain(forward, torch.tensor([1, 1]))
    torch.testing.assert_close(found, expected.sum(dim=1))


@pytest.mark.parametrize(
    "kernel, stride, padding", [((2, 2, 2), (2, 2, 2), (0, 0, 0)), ((3, 3, 3), (1, 2, 2), (1, 1, 1))]
)
def test_the_library_with_close_windows_mended_is_the_rule(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: tuple[int, ...]
) -> None:
    """On values of which many are the same, and many differ by a rounding."""
    model = Network(lambda m, x: F.max_pool3d(x, kernel, stride, padding).flatten(1), unused=nn.Linear(1, 1))
    draw = torch.Generator().manual_seed(3)
    clips = (
        torch.randint(1, 4, (2, *CLIP), generator=draw)
        / 4
        * (1 + 1e-7 * torch.rand(2, *CLIP, generator=draw))
    )
    graph = trace(model.eval(), CLIP, low=LOW, high=HIGH)
    step = Forward(graph, clips)._step(1, graph.nodes[0])
    gradient = torch.randn(step.output.shape, generator=draw)
    (found,) = gradient_rule(step, gradient.clone())
    expected = to_first(gradient, step.inputs[0], step.node.operation.windows, step.rounding[0])
    torch.testing.assert_close(found, expected)
    (plain,) = torch.autograd.grad(
        F.max_pool3d(x := clips.clone().requires_grad_(), kernel, stride, padding), x, gradient
    )
    assert not torch.allclose(found, plain)


def test_the_first_of_equal_values_wins_and_no_border_is_sharp() -> None:
    equal, top = 1e-3, torch.tensor(1.0)
    windows = (regular_windows(3, 1, kernel=3, stride=3, padding=0, dilation=1),)
    width = (equal + ties.EQUAL) / 2
    for below, share in ((0, 1), (0.5, 1), (1, 1), (1.25, 0.75), (1.5, 0.5), (2, 0), (3, 0)):
        x = torch.stack([top - below * width, top, top]).double()[None, None]
        found = to_first(torch.full((1, 1, 1), 4.0).double(), x, windows, torch.tensor([[[equal]]]).double())
        assert found[0, 0].tolist() == pytest.approx([4 * share, 4 * (1 - share), 0], abs=1e-3)


def test_a_rectifier_is_off_where_its_input_counts_as_zero() -> None:
    x = torch.tensor([[-1.0, 0.0, 0.4, 0.5, 0.75, 1.0, 7.0]])
    found = where_positive(torch.full_like(x, 2.0), x, torch.ones(1, 1))
    assert found.tolist() == [[0, 0, 0, 0, 1, 2, 2]]


def test_a_prediction_is_the_first_class_that_counts_as_highest() -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0 + 1e-6], [3.0, 1.0, 3.1], [0.0, 0.0, 0.0], [-2.0, -1.0, -1.0]])
    assert first_highest(logits).tolist() == [1, 2, 0, 1]


def test_windows_of_poolings() -> None:
    assert adaptive_windows(6, 3) == regular_windows(6, 3, kernel=2, stride=2, padding=0, dilation=1)
    assert adaptive_windows(3, 1) == tuple((slice(0, 1), slice(j, j + 1, 3)) for j in range(3))
    assert adaptive_windows(5, 2)[2:4] == ((slice(0, 1), slice(2, 3)), (slice(1, 2), slice(2, 3)))
