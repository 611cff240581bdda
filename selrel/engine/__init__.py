"""The explanation engine: one forward pass, and backward passes under any rule.

`trace` reads a model once; `Forward` runs a batch of clips through it and keeps what the rules need; `Rules`
is a method's table of what it does at each operation.
"""

from selrel.engine.gradient import PULLBACKS, gradient_rule
from selrel.engine.graph import Clips, Forward, Graph, Rule, Rules, Step
from selrel.engine.operations import UnsupportedModel
from selrel.engine.trace import trace

__all__ = [
    "PULLBACKS", "Clips", "Forward", "Graph", "Rule", "Rules", "Step", "UnsupportedModel",
    "gradient_rule", "trace",
]  # fmt: skip
