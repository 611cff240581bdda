"""Published checkpoints restated: their keys and shapes by rule, and their forward pass in float64."""

import math

import torch
import torch.nn.functional as F

from selrel.models import COUNTER

INCEPTION = {
    "3b": (64, 96, 128, 16, 32, 32),
    "3c": (128, 128, 192, 32, 96, 64),
    "4b": (192, 96, 208, 16, 48, 64),
    "4c": (160, 112, 224, 24, 64, 64),
    "4d": (128, 128, 256, 24, 64, 64),
    "4e": (112, 144, 288, 32, 64, 64),
    "4f": (256, 160, 320, 32, 128, 128),
    "5b": (256, 160, 320, 32, 128, 128),
    "5c": (384, 192, 384, 48, 128, 128),
}
HASSONY2 = {
    "norm": "batch3d",
    "branches": ("branch_0", "branch_1.0", "branch_1.1", "branch_2.0", "branch_2.1", "branch_3.1"),
    "head": "conv3d_0c_1x1",
}
PIERGIAJ = {
    "norm": "bn",
    "branches": ("b0", "b1a", "b1b", "b2a", "b2b", "b3b"),
    "head": "logits",
}


def norm(name, width):
    """Shapes of a batch norm's five entries."""
    values = {f"{name}.{kind}": (width,) for kind in ("weight", "bias", "running_mean", "running_var")}
    return {**values, f"{name}.num_batches_tracked": ()}


def torchvision_shapes(name, *, widths=(64, 128, 256, 512), stem_middle=45, middle=None, classes=400):
    """r3d_18, mc3_18 or r2plus1d_18. `middle` is the width inside (2+1)D convolutions if not published."""
    first = widths[0]
    if name == "r2plus1d_18":
        shapes = {"stem.0.weight": (stem_middle, 3, 1, 7, 7), **norm("stem.1", stem_middle)}
        shapes |= {"stem.3.weight": (first, stem_middle, 3, 1, 1), **norm("stem.4", first)}
    else:
        shapes = {"stem.0.weight": (first, 3, 3, 7, 7), **norm("stem.1", first)}
    channels = first
    for stage, width in enumerate(widths, 1):
        for block in range(2):
            rule = channels * width * 27 // (channels * 9 + 3 * width)
            for number, wide in ((1, channels), (2, width)):
                own = f"layer{stage}.{block}.conv{number}"
                if name == "r2plus1d_18":
                    # Both convolutions of a block have the middle width of the first.
                    inside = middle or rule
                    shapes |= {f"{own}.0.0.weight": (inside, wide, 1, 3, 3), **norm(f"{own}.0.1", inside)}
                    shapes |= {f"{own}.0.3.weight": (width, inside, 3, 1, 1)}
                else:
                    time = 1 if name == "mc3_18" and stage > 1 else 3
                    shapes |= {f"{own}.0.weight": (width, wide, time, 3, 3)}
                shapes |= norm(f"{own}.1", width)
            if stage > 1 and block == 0:
                own = f"layer{stage}.0.downsample"
                shapes |= {f"{own}.0.weight": (width, channels, 1, 1, 1), **norm(f"{own}.1", width)}
            channels = width
    return {**shapes, "fc.weight": (classes, channels), "fc.bias": (classes,)}


def kenshohara_shapes(depth, *, shortcut="B", base=64, expansion=4, groups=1, classes=400):
    """ResNet of a depth; ResNeXt has expansion 2, twice the base and 32 groups."""
    counts = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[
        depth
    ]
    stem = base // 2 if expansion == 2 else base
    shapes = {"conv1.weight": (stem, 3, 7, 7, 7), **norm("bn1", stem)}
    channels = stem
    for stage, count in enumerate(counts):
        planes = base * 2**stage
        out = planes * (expansion if depth >= 50 else 1)
        for block in range(count):
            own = f"layer{stage + 1}.{block}"
            if depth >= 50:
                kernels = [(planes, channels, 1), (planes, planes // groups, 3), (out, planes, 1)]
            else:
                kernels = [(planes, channels, 3), (planes, planes, 3)]
            for number, (rows, columns, kernel) in enumerate(kernels, 1):
                shapes[f"{own}.conv{number}.weight"] = (rows, columns, kernel, kernel, kernel)
                shapes |= norm(f"{own}.bn{number}", rows)
            if shortcut == "B" and block == 0 and (stage > 0 or channels != out):
                shapes[f"{own}.downsample.0.weight"] = (out, channels, 1, 1, 1)
                shapes |= norm(f"{own}.downsample.1", out)
            channels = out
    return {**shapes, "fc.weight": (classes, channels), "fc.bias": (classes,)}


def i3d_shapes(publisher, *, divide=1, classes=400):
    """I3D in the names of HASSONY2 or PIERGIAJ; `divide` makes it narrow. Neither counts batches."""
    capital = publisher is PIERGIAJ

    def unit(name, rows, columns, kernel):
        shapes[f"{name}.conv3d.weight"] = (rows, columns, kernel, kernel, kernel)
        counted = norm(f"{name}.{publisher['norm']}", rows)
        shapes.update({key: shape for key, shape in counted.items() if shape})

    def named(name):
        return name.capitalize() if capital else name

    shapes = {}
    unit(named("conv3d_1a_7x7"), 64 // divide, 3, 7)
    unit(named("conv3d_2b_1x1"), 64 // divide, 64 // divide, 1)
    unit(named("conv3d_2c_3x3"), 192 // divide, 64 // divide, 3)
    channels = 192 // divide
    for stage, published in INCEPTION.items():
        w = [width // divide for width in published]
        columns = (channels, channels, w[1], channels, w[3], channels)
        for branch, rows, into, kernel in zip(
            publisher["branches"], w, columns, (1, 1, 3, 1, 3, 1), strict=True
        ):
            unit(f"{named('mixed_' + stage)}.{branch}", rows, into, kernel)
        channels = w[0] + w[2] + w[4] + w[5]
    head = publisher["head"]
    shapes[f"{head}.conv3d.weight"] = (classes, channels, 1, 1, 1)
    shapes[f"{head}.conv3d.bias"] = (classes,)
    return shapes


def random_state(shapes, *, seed=0):
    """Weights of about unit gain and random batch norm statistics, float32."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        kind = key.rpartition(".")[2]
        value = torch.randn(shape, generator=generator)
        if kind == "num_batches_tracked":
            value = torch.tensor(7)
        elif kind == "running_var" or (kind == "weight" and len(shape) == 1):
            value = torch.rand(shape, generator=generator) + 0.5
        elif len(shape) > 1:
            value *= math.sqrt(2 / math.prod(shape[1:]))
        else:
            value *= 0.2
        state[key] = value
    return state


def random_clips(n, shape, *, low, high, seed=0):
    """Normalised clips (n, channel, time, height, width), uniform between the bounds of each channel."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (bound.view(1, -1, 1, 1, 1) for bound in (low, high))
    return low + (high - low) * torch.rand((n, *shape), generator=generator)


def without_counters(shapes):
    return {key: shape for key, shape in shapes.items() if not key.endswith(COUNTER)}


# --- forward passes, from the published names alone -------------------------------------------


class Reference:
    """Reads weights by their published names; every value in float64."""

    def __init__(self, state):
        self.state = {key: value.double() for key, value in state.items()}

    def convolve(self, x, name, stride=1, padding=0, groups=1):
        return F.conv3d(
            x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), stride, padding, 1, groups
        )

    def normalise(self, x, name, eps=1e-5):
        weight, bias, mean, variance = (
            self.state[f"{name}.{kind}"].view(1, -1, 1, 1, 1)
            for kind in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / torch.sqrt(variance + eps) * weight + bias

    def linear(self, x, name):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]


def torchvision_forward(name, state, clips):
    net, x = Reference(state), clips.double()
    if name == "r2plus1d_18":
        x = net.normalise(net.convolve(x, "stem.0", (1, 2, 2), (0, 3, 3)), "stem.1").relu()
        x = net.normalise(net.convolve(x, "stem.3", 1, (1, 0, 0)), "stem.4").relu()
    else:
        x = net.normalise(net.convolve(x, "stem.0", (1, 2, 2), (1, 3, 3)), "stem.1").relu()

    def convolution(x, own, stride, flat):
        if name == "r2plus1d_18":
            inside = net.convolve(x, f"{own}.0.0", (1, stride, stride), (0, 1, 1))
            inside = net.normalise(inside, f"{own}.0.1").relu()
            out = net.convolve(inside, f"{own}.0.3", (stride, 1, 1), (1, 0, 0))
        elif flat:
            out = net.convolve(x, f"{own}.0", (1, stride, stride), (0, 1, 1))
        else:
            out = net.convolve(x, f"{own}.0", stride, 1)
        return net.normalise(out, f"{own}.1")

    for stage in (1, 2, 3, 4):
        flat = name == "mc3_18" and stage > 1
        for block in (0, 1):
            own, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            out = convolution(convolution(x, f"{own}.conv1", stride, flat).relu(), f"{own}.conv2", 1, flat)
            if f"{own}.downsample.0.weight" in state:
                down = net.convolve(x, f"{own}.downsample.0", (1 if flat else stride, stride, stride))
                x = net.normalise(down, f"{own}.downsample.1")
            x = (out + x).relu()
    return net.linear(x.mean((2, 3, 4)), "fc")


def kenshohara_forward(state, clips, *, groups=1):
    net, x = Reference(state), clips.double()
    x = net.normalise(net.convolve(x, "conv1", (1, 2, 2), 3), "bn1").relu()
    x = F.max_pool3d(x, 3, 2, 1)
    blocks = sorted({tuple(map(int, key[5:].split(".")[:2])) for key in state if key.startswith("layer")})
    for stage, block in blocks:
        own, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
        if f"{own}.conv3.weight" in state:
            out = net.normalise(net.convolve(x, f"{own}.conv1"), f"{own}.bn1").relu()
            out = net.normalise(net.convolve(out, f"{own}.conv2", stride, 1, groups), f"{own}.bn2").relu()
            out = net.normalise(net.convolve(out, f"{own}.conv3"), f"{own}.bn3")
        else:
            out = net.normalise(net.convolve(x, f"{own}.conv1", stride, 1), f"{own}.bn1").relu()
            out = net.normalise(net.convolve(out, f"{own}.conv2", 1, 1), f"{own}.bn2")
        if f"{own}.downsample.0.weight" in state:
            x = net.normalise(net.convolve(x, f"{own}.downsample.0", stride), f"{own}.downsample.1")
        elif out.shape != x.shape:
            x = F.avg_pool3d(x, 1, stride)
            zeros = torch.zeros(len(x), out.shape[1] - x.shape[1], *x.shape[2:], dtype=x.dtype)
            x = torch.cat([x, zeros], dim=1)
        x = (out + x).relu()
    # As published in 2018: a kernel of what is left of 16 frames of 112x112, its stride 1.
    return net.linear(F.avg_pool3d(x, x.shape[2:], 1).flatten(1), "fc")


def i3d_forward(publisher, state, clips):
    net = Reference(state)

    def padded(x, kernel, stride):
        """Zeros around each axis, by the rule of piergiaj's compute_pad."""
        pads = []
        for length, window, step in zip(x.shape[2:], kernel, stride, strict=True):
            total = max(window - (length % step or step), 0)
            pads = [total // 2, total - total // 2, *pads]
        return F.pad(x, pads)

    def unit(x, name, kernel=1, stride=1):
        x = padded(x, (kernel,) * 3, (stride,) * 3)
        return net.normalise(
            net.convolve(x, f"{name}.conv3d", stride), f"{name}.{publisher['norm']}", 1e-3
        ).relu()

    def pool(x, kernel, stride):
        return F.max_pool3d(padded(x, kernel, stride), kernel, stride)

    def named(name):
        return name.capitalize() if publisher is PIERGIAJ else name

    x = unit(clips.double(), named("conv3d_1a_7x7"), 7, 2)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, named("conv3d_2b_1x1")), named("conv3d_2c_3x3"), 3)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for stage in INCEPTION:
        if stage == "4b":
            x = pool(x, (3, 3, 3), (2, 2, 2))
        elif stage == "5b":
            x = pool(x, (2, 2, 2), (2, 2, 2))
        b = [f"{named('mixed_' + stage)}.{branch}" for branch in publisher["branches"]]
        branches = (
            unit(x, b[0]),
            unit(unit(x, b[1]), b[2], 3),
            unit(unit(x, b[3]), b[4], 3),
            unit(pool(x, (3, 3, 3), (1, 1, 1)), b[5]),
        )
        x = torch.cat(branches, dim=1)
    x = F.avg_pool3d(x, (2, 7, 7), 1)
    return net.convolve(x, f"{publisher['head']}.conv3d").squeeze(3).squeeze(3).mean(2)


# --- narrow checkpoints of every kind ----------------------------------------------------------

NARROW = {"widths": (4, 5, 6, 7), "classes": 3}
OLD = "resnet3d-kenshohara-cvpr2018"
NEW = "resnet3d-kenshohara-2020"


# name: (family, narrow shapes, forward in float64, (time, height, width) of a small clip)
CASES = {
    name: (
        name,
        torchvision_shapes(name, **NARROW, stem_middle=3, middle=9),
        lambda state, clips, name=name: torchvision_forward(name, state, clips),
        (9, 37, 41),
    )
    for name in ("r3d_18", "mc3_18", "r2plus1d_18")
}
CASES |= {
    f"resnet3d-{depth}{shortcut}-{family[-4:]}": (
        family,
        (without_counters if family == OLD else dict)(
            kenshohara_shapes(depth, shortcut=shortcut, base=4, classes=3)
        ),
        kenshohara_forward,
        (16, 33, 36),
    )
    for depth, shortcut, family in (
        (10, "A", OLD),
        (18, "A", OLD),
        (34, "A", OLD),
        (50, "B", OLD),
        (18, "B", NEW),
        (34, "B", NEW),
        (50, "B", NEW),
    )
}
CASES["resnext-50"] = (
    OLD,
    without_counters(kenshohara_shapes(50, base=8, expansion=2, groups=4, classes=3)),
    lambda state, clips: kenshohara_forward(state, clips, groups=4),
    (16, 36, 33),
)
CASES |= {
    family: (
        family,
        i3d_shapes(publisher, divide=16, classes=3),
        lambda state, clips, publisher=publisher: i3d_forward(publisher, state, clips),
        (13, 201, 224),
    )
    for family, publisher in (("i3d-hassony2", HASSONY2), ("i3d-piergiaj", PIERGIAJ))
}
