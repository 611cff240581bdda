"""All metrics, found by their files: a file with a ``METRIC`` is a metric, and nothing else lists it."""

import importlib
import pkgutil
from dataclasses import replace
from functools import cache

from selrel import scores
from selrel.scores.metric import METHOD, Column, Metric, Part, Row, Table, share
from selrel.scores.precision import lift, lift_sums
from selrel.scores.summaries import joined, means


@cache
def metrics() -> tuple[Metric, ...]:
    """Return the metrics in the order of their tables; those without a table come last."""
    files = [
        importlib.import_module(f"{scores.__name__}.{one.name}")
        for one in pkgutil.iter_modules(scores.__path__)
    ]
    found = [file.METRIC for file in files if hasattr(file, "METRIC")]
    return tuple(sorted(found, key=lambda metric: min((t.order for t in metric.tables), default=1000)))


@cache
def tables() -> dict[str, Table]:
    """Return the tables that the metrics give, by name and in the order of a page."""
    found = [table for metric in metrics() for table in metric.tables]
    ratios = frozenset(column.name for column in swept() if column.form == "ratio")
    ordered = sorted([*found, _sweep()], key=lambda table: table.order)
    return {table.name: replace(table, ratios=ratios) for table in ordered}


def swept() -> tuple[Column, ...]:
    """Return the columns of all that is shown against sigma: what a map keeps, then how good that is."""
    return tuple(column for metric in reversed(metrics()) for column in metric.swept)


def compared(*, baseline: bool) -> list[str]:
    """Return the scores by which two runs are compared, on the baseline or on the selective map."""
    chosen = [metric for metric in reversed(metrics()) if metric.of_baseline or not baseline]
    return [name for metric in chosen for name in metric.compared]


def terms() -> dict[str, tuple[str, str]]:
    """Return the words that the metrics explain."""
    return {name: said for metric in metrics() for name, said in metric.terms.items()}


def _sweep() -> Table:
    """The table of all that follows the threshold, against every sigma scored; 0 is the baseline."""
    scores = [name for metric in metrics() for name in metric.scores if name in {c.name for c in swept()}]
    averaged = [name for name in scores if name != "base_rate"]

    def row(part: Part) -> Row:
        """The means with their intervals, the lift, and the share of counted clips that are left empty."""
        found = joined(means(part, averaged), lift(part))
        return {**found, "empty_share": share(found["n_empty"], found["n_clips"] + found["n_empty"])}

    return Table(
        name="sweep",
        title="The sweep over the threshold",
        note="Means over clips; the charts show the same with 95 % intervals.",
        order=100,
        columns=(
            METHOD,
            Column("sigma", "Sigma", "sigma", "sigma"),
            *swept(),
            Column("empty_share", "Left empty, %", term="empty", chart="Clips left empty"),
        ),
        row=row,
        needed=(*scores, *lift_sums()),
        sigmas="all",
    )
