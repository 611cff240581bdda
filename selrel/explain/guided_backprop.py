"""Guided backpropagation: Springenberg et al. 2014, "Striving for Simplicity: The All Convolutional Net"."""

from __future__ import annotations

from torch import Tensor

from selrel.engine import Clips, Forward, Rules, Step, gradient_rule
from selrel.engine.operations.addition import Addition
from selrel.engine.operations.average import Average
from selrel.engine.operations.layer import Layer
from selrel.engine.operations.max_pool import MaxPool
from selrel.engine.operations.relu import Relu
from selrel.engine.operations.routing import Routing
from selrel.engine.operations.scaling import Scaling

UNITS = "logit per unit of normalised pixel"


def explain(forward: Forward[Clips], targets: Tensor) -> Clips:
    """Backpropagate the target's logit, passing only positive gradients through each rectifier.

    Returns
    -------
    (clip, time, height, width): the guided gradient in logits per unit of normalised pixel, summed
    over colour channels; signed.
    """
    gradient = forward.backward(RULES, forward.at_target(targets))
    return forward.each(lambda guided: guided.sum(dim=1), gradient)


def _rectified(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """Pass the positive part of the gradient where a rectifier is active.

    A leaky rectifier passes its slope's share of the positive part where it is not active.
    """
    return tuple(share.clamp_(min=0) for share in gradient_rule(step, gradient))


# It extends no other table: a new kind of rectifier must be refused here until it has a rule.
RULES = Rules(
    "guided_backprop",
    {
        Relu: _rectified,
        Layer: gradient_rule,
        Scaling: gradient_rule,
        MaxPool: gradient_rule,
        Average: gradient_rule,
        Routing: gradient_rule,
        Addition: gradient_rule,
    },
)
