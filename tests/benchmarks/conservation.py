"""How well deep Taylor conserves relevance in every architecture: `python -m tests.benchmarks.conservation`.

Narrow models with random weights and random batch-norm statistics, two random clips, float32. What is missing
from a cube is its conservation error: what is lost where no input contributes (0/0 is 0), and rounding.
"""

from __future__ import annotations

from selrel.clips.profiles import bounds
from selrel.engine import Forward, Rules, trace
from selrel.explain.deep_taylor import rules
from selrel.models import families, recognise
from tests.published_models import CASES, random_clips, random_state
from tests.test_models_explained import orphaned


def main() -> None:
    """Print a line for each architecture."""
    print(f"{'architecture':28} {'layers':>6} {'in cube':>8} {'lost (0/0)':>10} {'rounding':>8}")
    for name, (family, shapes, _, size) in CASES.items():
        low, high = bounds(families()[family][0].profile)
        model = recognise(random_state(shapes, seed=2), family=family).model
        graph = trace(model, (3, *size), low=low, high=high)
        forward = Forward(graph, random_clips(2, (3, *size), low=low, high=high, seed=1))
        kept, lost = conserved(forward)
        rounding = abs(kept + lost - 1)
        print(f"{name:28} {len(graph.nodes):6} {kept:8.4f} {lost:10.4f} {rounding:8.1e}", flush=True)


def conserved(forward: Forward) -> tuple[float, float]:
    """What a clip's cube holds and what was lost, as shares of the start, means over the clips."""
    plain, lost = rules(1.0), 0.0

    def watched(step, relevance):  # type: ignore[no-untyped-def]
        nonlocal lost
        lost += orphaned(step, relevance)
        return plain.at(step.node)(step, relevance)

    targets = forward.logits.argmax(dim=1)
    cube = forward.backward(Rules("watched", dict.fromkeys(plain.table, watched)), forward.at_target(targets))
    return float(cube.double().sum()) / len(targets), lost / len(targets)


if __name__ == "__main__":
    main()
