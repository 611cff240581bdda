"""Overhead: the time that each explanation takes for one clip (Hiley et al. 2020, Table 4)."""

import numpy as np

from selrel.scores.cells import check_columns
from selrel.scores.metric import Column, Columns, Metric, Row, Table

# Section 5: C3D of 74 % accuracy, 12,219 clips of 1,010 videos of UCF-101.
_PAPER = (
    {"method": "deep_taylor", "low": 0.00116, "high": 0.00171},
    {"method": "grad_cam", "low": 0.136, "high": 0.137},
    {"method": "guided_grad_cam", "low": 0.246, "high": 0.247},
)


def overhead(columns: Columns) -> list[Row]:
    """Summarize the measured times.

    Parameters
    ----------
    columns : mapping of name to array
        ``method`` and ``seconds_per_clip``, one entry a measurement.

    Returns
    -------
    list of dict
        In the order of the first measurements, since a step's time is on top of those before it: ``method``;
        ``median``, ``low``, ``high`` (the quartiles; None of a single measurement) and ``least`` in seconds;
        ``n`` measurements.

    Raises
    ------
    ValueError
        If a column is missing.
    """
    check_columns(columns, ("method", "seconds_per_clip"))
    rows: list[Row] = []
    for method in dict.fromkeys(columns["method"].tolist()):
        seconds = columns["seconds_per_clip"][columns["method"] == method].astype(np.float64)
        least, low, median, high = np.quantile(seconds, [0, 0.25, 0.5, 0.75]).tolist()
        low, high = (low, high) if len(seconds) > 1 else (None, None)
        times = {"median": median, "low": low, "high": high, "least": least}
        rows.append({"method": method, **times, "n": len(seconds)})
    return rows


METRIC = Metric(
    tables=(
        Table(
            name="table4",
            title="Table 4. Time per clip",
            short_title="Table 4. Time a clip, on top of the steps before (ms)",
            note="On top of the steps before it, on the device of this run, without the first batch of each "
            "worker. The paper's times are of its own device, and of the whole way.",
            order=50,
            columns=(
                Column("method", "Step", "text", short="step"),
                Column("median", "Median, ms", "milliseconds", short="median"),
                Column("low", "Quartiles, ms", "milliseconds range", short="quartiles"),
                Column("n", "Measured", "count"),
                Column(
                    "low", "Paper, ms (in all)", "milliseconds range", short="paper (its device)", paper=True
                ),
            ),
            paper=_PAPER,
        ),
    ),
)
