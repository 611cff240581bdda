"""What the paper's four explanations cost, beside the libraries that offer them.

Ours and the peers (Captum; Zennit where it is installed) explain the same clips with the same C3D of
full width in turn. The unit is one plain forward pass of that model, timed in the same round, so that
a busy machine disturbs both. Checks first that all give the same cubes.

    python tests/benchmarks/explain.py [--clips 1 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from captum.attr import GuidedBackprop, GuidedGradCam, LayerAttribution, LayerGradCam
from torch import Tensor, nn

from selrel.clips.profiles import bounds, normalise
from selrel.engine import Forward, ties
from selrel.explainer import Explainer
from selrel.models import families
from selrel.models.c3d import C3D, INPUT

METHODS: dict[str, dict[str, Any]] = {
    "deep_taylor": {},
    "grad_cam": {},
    "guided_backprop": {},
    "guided_grad_cam": {},
}
TOLERANCE = {"deep_taylor": 1e-4, "grad_cam": 1e-5, "guided_backprop": 1e-5, "guided_grad_cam": 1e-5}
PROFILE = families()["c3d-jfzhang"][0].profile
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZES = (1, 2, 4, 8, 16, 32, 64) if DEVICE.type == "cuda" else (1, 8)
TORCHVISION_OPERATORS = (
    ("nms", "qnms", "deform_conv2d", "_deform_conv2d_backward")
    + tuple(
        f"{before}{kind}{after}"
        for kind in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
        for before, after in (("", ""), ("_", "_backward"))
    )
    + ("qroi_align",)
)

Explainers = dict[str, Callable[[], Tensor]]


def main() -> None:
    """Check, time and print, for every number of clips."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clips", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="Setting .*hooks")
    zennit = zennit_rules()
    if zennit is None:
        print("zennit is not installed: nothing to compare deep Taylor with")
    model = he_initialised()
    explainer = Explainer(model, PROFILE)
    print(
        f"C3D of full width, float32, {DEVICE.type}, {torch.get_num_threads()} threads, units of one forward"
    )
    check(zennit, model, explainer)
    for n in options.clips:
        frames = random_frames(n)
        clips = normalise(frames, PROFILE)
        targets = predicted(model, clips)
        peers = captums(model, clips, targets) | zennits(zennit, model, clips, targets)
        report(n, measured(model, explainer, frames, targets, peers, options.rounds))
        print_memory(explainer, frames, targets)


def he_initialised() -> C3D:
    """A C3D whose activations neither fade nor grow."""
    torch.manual_seed(0)
    model = C3D()
    for module in model.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return model.eval().to(DEVICE)


def random_frames(n: int) -> Tensor:
    """Clips of random pixels, uint8 (clip, time, y, x, channel)."""
    channels, *window = INPUT
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (n, *window, channels), dtype=torch.uint8, generator=generator).to(DEVICE)


def predicted(model: nn.Module, clips: Tensor) -> Tensor:
    with torch.no_grad():
        return model(clips).argmax(dim=1)


# --- the peers --------------------------------------------------------------------------------


def captums(model: C3D, clips: Tensor, targets: Tensor) -> Explainers:
    """Captum's three, each by itself, as its users call them."""
    layer = model.relu5b

    def upsampled(cam: Tensor) -> Tensor:
        return LayerAttribution.interpolate(cam, INPUT[1:], "trilinear")[:, 0]

    def grad_cam() -> Tensor:
        cam = LayerGradCam(model, layer).attribute(clips, target=targets, relu_attributions=True)
        return upsampled(cam).detach()

    def guided_backprop() -> Tensor:
        given = clips.detach().clone().requires_grad_()
        return GuidedBackprop(model).attribute(given, target=targets).sum(dim=1).detach()

    def guided_grad_cam() -> Tensor:
        given = clips.detach().clone().requires_grad_()
        found = GuidedGradCam(model, layer).attribute(given, target=targets, interpolate_mode="trilinear")
        return found.sum(dim=1).detach()

    return {"grad_cam": grad_cam, "guided_backprop": guided_backprop, "guided_grad_cam": guided_grad_cam}


def zennit_rules() -> Any:
    """Zennit, or None where it is not installed.

    It imports torchvision, whose operators are missing from a build without their library; declared,
    they need not exist.
    """
    names = torch.library.Library("torchvision", "FRAGMENT")
    for name in TORCHVISION_OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            names.define(f"{name}(Tensor x) -> Tensor")
    try:
        return importlib.import_module("zennit")
    except ImportError:
        return None


def zennits(zennit: Any, model: C3D, clips: Tensor, targets: Tensor) -> Explainers:
    """Zennit's z+ rule, and its zB rule for the first layer."""
    if zennit is None:
        return {}
    low, high = (bound.view(1, 3, 1, 1, 1).to(clips) for bound in bounds(PROFILE))
    exact: dict[str, Any] = {"stabilizer": 1e-20, "zero_params": "bias"}

    def rule(context: Any, name: str, module: nn.Module) -> Any:
        if module is model.conv1:
            return zennit.rules.ZBox(low, high, **exact)
        return zennit.rules.ZPlus(**exact) if isinstance(module, nn.Conv3d | nn.Linear) else None

    def deep_taylor() -> Tensor:
        start = torch.eye(101, device=DEVICE)[targets]
        with zennit.attribution.Gradient(model, zennit.core.Composite(module_map=rule)) as attributor:
            _, relevance = attributor(clips.detach().clone(), start)
        return relevance.sum(dim=1).detach()

    return {"deep_taylor": deep_taylor}


# --- ours against them ------------------------------------------------------------------------


def check(zennit: Any, model: C3D, explainer: Explainer) -> None:
    """Stop where a cube of ours is not the peer's, within its tolerance of the largest entry.

    The peers get our memory layout, and two clips: other layouts, and a single clip, take kernels that
    sum in another order, and their rectifiers and poolings that are tied but for rounding then switch. Since
    they take winners by their last bit, ours do here, too: nothing but the same counts as equal. Printed
    beside it is how far that is from our own rule.
    """
    frames = random_frames(2)
    clips = normalise(frames, PROFILE)
    targets = predicted(model, clips)
    by_rule = explainer.explain(frames, METHODS, targets=targets).cubes
    equal, ties.EQUAL = ties.EQUAL, 2.0**-30
    ours = explainer.explain(frames, METHODS, targets=targets).cubes
    ties.EQUAL = equal
    for name, cube in ours.items():
        moved = (by_rule[name] - cube).abs() / cube.abs().max()
        share, most = float((moved > 1e-4).float().mean()), float(moved.max())
        print(f"{name}: near ties move {share:.1e} of the voxels, by up to {most:.1e}")
    same = he_initialised().to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    clips = clips.contiguous(memory_format=torch.channels_last_3d)
    for name, explain in (captums(same, clips, targets) | zennits(zennit, same, clips, targets)).items():
        theirs = explain()
        difference = float((ours[name] - theirs).abs().max() / theirs.abs().max())
        print(f"{name} differs from the peer's by {difference:.1e} of the largest entry")
        if not difference <= TOLERANCE[name]:
            raise SystemExit(f"{name} must agree within {TOLERANCE[name]}")


def measured(
    model: nn.Module, explainer: Explainer, frames: Tensor, targets: Tensor, peers: Explainers, rounds: int
) -> dict[str, list[float]]:
    """The units that each explanation took in every round; ours makes its input of the frames as well."""
    clips = normalise(frames, PROFILE)

    def forward() -> None:
        with torch.no_grad():
            model(clips)

    units: dict[str, list[float]] = {}
    forward()
    for _ in range(rounds):
        # Before and after: the machine may change its pace in between.
        before = seconds(forward)
        steps: dict[str, float] = {}
        whole = seconds(lambda: explainer.explain(frames, METHODS, targets=targets, timed=into(steps)))  # noqa: B023
        unit = (before + seconds(forward)) / 2
        took = {"ours": whole, **{f"  {step}": value for step, value in steps.items()}}
        found = {f"  {name}": seconds(explain) for name, explain in peers.items()}
        took |= {"peers": sum(found.values())} | {f"{name} (peer)": value for name, value in found.items()}
        for name, value in took.items():
            units.setdefault(name, []).append(value / unit)
    units["peers / ours"] = [
        theirs / ours for theirs, ours in zip(units["peers"], units["ours"], strict=True)
    ]
    return units


def into(steps: dict[str, float]) -> Callable[[str, Callable[[], Any]], Any]:
    def timed(step: str, function: Callable[[], Any]) -> Any:
        results = []
        steps[step] = seconds(lambda: results.append(function()))
        return results[0]

    return timed


def seconds(function: Callable[[], Any]) -> float:
    """The time that a call takes, its work on the device included."""
    wait()
    began = time.perf_counter()
    function()
    wait()
    return time.perf_counter() - began


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def report(n: int, units: dict[str, list[float]]) -> None:
    print(f"\n{n} clips {'min':>22} {'median':>8} {'max':>8}")
    for name, values in units.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:<24} {low:8.2f} {middle:8.2f} {high:8.2f}")


# --- memory -----------------------------------------------------------------------------------


def print_memory(explainer: Explainer, frames: Tensor, targets: Tensor) -> None:
    """How far explaining goes above what was there before, beside what it has to keep."""
    forward = Forward(explainer.graph, normalise(frames, PROFILE))
    kept = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors(forward)}
    total, largest = sum(kept.values()) / 1e6, max(kept.values()) / 1e6
    del forward
    with peak() as extra:
        explainer.explain(frames, METHODS, targets=targets)
    print(
        f"\npeak extra memory {extra[0]:.0f} MB: activations and pooling indices {total:.0f} MB, "
        f"the largest map {largest:.0f} MB\n"
    )


def tensors(forward: Forward) -> Iterator[Tensor]:
    """Everything that a forward pass keeps."""
    yield from (forward.value(i) for i in range(1, len(forward.graph.nodes) + 1))
    yield from forward._indices.values()


@contextmanager
def peak() -> Iterator[list[float]]:
    """Put the growth of the peak memory into a list, in MB."""
    extra: list[float] = []
    if DEVICE.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield extra
        extra.append((torch.cuda.max_memory_allocated() - before) / 1e6)
    else:
        # Linux: give free pages back, then restart the count of the peak.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = resident("VmRSS")
        yield extra
        extra.append((resident("VmHWM") - before) / 1e6)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


if __name__ == "__main__":
    main()
