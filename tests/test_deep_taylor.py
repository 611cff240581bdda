"""Deep Taylor decomposition against a slow restatement, and its conservation."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selrel.engine import Forward, trace
from selrel.explain import deep_taylor
from selrel.explain.deep_taylor import conservation_error, rules
from selrel.models.c3d import C3D
from tests.slow_relevance import SlowRelevance, Value

LOW = torch.tensor([-1.0, -0.4, -2.1])
HIGH = torch.tensor([1.5, 0.9, 0.3])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Network(nn.Module):
    """A model given as a function of itself and the clips, with its layers as attributes."""

    def __init__(self, function: Callable[["Network", Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)
        scramble(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def scramble(model: nn.Module, seed: int = 0) -> None:
    """Random weights, and batch norms that have seen data; some factors negative."""
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.5, generator=draw)
            module.running_var.uniform_(0.3, 2, generator=draw)
            nn.init.uniform_(module.weight, -0.5, 1.5, generator=draw)
            nn.init.normal_(module.bias, 0, 0.5, generator=draw)
        elif getattr(module, "weight", None) is not None:
            nn.init.normal_(module.weight, 0, module.weight[0].numel() ** -0.5, generator=draw)
            if module.bias is not None:
                nn.init.normal_(module.bias, 0, 0.3, generator=draw)


def pixels(n: int, shape: tuple[int, ...], seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    unit = torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    low, high = (b.double().view(-1, 1, 1, 1) for b in (LOW, HIGH))
    return (low + unit * (high - low)).to(dtype)


def traced(model: nn.Module, shape: tuple[int, int, int, int], clips: Tensor) -> Forward:
    return Forward(trace(model.to(clips.dtype).eval(), shape, low=LOW, high=HIGH), clips)


def close(found: Tensor, expected: np.ndarray, tolerance: float) -> None:
    size = max(np.abs(expected).max(), 1e-12)
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=0, atol=tolerance * size)


def agree_everywhere(
    model: nn.Module,
    slow: Callable[[SlowRelevance, Value], Value],
    *,
    shape: tuple[int, int, int, int] = (3, 4, 6, 5),
    dtype: torch.dtype = torch.float64,
    clips: Tensor | None = None,
) -> list[SlowRelevance]:
    """Both decompose relevance of both signs, started at every output, of every clip."""
    clips = pixels(2, shape) if clips is None else clips
    forward = traced(model, shape, clips.to(dtype))
    start = torch.randn(forward.logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cubes = {a: forward.backward(rules(a), start.to(dtype)) for a in (1.0, 2.0)}
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    references = []
    for i, clip in enumerate(clips):
        reference = SlowRelevance(clip, LOW, HIGH)
        output = slow(reference, reference.clip)
        close(forward.logits[i], output.array.ravel(), tolerance)
        for alpha in (2.0, 1.0):
            expected = reference.decompose(output, start[i].numpy(), alpha=alpha)
            close(cubes[alpha][i], expected, tolerance)
            assert abs(expected.sum() + reference.lost - start[i].sum().item()) < 1e-9 * start[i].abs().sum()
        references.append(reference)
    return references


# --- linear layers ----------------------------------------------------------------------------

FRAME = lambda x: x[:, :, 0]  # noqa: E731
FLAT = lambda x: x.flatten(1)  # noqa: E731
SAME = lambda x: x  # noqa: E731

LAYERS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], nn.Module]]] = {
    "linear": (FLAT, lambda: nn.Linear(360, 7)),
    "linear without bias": (FLAT, lambda: nn.Linear(360, 7, bias=False)),
    "linear on the last axis": (lambda x: x.flatten(2), lambda: nn.Linear(120, 4)),
    "conv1d": (lambda x: x.flatten(2), lambda: nn.Conv1d(3, 4, 5, padding=2, stride=3)),
    "conv2d": (FRAME, lambda: nn.Conv2d(3, 4, 3, padding=1)),
    "conv2d stride": (FRAME, lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(2, 1))),
    "conv2d dilation groups": (FRAME, lambda: nn.Conv2d(3, 6, 2, dilation=(3, 2), groups=3, bias=False)),
    "conv3d": (SAME, lambda: nn.Conv3d(3, 4, 3, padding=1)),
    "conv3d no padding": (SAME, lambda: nn.Conv3d(3, 2, (1, 2, 3), bias=False)),
    "conv3d stride": (SAME, lambda: nn.Conv3d(3, 3, (3, 3, 2), stride=(2, 3, 1), padding=(1, 2, 0))),
    "conv3d dilation": (SAME, lambda: nn.Conv3d(3, 2, (2, 3, 2), dilation=(2, 1, 3), padding=(1, 1, 2))),
    "conv3d groups": (SAME, lambda: nn.Conv3d(3, 6, 3, groups=3, padding=1, stride=2)),
    "conv3d same": (SAME, lambda: nn.Conv3d(3, 2, (3, 5, 1), padding="same", dilation=(1, 1, 2))),
    "conv3d valid": (SAME, lambda: nn.Conv3d(3, 2, (3, 5, 1), padding="valid")),
}

SINGLE = ("linear", "conv2d stride", "conv3d groups", "conv3d dilation")
LAYERS_AND_PRECISIONS = [(n, torch.float64) for n in LAYERS] + [(n, torch.float32) for n in SINGLE]


@pytest.mark.parametrize("layer, dtype", LAYERS_AND_PRECISIONS)
def test_a_layer_on_pixels_rectified_and_signed_input(layer: str, dtype: torch.dtype) -> None:
    """The three side by side: what a pooling lets through is no pixel any more, and may be negative."""
    view, make = LAYERS[layer]
    model = Network(
        lambda m, x: torch.cat(
            [m.layer(view(y)).flatten(1) for y in (x, x.relu(), F.max_pool3d(x, 1))], dim=1
        ),
        layer=make(),
    )

    def slow(s: SlowRelevance, x: Value) -> Value:
        inputs = x, s.relu(x), s.max_pooled(x, (1, 1, 1))
        return s.concatenated([s.moved(s.layer(s.moved(y, view), model.layer), FLAT) for y in inputs])

    agree_everywhere(model, slow, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_one_sided_weights_and_empty_inputs(sign: float, dtype: torch.dtype) -> None:
    """Denominators of exactly zero: nothing excites, nothing inhibits, or nothing arrives."""
    model = Network(lambda m, x: m.layer(x.relu()).flatten(1), layer=nn.Conv3d(3, 4, 3, padding=1))
    with torch.no_grad():
        model.layer.weight.abs_()
        model.layer.weight[2:] *= sign
        model.layer.bias += 2
    clips = pixels(2, (3, 4, 6, 5))
    clips[0, :, :, :4] = -0.1
    references = agree_everywhere(
        model, lambda s, x: s.layer(s.relu(x), model.layer), dtype=dtype, clips=clips
    )
    assert abs(references[0].lost) > 0.1


@pytest.mark.parametrize("bias", [0.0, 1.0, 300.0])
def test_inhibition_in_the_shadow_of_a_bias_makes_no_relevance(bias: float) -> None:
    """W- a = output - bias - W+ a in float32: the rounding of a large bias must not divide."""
    model = Network(lambda m, x: m.layer(x.relu()).flatten(1), layer=nn.Conv3d(3, 4, 3, padding=1))
    with torch.no_grad():
        model.layer.weight.abs_()
        model.layer.bias.fill_(bias)
    agree_everywhere(model, lambda s, x: s.layer(s.relu(x), model.layer), dtype=torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("bias", [0.0, 300.0])
def test_pixels_at_their_bounds(bias: float, dtype: torch.dtype) -> None:
    """A black clip under a positive filter has a zB denominator of exactly zero, a white one hasn't."""
    model = Network(lambda m, x: m.layer(x).flatten(1), layer=nn.Conv3d(3, 4, 3, padding=1))
    with torch.no_grad():
        model.layer.weight[0].abs_()
        model.layer.weight[1].abs_().neg_()
        model.layer.bias.fill_(bias)
    clips = torch.stack([b.double().view(3, 1, 1, 1).expand(3, 4, 6, 5) for b in (LOW, HIGH)])
    references = agree_everywhere(
        model, lambda s, x: s.layer(x, model.layer), dtype=dtype, clips=clips.contiguous()
    )
    assert all(abs(reference.lost) > 0.1 for reference in references)


def test_padding_gets_and_takes_nothing() -> None:
    """Zero padding as an operation of its own equals the convolution's own padding."""
    inside = Network(lambda m, x: m.layer(x).flatten(1), layer=nn.Conv3d(3, 4, 3, padding=(1, 2, 0)))
    outside = Network(lambda m, x: m.layer(F.pad(x, (0, 0, 2, 2, 1, 1))).flatten(1), layer=nn.Conv3d(3, 4, 3))
    outside.load_state_dict(inside.state_dict())
    clips = pixels(2, (3, 4, 6, 5))
    found = [traced(model, (3, 4, 6, 5), clips) for model in (inside, outside)]
    start = torch.randn_like(found[0].logits)
    first, second = (f.backward(rules(1.0), start) for f in found)
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


# --- batch norm -------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_joins_the_layer_before_it(bias: bool) -> None:
    model = Network(
        lambda m, x: m.n3(m.fc(m.n2(m.c2(m.n1(m.c1(x)).relu())).relu().flatten(1))),
        c1=nn.Conv3d(3, 4, 3, bias=bias),
        n1=nn.BatchNorm3d(4),
        c2=nn.Conv3d(4, 4, 2, groups=2, bias=bias),
        n2=nn.BatchNorm3d(4),
        fc=nn.Linear(4 * 1 * 3 * 2, 5, bias=bias),
        n3=nn.BatchNorm1d(5),
    )

    def slow(s: SlowRelevance, x: Value) -> Value:
        y = s.relu(s.layer(x, model.c1, model.n1))
        y = s.relu(s.layer(y, model.c2, model.n2))
        return s.layer(s.moved(y, FLAT), model.fc, model.n3)

    agree_everywhere(model, slow)


def test_a_batch_norm_before_its_convolution_passes_relevance() -> None:
    """Pre-activation: the norm of a rectified map, then of a sum; the first conv feeds two."""
    model = Network(
        lambda m, x: m.fc(m.block(m, m.n0(m.c0(x).relu()))),
        c0=nn.Conv3d(3, 4, 3, padding=1),
        n0=nn.BatchNorm3d(4),
        n1=nn.BatchNorm3d(4),
        c1=nn.Conv3d(4, 4, 3, padding=1),
        n2=nn.BatchNorm3d(4),
        fc=nn.Linear(4, 5),
    )
    model.block = lambda m, y: m.n2(y + m.c1(m.n1(y).relu())).relu().mean((2, 3, 4))

    def slow(s: SlowRelevance, x: Value) -> Value:
        y = s.scaled(s.relu(s.layer(x, model.c0)), model.n0)
        z = s.layer(s.relu(s.scaled(y, model.n1)), model.c1)
        y = s.relu(s.scaled(s.added(y, z), model.n2))
        return s.layer(s.averaged(y, lambda t: t.mean((2, 3, 4))), model.fc)

    agree_everywhere(model, slow)


def test_a_batch_norm_on_pixels_moves_their_bounds() -> None:
    """Also where it turns them round; the convolution pads with zeros in the norm's units."""
    model = Network(
        lambda m, x: m.conv(m.norm(x)).flatten(1), norm=nn.BatchNorm3d(3), conv=nn.Conv3d(3, 4, 3, padding=1)
    )
    with torch.no_grad():
        model.norm.weight[1] = -0.7
    clips = pixels(2, (3, 4, 6, 5))
    clips[0, :, 0] = LOW.double().view(3, 1, 1)
    references = agree_everywhere(
        model, lambda s, x: s.layer(s.scaled(x, model.norm), model.conv), clips=clips
    )
    assert [reference.lost for reference in references] == [0.0, 0.0]


def test_a_batch_norm_over_another_axis_than_its_linear_layers_outputs() -> None:
    model = Network(
        lambda m, x: m.norm(m.fc(x.flatten(2))).relu().flatten(1),
        fc=nn.Linear(120, 3),
        norm=nn.BatchNorm1d(3),
    )

    def slow(s: SlowRelevance, x: Value) -> Value:
        y = s.layer(s.moved(x, lambda t: t.flatten(2)), model.fc)
        return s.relu(s.scaled(y, model.norm))

    agree_everywhere(model, slow)


# --- poolings, sums and moves -----------------------------------------------------------------

RELU_OR_SIGNED = pytest.mark.parametrize("rectified", [True, False])


def _input(model: Network, x: Tensor, rectified: bool) -> Tensor:
    y = model.conv(x)
    return y.relu() if rectified else y


def _slow_input(model: Network, s: SlowRelevance, x: Value, rectified: bool) -> Value:
    y = s.layer(x, model.conv)
    return s.relu(y) if rectified else y


MAX_POOLINGS = {
    "plain": {"kernel": (2, 2, 2)},
    "overlapping": {"kernel": (3, 2, 3), "stride": (1, 2, 1)},
    "padded": {"kernel": (2, 3, 3), "stride": (2, 1, 2), "padding": (1, 1, 1)},
    "dilated": {"kernel": (2, 2, 2), "stride": (1, 1, 1), "dilation": (2, 3, 1), "padding": (1, 1, 0)},
    "rounded up": {"kernel": (3, 4, 2), "stride": (3, 4, 2), "shape": (2, 2, 3)},
}


@RELU_OR_SIGNED
@pytest.mark.parametrize("pooling", MAX_POOLINGS)
def test_max_pooling_gives_to_the_winner(pooling: str, rectified: bool) -> None:
    geometry = MAX_POOLINGS[pooling]
    pool = nn.MaxPool3d(
        geometry["kernel"],
        geometry.get("stride"),
        geometry.get("padding", 0),
        geometry.get("dilation", 1),
        ceil_mode="shape" in geometry,
    )
    model = Network(lambda m, x: m.fc(pool(_input(m, x, rectified)).flatten(1)), conv=nn.Conv3d(3, 2, 1))
    inner = pool(torch.zeros(1, 2, 4, 6, 5)).numel()
    model.fc = nn.Linear(inner, 4)

    def slow(s: SlowRelevance, x: Value) -> Value:
        y = s.max_pooled(_slow_input(model, s, x, rectified), **geometry)
        return s.layer(s.moved(y, FLAT), model.fc)

    agree_everywhere(model, slow)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("level", [0.0, 0.25])
def test_ties_of_max_pooling_go_to_the_first(level: float, memory: torch.memory_format) -> None:
    clips = torch.full((2, 3, 4, 6, 5), level, dtype=torch.float64)
    clips[1, :, 1:3, 2:4, 2:] = 0.1
    clips[1, :, :, 4] = -0.3
    model = Network(
        lambda m, x: F.max_pool3d(x, (2, 3, 3), (1, 2, 1), (1, 1, 1)).flatten(1), unused=nn.Linear(1, 1)
    )
    slow = lambda s, x: s.max_pooled(x, (2, 3, 3), stride=(1, 2, 1), padding=(1, 1, 1))  # noqa: E731
    for dtype in (torch.float64, torch.float32):
        agree_everywhere(model, slow, clips=clips.to(memory_format=memory), dtype=dtype)


@RELU_OR_SIGNED
@pytest.mark.parametrize("size", [(1, 1, 1), (2, 4, 3), (4, 6, 5)])
def test_adaptive_max_pooling(size: tuple[int, int, int], rectified: bool) -> None:
    model = Network(
        lambda m, x: F.adaptive_max_pool3d(_input(m, x, rectified), size).flatten(1), conv=nn.Conv3d(3, 2, 1)
    )
    agree_everywhere(model, lambda s, x: s.adaptive_max_pooled(_slow_input(model, s, x, rectified), size))


AVERAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: F.avg_pool3d(x, 2),
    "padding counted": lambda x: F.avg_pool3d(x, 3, 2, 1, count_include_pad=True),
    "padding not counted": lambda x: F.avg_pool3d(x, 3, 2, 1, count_include_pad=False),
    "rounded up": lambda x: F.avg_pool3d(x, (3, 4, 2), (2, 3, 2), 1, ceil_mode=True),
    "another divisor": lambda x: F.avg_pool3d(x, (1, 3, 3), (1, 2, 1), divisor_override=4),
    "two-dimensional": lambda x: F.avg_pool2d(x[:, :, 1], 3, 2, 1),
    "adaptive": lambda x: F.adaptive_avg_pool3d(x, (3, 4, 2)),
    "adaptive, kept": lambda x: F.adaptive_avg_pool3d(x, (None, 6, 5)),
    "adaptive, global": lambda x: F.adaptive_avg_pool3d(x, 1),
    "adaptive, two-dimensional": lambda x: F.adaptive_avg_pool2d(x[:, :, 1], (4, 3)),
    "mean": lambda x: x.mean((2, 3, 4)),
    "mean of one axis": lambda x: x.mean(-3, keepdim=True),
    "mean over channels": lambda x: x.mean(1),
}


@pytest.mark.parametrize("average", AVERAGES)
def test_an_average_gives_in_proportion(average: str) -> None:
    """Of rectified and of signed maps; as the last operation, whose zero outputs may be started from."""
    function = AVERAGES[average]
    model = Network(
        lambda m, x: torch.cat([function(y).flatten(1) for y in (m.conv(x).relu(), m.conv(x))], dim=1),
        conv=nn.Conv3d(3, 2, 2, padding=1),
    )
    with torch.no_grad():
        model.conv.bias -= 0.6

    def slow(s: SlowRelevance, x: Value) -> Value:
        inputs = s.relu(s.layer(x, model.conv)), s.layer(x, model.conv)
        return s.concatenated([s.moved(s.averaged(y, function), FLAT) for y in inputs])

    agree_everywhere(model, slow)


def test_an_average_of_nothing_positive_gives_equally() -> None:
    model = Network(lambda m, x: F.avg_pool3d(m.conv(x).relu(), 2).flatten(1), conv=nn.Conv3d(3, 2, 1))
    with torch.no_grad():
        model.conv.bias.fill_(-50)
    slow = lambda s, x: s.averaged(s.relu(s.layer(x, model.conv)), lambda t: F.avg_pool3d(t, 2))  # noqa: E731
    references = agree_everywhere(model, slow)
    assert all(reference.lost == 0 for reference in references)


@RELU_OR_SIGNED
def test_an_addition_gives_by_positive_parts(rectified: bool) -> None:
    model = Network(
        lambda m, x: (_input(m, x, rectified) + m.other(x)).flatten(1),
        conv=nn.Conv3d(3, 2, 3, padding=1),
        other=nn.Conv3d(3, 2, 1),
    )

    def slow(s: SlowRelevance, x: Value) -> Value:
        return s.added(_slow_input(model, s, x, rectified), s.layer(x, model.other))

    references = agree_everywhere(model, slow)
    signs = np.concatenate(
        [[(v.array > 0).ravel() for v in r.values[-1].sources] for r in references], axis=1
    )
    assert {tuple(pair) for pair in signs.T} == {(a, b) for a in (True, False) for b in (True, False)}


def test_cancelling_summands_blow_nothing_up() -> None:
    model = Network(
        lambda m, x: (m.conv(x) + m.other(x)).flatten(1), conv=nn.Conv3d(3, 2, 1), other=nn.Conv3d(3, 2, 1)
    )
    with torch.no_grad():
        model.other.weight.copy_(-model.conv.weight)
        model.other.bias.copy_(-model.conv.bias + 1e-9)

    def slow(s: SlowRelevance, x: Value) -> Value:
        return s.added(s.layer(x, model.conv), s.layer(x, model.other))

    (reference, _) = agree_everywhere(model, slow)
    assert np.abs(reference.clip.relevance).sum() < 1e3


def test_moves_and_concatenations_take_relevance_back() -> None:
    cut: Callable[[Tensor], Tensor] = lambda t: t[:, :, 1:, ::2]  # noqa: E731
    mix: Callable[[Tensor], Tensor] = lambda t: F.pad(t, (1, 0, 0, 2)).transpose(1, 3)  # noqa: E731
    turn: Callable[[Tensor], Tensor] = lambda t: t.permute(0, 3, 2, 1, 4)[..., -2:].flatten(1)  # noqa: E731
    model = Network(
        lambda m, x: m.fc(turn(torch.cat([mix(m.conv(cut(x)).relu()), mix(cut(x)), mix(m.conv(cut(x)))], 1))),
        conv=nn.Conv3d(3, 3, 1),
        fc=nn.Linear(15 * 3 * 3 * 2, 6),
    )

    def slow(s: SlowRelevance, x: Value) -> Value:
        y = s.moved(x, cut)
        parts = [s.relu(s.layer(y, model.conv)), y, s.layer(y, model.conv)]
        whole = s.concatenated([s.moved(p, mix) for p in parts])
        # A concatenation with a map is no image any more.
        return s.layer(s.moved(whole, turn), model.fc)

    agree_everywhere(model, slow)


# --- whole networks ---------------------------------------------------------------------------


class SmallC3D(nn.Module):
    """C3D's shape in small: convolutions, poolings, padded last pooling, two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(3, 4, 3, padding=1), nn.Conv3d(4, 5, 3, padding=1)
        self.conv3a, self.conv3b = nn.Conv3d(5, 6, 3, padding=1), nn.Conv3d(6, 6, 3, padding=1)
        self.fc6, self.fc7, self.fc8 = nn.Linear(6 * 1 * 2 * 2, 8), nn.Linear(8, 8), nn.Linear(8, 5)
        self.relu, self.dropout = nn.ReLU(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(self.relu(self.conv1(x)), (1, 2, 2))
        x = F.max_pool3d(self.relu(self.conv2(x)), 2)
        x = self.relu(self.conv3b(self.relu(self.conv3a(x))))
        x = F.max_pool3d(x, 2, padding=(0, 1, 1)).view(x.size(0), -1)
        x = self.dropout(self.relu(self.fc6(x)))
        return self.fc8(self.dropout(self.relu(self.fc7(x))))

    def slow(self, s: SlowRelevance, x: Value) -> Value:
        # Windows are compared before the rectifier, but for the map that Grad-CAM explains.
        x = s.relu(s.max_pooled(s.layer(x, self.conv1), (1, 2, 2)))
        x = s.relu(s.max_pooled(s.layer(x, self.conv2), (2, 2, 2)))
        x = s.relu(s.layer(s.relu(s.layer(x, self.conv3a)), self.conv3b))
        x = s.moved(s.max_pooled(x, (2, 2, 2), padding=(0, 1, 1)), FLAT)
        for layer in (self.fc6, self.fc7):
            x = s.relu(s.layer(x, layer))
        return s.layer(x, self.fc8)


class SmallResNet(nn.Module):
    """Residual blocks as they are written: in-place and reused rectifiers, `+=`, a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(3, 4, 3, (1, 2, 2), 1, bias=False), nn.BatchNorm3d(4))
        self.relu = nn.ReLU(inplace=True)
        self.a = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4))
        self.b = nn.Sequential(nn.Conv3d(4, 4, 3, padding=1, bias=False), nn.BatchNorm3d(4))
        self.c = nn.Sequential(nn.Conv3d(4, 6, (3, 1, 1), 2, (1, 0, 0), bias=False), nn.BatchNorm3d(6))
        self.d = nn.Sequential(nn.Conv3d(6, 6, (1, 3, 3), padding=(0, 1, 1), bias=False), nn.BatchNorm3d(6))
        self.down = nn.Sequential(nn.Conv3d(4, 6, 1, 2, bias=False), nn.BatchNorm3d(6))
        self.pool = nn.AdaptiveAvgPool3d(1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool3d(self.relu(self.stem(x)), (1, 3, 3), (1, 2, 2), (0, 1, 1))
        kept = x
        x = self.b(self.relu(self.a(x)))
        x += kept
        x = self.relu(x)
        y = self.d(F.relu(self.c(x)))
        y += self.down(x)
        return self.fc(torch.flatten(self.pool(self.relu(y)), 1))

    def slow(self, s: SlowRelevance, x: Value) -> Value:
        x = s.relu(s.layer(x, self.stem))
        x = s.max_pooled(x, (1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1))
        x = s.relu(s.added(s.layer(s.relu(s.layer(x, self.a)), self.b), x))
        y = s.layer(s.relu(s.layer(x, self.c)), self.d)
        y = s.relu(s.added(y, s.layer(x, self.down)))
        return s.layer(s.moved(s.averaged(y, lambda t: t.mean((2, 3, 4), keepdim=True)), FLAT), self.fc)


class SmallPreActivation(nn.Module):
    """Pre-activation blocks: a rectified map that is added to one of both signs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv3d(3, 4, 3, (1, 2, 2), 1), nn.Conv3d(4, 4, 3, padding=1)
        self.conv3, self.norm = nn.Conv3d(4, 4, 3, padding=1), nn.BatchNorm3d(4)
        self.fc = nn.Linear(4 * 4 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x).relu_()
        x = x + self.conv2(x)
        x = x + self.conv3(F.relu(self.norm(x)))
        return self.fc(x.flatten(1))

    def slow(self, s: SlowRelevance, x: Value) -> Value:
        x = s.relu(s.layer(x, self.conv1))
        x = s.added(x, s.layer(x, self.conv2))
        x = s.added(x, s.layer(s.relu(s.scaled(x, self.norm)), self.conv3))
        return s.layer(s.moved(x, FLAT), self.fc)


class SmallInception(nn.Module):
    """Parallel branches that are concatenated, an average with stride 1, and logits averaged over time."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 4, 3, (1, 2, 2), padding=1)
        self.one, self.two = nn.Conv3d(4, 3, 1), nn.Conv3d(4, 2, 1)
        self.three, self.four = nn.Conv3d(2, 3, 3, padding=1), nn.Conv3d(4, 2, 1)
        self.logits = nn.Conv3d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x), inplace=True)
        pooled = F.max_pool3d(x, 3, 1, 1)
        branches = [self.one(x), self.three(self.two(x).relu_()), self.four(pooled)]
        x = torch.cat([F.relu(branch) for branch in branches], dim=1)
        x = F.avg_pool3d(x, (2, 4, 4), stride=(1, 1, 1))
        return self.logits(x).squeeze(3).squeeze(3).mean(2)

    def slow(self, s: SlowRelevance, x: Value) -> Value:
        x = s.relu(s.layer(x, self.stem))
        pooled = s.max_pooled(x, (3, 3, 3), stride=(1, 1, 1), padding=(1, 1, 1))
        three = s.layer(s.relu(s.layer(x, self.two)), self.three)
        parts = [s.layer(x, self.one), three, s.layer(pooled, self.four)]
        x = s.concatenated([s.relu(part) for part in parts])
        x = s.averaged(x, lambda t: F.avg_pool3d(t, (2, 4, 4), 1))
        return s.averaged(s.layer(x, self.logits), lambda t: t.mean((2, 3, 4)))


class SharedStem(nn.Module):
    """One stem sees the clip at two rates; two functional convolutions without a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 4, 3, padding=1)
        self.kernels = nn.ParameterList([torch.empty(4, 3, 2, 3, 3), torch.empty(4, 3, 2, 3, 3)])
        for seed, kernel in enumerate(self.kernels):
            nn.init.normal_(kernel, 0.1 * seed, 0.2, generator=torch.Generator().manual_seed(seed))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        slow, fast = self.stem(x[:, :, ::2]).relu(), self.stem(x).relu()
        others = [F.conv3d(x, kernel).relu() for kernel in self.kernels]
        return self.fc(torch.cat([y.mean((2, 3, 4)) for y in (slow, fast, *others)], dim=1))

    def slow(self, s: SlowRelevance, x: Value) -> Value:
        maps = [s.layer(s.moved(x, lambda t: t[:, :, ::2]), self.stem), s.layer(x, self.stem)]
        for kernel in self.kernels:
            conv = nn.Conv3d(3, 4, (2, 3, 3), bias=False)
            conv.weight = nn.Parameter(kernel.detach())
            maps.append(s.layer(x, conv))
        means = [s.averaged(s.relu(y), lambda t: t.mean((2, 3, 4))) for y in maps]
        return s.layer(s.concatenated(means), self.fc)


NETWORKS = [SmallC3D, SmallResNet, SmallPreActivation, SmallInception, SharedStem]
CLIP = (3, 4, 8, 8)


def network(kind: type[nn.Module], seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model = kind()
    scramble(model, seed)
    return model.to(dtype).eval()


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_layer_by_layer(kind: type[nn.Module]) -> None:
    model = network(kind)
    agree_everywhere(model, model.slow, shape=CLIP)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_in_single_precision(kind: type[nn.Module]) -> None:
    model = network(kind)
    agree_everywhere(model, model.slow, shape=CLIP, dtype=torch.float32)


# --- conservation -----------------------------------------------------------------------------


def special_clips() -> dict[str, Tensor]:
    """Clips in which much is equal: black, white, grey, all zero (the mean colour), a frame that stays."""
    black, white = (b.double().view(3, 1, 1, 1).expand(CLIP) for b in (LOW, HIGH))
    still = pixels(1, CLIP, seed=6)[0, :, 1:2].expand(CLIP)
    zero = torch.zeros(CLIP, dtype=torch.float64)
    return {"black": black, "white": white, "grey": (black + white) / 2, "zero": zero, "still": still}


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_cube_and_what_is_lost_add_up_to_the_start(kind: type[nn.Module]) -> None:
    """For logits of both signs, on ordinary and on constant clips, from 1 and from the logit."""
    model = network(kind)
    with torch.no_grad():
        list(model.parameters())[-1].copy_(torch.linspace(-3, 3, 5))
    clips = torch.cat([pixels(1, CLIP), torch.stack(list(special_clips().values()))])
    references = [SlowRelevance(clip, LOW, HIGH) for clip in clips]
    outputs = [model.slow(reference, reference.clip) for reference in references]
    for dtype, tolerance in ((torch.float64, 1e-8), (torch.float32, 2e-4)):
        forward = traced(model, CLIP, clips.to(dtype))
        logits = forward.logits.sort(dim=1)
        assert (logits.values[:, 0] < 0).all() and (logits.values[:, -1] > 0).all()
        for targets in (logits.indices[:, 0], logits.indices[:, -1]):
            cubes = {s: deep_taylor.explain(forward, targets, start=s) for s in ("one", "logit")}
            for i, (reference, output) in enumerate(zip(references, outputs, strict=True)):
                target = int(targets[i])
                expected = reference.decompose(output, np.eye(5)[target]).sum(axis=0)
                close(cubes["one"][i], expected, tolerance)
                assert abs(cubes["one"][i].double().sum().item() + reference.lost - 1) < 1e-4
                close(cubes["logit"][i] / forward.logits[i, target], expected, tolerance)


def test_full_c3d_of_little_width_keeps_its_relevance() -> None:
    """The real geometry in single precision; the widest first layer of an 8-fold narrower C3D."""
    torch.manual_seed(0)
    model = C3D((8, 8, 16, 16, 16, 16, 16, 16), (32, 32), n_outputs=5).eval()
    clips = pixels(2, (3, 16, 112, 112), dtype=torch.float32)
    forward = traced(model, (3, 16, 112, 112), clips)
    for targets in (forward.logits.argmax(dim=1), forward.logits.argmin(dim=1)):
        cube = deep_taylor.explain(forward, targets)
        assert conservation_error(cube).max() < 1e-4
        assert (cube >= -1e-7 * cube.max()).all()
        logits = forward.logits.gather(1, targets[:, None])[:, 0]
        from_logit = deep_taylor.explain(forward, targets, start="logit")
        assert conservation_error(from_logit, logits).max() < 1e-4


def test_conservation_error_is_relative_to_the_start() -> None:
    cube = torch.tensor([1.0, 2.0, 3.0, -1.0])[:, None, None, None].expand(4, 1, 1, 1)
    start = torch.tensor([1.0, 1.0, 2.0, -4.0])
    assert conservation_error(cube, start).tolist() == [0.0, 1.0, 0.5, 0.75]
    assert conservation_error(cube).tolist() == [0.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("alpha", [0.0, 0.999, -1.0])
def test_alpha_below_one_is_refused(alpha: float) -> None:
    forward = traced(network(SmallC3D), CLIP, pixels(1, CLIP))
    with pytest.raises(ValueError, match="at least 1"):
        deep_taylor.explain(forward, torch.tensor([0]), alpha=alpha)


def test_an_unknown_start_is_refused() -> None:
    forward = traced(network(SmallC3D), CLIP, pixels(1, CLIP))
    with pytest.raises(ValueError, match="'two'.*one, logit"):
        deep_taylor.explain(forward, torch.tensor([0]), start="two")
