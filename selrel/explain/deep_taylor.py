"""Deep Taylor decomposition.

Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor decomposition"
(the z+ and zB rules); on 3D CNNs as Hiley et al. 2020. No bias enters a denominator, and 0/0 is 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from selrel.engine import Clips, Forward, Rules, Step, gradient_rule
from selrel.engine.operations.addition import Addition
from selrel.engine.operations.average import Average
from selrel.engine.operations.convolution import Convolution
from selrel.engine.operations.layer import Layer, Part, negative, positive, whole
from selrel.engine.operations.max_pool import MaxPool
from selrel.engine.operations.relu import Relu
from selrel.engine.operations.routing import Routing
from selrel.engine.operations.scaling import Scaling
from selrel.engine.ties import TINY, positive_part

UNITS = "1"


def explain(forward: Forward[Clips], targets: Tensor, *, alpha: float = 1.0, start: str = "one") -> Clips:
    """Decompose the target's logit into the relevance of every voxel.

    Parameters
    ----------
    forward, targets
        A forward pass of clips and the output to explain for each.
    alpha
        Weight of the positive contributions, at least 1; the negative ones weigh beta = alpha - 1.
        1 is deep Taylor.
    start
        "one": the cube says which share of the decision lies where, and sums to 1. "logit": in
        units of the logit.

    Returns
    -------
    (clip, time, height, width). With alpha = 1, it sums to its start wherever no denominator is 0.
    """
    if alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must be at least 1 (1 is deep Taylor)")
    begin = forward.at_target(targets, amount(forward, targets, start))
    return forward.each(lambda relevance: relevance.sum(dim=1), forward.backward(rules(alpha), begin))


def amount(forward: Forward[Clips], targets: Tensor, start: str) -> Tensor:
    """What a cube starts from, (clip,): ones, or the targets' logits."""
    if start == "one":
        return torch.ones(len(targets), dtype=forward.logits.dtype, device=forward.logits.device)
    if start == "logit":
        return forward.logits.gather(1, targets[:, None])[:, 0]
    raise ValueError(f"unknown start {start!r}; allowed: one, logit")


def conservation_error(relevance: Tensor | tuple[Tensor, ...], start: Tensor | float = 1.0) -> Tensor:
    """Return |sum of a clip's cubes - start|, relative to the start, float64 (clip,)."""
    cubes = (relevance,) if isinstance(relevance, Tensor) else relevance
    total = torch.stack([cube.double().sum(dim=(1, 2, 3)) for cube in cubes]).sum(dim=0)
    start = torch.as_tensor(start, dtype=torch.float64, device=total.device)
    return (total - start).abs() / start.abs().clamp(min=torch.finfo(torch.float32).tiny)


def rules(alpha: float) -> Rules:
    """Return the rules of deep Taylor decomposition."""
    return Rules(
        "deep_taylor",
        {
            Layer: partial(_by_contribution, alpha=alpha),
            # One input for each output, which gets all; also of a rectifier that has reached its ceiling.
            Relu: _pass_on,
            Scaling: _pass_on,
            Average: _in_proportion,
            Addition: _by_positive_parts,
            # Max pooling gives it to the winner; what only moves values moves relevance back.
            MaxPool: gradient_rule,
            Routing: gradient_rule,
        },
    )


def _pass_on(step: Step, relevance: Tensor) -> tuple[Tensor, ...]:
    """Give all of the relevance to the one input."""
    return (relevance,)


def _by_contribution(step: Step, relevance: Tensor, *, alpha: float) -> tuple[Tensor, ...]:
    """A layer: zB for pixels, and alpha-beta for all other inputs, of one sign or both."""
    layer, source = step.node.operation, step.node.inputs[0]
    assert isinstance(layer, Layer)
    if step.graph.holds_pixels(source):
        return (_z_b(step, layer, relevance),)
    if not step.graph.nonnegative(source):
        return (_signed(step, layer, relevance, alpha),)
    # What counts as 0 must not carry relevance where nothing else is active.
    a = positive_part(step.inputs[0], step.rounding[0])
    return (_alpha_beta(layer, a, relevance, alpha),)


def _alpha_beta(layer: Layer, a: Tensor, relevance: Tensor, alpha: float) -> Tensor:
    """The alpha-beta rule for a >= 0: alpha times the z+ rule less beta times the same for W-.

    With alpha = 1 it is the z+ rule, R_in = a * W+^T (R_out / (W+ a)).
    """
    excite = layer.apply(a, positive)
    if alpha == 1:
        return layer.transpose(_divide(relevance, excite), positive, a).mul_(a)
    # Not the output less the bias and W+ a: rounding would be left where nothing inhibits.
    inhibit = layer.apply(a, negative).neg_()
    # Where nothing inhibits, the positive part must carry everything, or relevance would be made.
    credit = _divide(relevance, excite).mul_(torch.where(inhibit > TINY, alpha, 1.0))
    shares = layer.transpose(credit, positive, a)
    shares += (alpha - 1) * layer.transpose(_divide(relevance, inhibit), negative, a)
    return shares.mul_(a)


def _signed(step: Step, layer: Layer, relevance: Tensor, alpha: float) -> Tensor:
    """The alpha-beta rule for inputs of both signs: contributions a W split by their own sign."""
    (a,) = step.inputs
    above, below = positive_part(a, step.rounding[0]), -positive_part(-a, step.rounding[0])

    def part(first: Part, second: Part) -> Callable[[Tensor], Tensor]:
        return lambda share: (
            layer.transpose(share, first, a) * above + layer.transpose(share, second, a) * below
        )

    excite = layer.apply(above, positive) + layer.apply(below, negative)
    credit = part(positive, negative)
    if alpha == 1:
        return credit(_divide(relevance, excite))
    inhibit = layer.apply(above, negative) + layer.apply(below, positive)
    weight = torch.where(inhibit < -TINY, alpha, 1.0)
    blame = part(negative, positive)
    return credit(_divide(relevance, excite) * weight) + (alpha - 1) * blame(_divide(relevance, -inhibit))


def _z_b(step: Step, layer: Layer, relevance: Tensor) -> Tensor:
    """R_in = x W^T s - l W+^T s - h W-^T s, s = R_out / (W x - W+ l - W- h), for l <= x <= h.

    Differences of a few roundings count as 0, as at a black clip under a filter without negative
    weights.

    With W- = W - W+ this is (x - h) W^T s + (h - l) W+^T s; the denominator follows from the output
    and a constant of the model, so no further convolution of x is needed.
    """
    (x,) = step.inputs
    low, high = step.graph.bound_images(step.node.inputs[0])

    def corner() -> tuple[Tensor, Tensor]:
        lowest = layer.apply(low, positive) + layer.apply(high, negative)
        size = layer.weight.abs().flatten(1).sum(dim=1) * torch.maximum(-low, high).amax()
        size = layer.by_output(size) + layer.bias_view().abs()
        # What a few roundings in such a sum come to: in float32, lest float64 choose differently.
        return lowest + layer.bias_view(), size * (8 * torch.finfo(torch.float32).eps)

    lowest, noise = step.graph.remember(("zB corner", step.node), corner)
    # By frames, so that nothing of the size of the whole, largest map is made.
    maps = [relevance, step.output, lowest]
    frames = [m.split(1, dim=2) if isinstance(layer, Convolution) else (m,) for m in maps]
    for share, output, least in zip(*frames, strict=True):
        share.copy_(_divide(share, output - least, smallest=noise))
    every, excited = layer.transposes(relevance, (whole, positive), x)
    return (x - high).mul_(every).addcmul_(excited, high - low)


def _in_proportion(step: Step, relevance: Tensor) -> tuple[Tensor, ...]:
    """An average: in proportion to the positive part of its inputs; equally where none is positive."""
    average = step.node.operation
    a = positive_part(step.inputs[0], step.rounding[0])
    total = average.forward(a)
    count = average.forward(torch.ones_like(a))
    orphans = torch.where(total <= TINY, relevance / count, 0.0)
    (spread,) = average.pullback(_divide(relevance, total), (a,), ())
    (equally,) = average.pullback(orphans, (a,), ())
    return (equally.addcmul_(spread, a),)


def _by_positive_parts(step: Step, relevance: Tensor) -> tuple[Tensor, ...]:
    """A sum: in proportion to the positive parts of its summands; equally where none is positive.

    Never by the signed sum, which blows up where summands cancel.
    """
    first, second = map(positive_part, step.inputs, step.rounding)
    total = first + second
    share = first.div_(total).masked_fill_(total <= TINY, 0.5).mul_(relevance)
    return share, relevance - share


def _divide(relevance: Tensor, denominator: Tensor, *, smallest: Tensor | None = None) -> Tensor:
    """Divide, 0 where the denominator is 0, or not above `smallest`. Overwrites the denominator."""
    if smallest is not None:
        denominator.masked_fill_(denominator <= smallest, math.inf)
    # R / inf is exactly 0, in one pass and without a mask in memory.
    denominator = F.threshold(denominator, TINY, math.inf, inplace=True)
    return torch.div(relevance, denominator, out=denominator)
