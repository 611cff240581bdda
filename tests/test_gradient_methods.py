"""The gradient methods against Captum's, on networks that Captum's hooks can follow."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from captum.attr import (
    GuidedBackprop,
    InputXGradient,
    LayerAttribution,
    LayerGradCam,
    Saliency,
)
from torch import Tensor, nn

from selrel.engine import Forward, ties, trace
from selrel.explain import (
    grad_cam,
    gradient_x_input,
    guided_backprop,
    guided_grad_cam,
    sensitivity,
)

SHAPE = (3, 8, 16, 16)
LOW, HIGH = torch.full((3,), -1.0), torch.full((3,), 2.0)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def plain_winners(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captum and autograd take the highest by its last bit, so here nothing but the same counts as equal."""
    monkeypatch.setattr(ties, "EQUAL", 2.0**-22)


class Plain(nn.Module):
    """C3D in small; a module of its own for every rectifier, as Captum needs."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv3d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool3d((1, 2, 2)),
            nn.Conv3d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool3d(2),
            nn.Conv3d(8, 12, 3, padding=1),
        )
        self.last = nn.ReLU()
        self.head = nn.Sequential(
            nn.MaxPool3d(2, padding=(0, 1, 1)),
            nn.Flatten(),
            nn.Linear(12 * 2 * 9, 16),
            nn.ReLU(),
            nn.Linear(16, 6),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.features(x)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv3d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.first, self.second = nn.BatchNorm3d(width), nn.BatchNorm3d(width)
        self.inner, self.outer = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.second(self.two(self.inner(self.first(self.one(x))))) + x)


class Residual(nn.Module):
    """Blocks with batch norms and a mean at the end; a batch norm by itself before the last map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 8, 3, (1, 2, 2), 1), nn.ReLU(), nn.AvgPool3d((1, 2, 2)))
        self.one, self.two = Block(8), Block(8)
        self.norm, self.last = nn.BatchNorm3d(8), nn.ReLU()
        self.fc = nn.Linear(8, 6)
        nn.init.normal_(self.fc.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.last(self.norm(self.two(self.one(self.stem(x))))).mean((2, 3, 4)))


def network(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(2)
    model = kind()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, -0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


NETWORKS = pytest.mark.parametrize("kind", [Plain, Residual])
TARGETS = torch.tensor([0, 2, 0])


def clips() -> Tensor:
    return torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(5)) * 3 - 1


def traced(model: nn.Module) -> Forward:
    return Forward(trace(model, SHAPE, low=LOW, high=HIGH), clips())


def near(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape == (3, *SHAPE[1:])
    assert expected.abs().flatten(1).amax(dim=1).min() > 0
    for ours, theirs in zip(found, expected.detach(), strict=True):
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()


def captums_grad_cam(model: nn.Module) -> Tensor:
    cam = LayerGradCam(model, model.last).attribute(clips(), target=TARGETS, relu_attributions=True)
    return LayerAttribution.interpolate(cam, SHAPE[1:], "trilinear")[:, 0]


def captums_guided_backprop(model: nn.Module) -> Tensor:
    return GuidedBackprop(model).attribute(clips().requires_grad_(), target=TARGETS).sum(dim=1)


@NETWORKS
def test_guided_backprop(kind: type[nn.Module]) -> None:
    near(guided_backprop.explain(traced(network(kind)), TARGETS), captums_guided_backprop(network(kind)))


@NETWORKS
def test_grad_cam(kind: type[nn.Module]) -> None:
    found = grad_cam.explain(traced(network(kind)), TARGETS)
    near(found, captums_grad_cam(network(kind)))
    assert found.min() >= 0


@NETWORKS
def test_guided_grad_cam(kind: type[nn.Module]) -> None:
    """Captum's own class upsamples by nearest neighbour, so its two halves are multiplied here."""
    expected = captums_guided_backprop(network(kind)) * captums_grad_cam(network(kind))
    near(guided_grad_cam.explain(traced(network(kind)), TARGETS), expected)


@NETWORKS
def test_gradient_x_input(kind: type[nn.Module]) -> None:
    expected = InputXGradient(network(kind)).attribute(clips().requires_grad_(), target=TARGETS)
    near(gradient_x_input.explain(traced(network(kind)), TARGETS), expected.sum(dim=1))


@NETWORKS
def test_sensitivity(kind: type[nn.Module]) -> None:
    forward = traced(network(kind))
    expected = Saliency(network(kind)).attribute(clips().requires_grad_(), target=TARGETS)
    near(sensitivity.explain(forward, TARGETS, measure="absolute"), expected.sum(dim=1))
    near(sensitivity.explain(forward, TARGETS), expected.square().sum(dim=1))


def test_sensitivity_refuses_an_unknown_measure() -> None:
    with pytest.raises(ValueError, match="'cubed'.*squared, absolute"):
        sensitivity.explain(traced(network(Plain)), TARGETS, measure="cubed")


def test_grad_cam_refuses_a_model_without_maps() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 16 * 16, 4), nn.ReLU(), nn.Linear(4, 6))
    with pytest.raises(ValueError, match="no(ne|t).*choose other methods"):
        grad_cam.explain(traced(model.eval()), TARGETS)


class Everything(nn.Module):
    """In-place and functional rectifiers, a reused one, branches and poolings that Captum can't follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = (
            nn.Conv3d(3, 6, 3, (1, 2, 2), 1),
            nn.Conv3d(6, 6, (3, 1, 1), padding=(1, 0, 0)),
        )
        self.norm, self.relu = nn.BatchNorm3d(6), nn.ReLU(inplace=True)
        self.fc = nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv(x[:, :, 1:]))
        y = self.relu(self.norm(self.other(x)))
        y = y + F.pad(x[..., 1:], (0, 1))
        y = torch.cat([F.max_pool3d(y, 3, 2, 1), F.avg_pool3d(y, 3, 2, 1)], dim=1)
        return self.fc(F.relu(F.adaptive_avg_pool3d(y, (2, 2, 2)), inplace=True).mean((-1, -2, -3)))


def test_the_plain_gradient_is_autograds() -> None:
    model = network(Everything)
    x = clips().requires_grad_()
    (gradient,) = torch.autograd.grad(model(x).gather(1, TARGETS[:, None]).sum(), x)
    near(gradient_x_input.explain(traced(model), TARGETS), (gradient * x).sum(dim=1))
