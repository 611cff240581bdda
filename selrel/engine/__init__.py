"""The explanation engine: one forward pass, and backward passes under any rule.

`trace` reads a model once; `Forward` runs a batch of clips through it and keeps what the rules need.
"""

from selrel.engine.graph import Forward, Graph, Rule, Step, UnsupportedModel, gradient_rule
from selrel.engine.trace import trace

__all__ = ["Forward", "Graph", "Rule", "Step", "UnsupportedModel", "gradient_rule", "trace"]
