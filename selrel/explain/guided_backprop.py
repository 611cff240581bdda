"""Guided backpropagation: Springenberg et al. 2014, "Striving for Simplicity: The All Convolutional Net"."""

from __future__ import annotations

from torch import Tensor

from selrel.engine import Forward, Step, gradient_rule
from selrel.engine.operations import Addition, Average, Layer, MaxPool, Relu, Routing, Scaling

UNITS = "logit per unit of normalised pixel"


def explain(forward: Forward, targets: Tensor) -> Tensor:
    """Backpropagate the target's logit, passing only positive gradients through each rectifier.

    Returns
    -------
    (clip, time, height, width): the guided gradient in logits per unit of normalised pixel, summed
    over colour channels; signed.
    """
    return forward.backward(guided_rule, forward.at_target(targets)).sum(dim=1)


def guided_rule(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """Pass the positive part of the gradient where a rectifier is active; the chain rule elsewhere.

    A leaky rectifier passes its slope's share of the positive part where it is not active.
    """
    operation = step.node.operation
    if isinstance(operation, Relu):
        return tuple(share.clamp_(min=0) for share in gradient_rule(step, gradient))
    if isinstance(operation, Layer | Scaling | MaxPool | Average | Routing | Addition):
        return gradient_rule(step, gradient)
    raise step.refusal("guided_backprop")
