"""Plain backpropagation: the chain rule, and the table that the gradient methods share."""

from __future__ import annotations

from torch import Tensor

from selrel.engine.graph import Rule, Step
from selrel.engine.operations import Addition, Average, Layer, MaxPool, Relu, Routing, Scaling


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
