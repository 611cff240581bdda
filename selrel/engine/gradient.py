"""Plain backpropagation: the chain rule, and the table that the gradient methods share."""

from __future__ import annotations

from torch import Tensor

from selrel.engine.graph import Rule, Step
from selrel.engine.operations.addition import Addition
from selrel.engine.operations.average import Average
from selrel.engine.operations.layer import Layer
from selrel.engine.operations.max_pool import MaxPool
from selrel.engine.operations.relu import Relu
from selrel.engine.operations.routing import Routing
from selrel.engine.operations.scaling import Scaling


def gradient_rule(step: Step, gradient: Tensor) -> tuple[Tensor, ...]:
    """Apply the transpose of the operation's derivative."""
    if step.winners is not None:
        return (step.winners.pullback(gradient),)
    return step.node.operation.pullback(gradient, step.inputs, step.rounding)


PULLBACKS: dict[type, Rule] = {
    Layer: gradient_rule,
    Scaling: gradient_rule,
    Relu: gradient_rule,
    MaxPool: gradient_rule,
    Average: gradient_rule,
    Routing: gradient_rule,
    Addition: gradient_rule,
}
