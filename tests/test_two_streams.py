"""A model of two inputs, as of frames and flow: every method gives a cube for each."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selrel import explain
from selrel.engine import Forward, Graph, UnsupportedModel, trace
from selrel.explain import deep_taylor, grad_cam
from selrel.explain.deep_taylor import conservation_error

# The second has fewer channels and another window.
SHAPES = ((3, 4, 6, 8), (2, 8, 5, 7))
LOWS = (torch.full((3,), -1.0), torch.tensor([-2.0, -0.5]))
HIGHS = (torch.full((3,), 2.0), torch.tensor([1.0, 3.0]))
TARGETS = torch.tensor([0, 3, 3])
# Grad-CAM needs a map that sees both inputs.
METHODS = pytest.mark.parametrize(
    "name", sorted({*explain.methods()} - {"discriminative", "grad_cam", "guided_grad_cam"})
)


class TwoStreams(nn.Module):
    """Convolutions for each input, and one linear layer behind the concatenated features of both."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.frames = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool3d(2))
        self.flow = nn.Sequential(
            nn.Conv3d(2, 5, 3, padding=1, bias=False),
            nn.BatchNorm3d(5),
            nn.ReLU(),
            nn.Conv3d(5, 3, 1, bias=False),
            nn.ReLU(),
        )
        self.fc = nn.Linear(7, 4)

    def forward(self, frames: Tensor, flow: Tensor) -> Tensor:
        maps = self.frames(frames), self.flow(flow)
        return self.fc(torch.cat([y.mean((2, 3, 4)) for y in maps], dim=1))


class Joined(TwoStreams):
    """The maps of both are brought to one size and side by side before they are pooled."""

    def forward(self, frames: Tensor, flow: Tensor) -> Tensor:
        maps = self.frames(frames), F.adaptive_max_pool3d(self.flow(flow), (2, 3, 4))
        return self.fc(torch.cat(maps, dim=1).relu().mean((2, 3, 4)))


def clips(n: int = 3, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(7)
    frames, flow = (
        low.view(-1, 1, 1, 1) + torch.rand(3, *shape, generator=draw) * (high - low).view(-1, 1, 1, 1)
        for shape, low, high in zip(SHAPES, LOWS, HIGHS, strict=True)
    )
    return frames[:n].to(dtype), flow[:n].to(dtype)


def traced(model: nn.Module) -> Graph:
    return trace(model.eval(), SHAPES, low=LOWS, high=HIGHS)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return traced(TwoStreams().double())


def gradients(x: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    leaves = [part.clone().requires_grad_() for part in x]
    logits = TwoStreams().double().eval()(*leaves)
    return torch.autograd.grad(logits.gather(1, TARGETS[:, None]).sum(), leaves)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_logits_are_the_models(dtype: torch.dtype) -> None:
    model = TwoStreams().to(dtype).eval()
    torch.testing.assert_close(Forward(traced(model), clips(dtype=dtype)).logits, model(*clips(dtype=dtype)))


@METHODS
def test_a_method_gives_a_cube_for_each_input(name: str, graph: Graph) -> None:
    cubes = explain.method(name)(Forward(graph, clips()), TARGETS)
    assert [cube.shape for cube in cubes] == [(3, *shape[1:]) for shape in SHAPES]
    assert all(cube.isfinite().all() and cube.abs().max() > 0 for cube in cubes)


@METHODS
def test_a_batch_of_n_is_n_singles(name: str, graph: Graph) -> None:
    together = explain.method(name)(Forward(graph, clips()), TARGETS)
    for i in range(len(TARGETS)):
        single = tuple(x[i : i + 1] for x in clips())
        alone = explain.method(name)(Forward(graph, single), TARGETS[i : i + 1])
        for one, cube in zip(alone, together, strict=True):
            assert (one[0] - cube[i]).abs().max() <= 1e-12 * cube.abs().max()


def test_relevance_sums_up_over_both_inputs(graph: Graph) -> None:
    forward = Forward(graph, clips())
    cubes = deep_taylor.explain(forward, TARGETS)
    assert conservation_error(cubes).max() < 1e-12
    # Neither input has all of it.
    shares = [cube.sum(dim=(1, 2, 3)) for cube in cubes]
    assert all(((share > 0.01) & (share < 0.99)).all() for share in shares)


def test_gradients_are_autograds_for_each_input(graph: Graph) -> None:
    forward = Forward(graph, clips())
    expected = gradients(clips())
    for found, slope, x in zip(
        explain.method("gradient_x_input")(forward, TARGETS), expected, clips(), strict=True
    ):
        torch.testing.assert_close(found, (slope * x).sum(dim=1), rtol=1e-10, atol=1e-14)
    for found, slope in zip(explain.method("sensitivity")(forward, TARGETS), expected, strict=True):
        torch.testing.assert_close(found, slope.square().sum(dim=1), rtol=1e-10, atol=1e-14)


def test_each_input_has_its_own_bounds(graph: Graph) -> None:
    """An input at its lowest gets nothing from positive weights, whatever the other one's bounds are."""
    model = TwoStreams().double()
    with torch.no_grad():
        model.flow[0].weight.abs_()
    frames, flow = clips()
    dark = LOWS[1].double().view(-1, 1, 1, 1).expand_as(flow).contiguous()
    _, cube = deep_taylor.explain(Forward(traced(model), (frames, dark)), TARGETS)
    assert (cube == 0).all()
    _, cube = deep_taylor.explain(Forward(traced(model), (frames, flow)), TARGETS)
    assert cube.abs().max() > 0


def test_an_input_that_the_model_ignores_gets_nothing() -> None:
    class First(TwoStreams):
        def forward(self, frames: Tensor, flow: Tensor) -> Tensor:
            return self.fc(torch.cat([self.frames(frames).mean((2, 3, 4))] * 2, dim=1)[:, :7])

    cubes = deep_taylor.explain(Forward(traced(First().double()), clips()), TARGETS)
    assert cubes[0].abs().max() > 0 and (cubes[1] == 0).all()


def test_grad_cam_explains_a_map_that_sees_every_input(graph: Graph) -> None:
    joined = Forward(traced(Joined().double()), clips())
    for name in ("grad_cam", "guided_grad_cam"):
        cubes = explain.method(name)(joined, TARGETS)
        assert [cube.shape for cube in cubes] == [(3, *shape[1:]) for shape in SHAPES]
    with pytest.raises(ValueError, match="grad_cam needs a rectified feature map.* that sees every input"):
        grad_cam.explain(Forward(graph, clips()), TARGETS)


def test_one_of_two_inputs_is_refused(graph: Graph) -> None:
    with pytest.raises(ValueError, match="takes 2 inputs, but was given 1"):
        Forward(graph, clips()[0])


def test_two_inputs_for_a_model_of_one_can_not_be_traced() -> None:
    model = nn.Sequential(nn.Conv3d(3, 2, 1), nn.Flatten())
    with pytest.raises(UnsupportedModel, match=r"shape \(3, 4, 6, 8\) and \(2, 8, 5, 7\)"):
        traced(model)


def test_clips_of_several_inputs_are_not_frozen() -> None:
    forward = Forward(traced(TwoStreams().double()), clips())
    with pytest.raises(ValueError, match="models of one input, and this one takes 2; leave out the method"):
        explain.method("discriminative")(forward, TARGETS)
