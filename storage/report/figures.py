"""How figures are written, for a page and for a console alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

MISSING = "-"
# Of runs whose intervals and lifts have no reason where they are missing.
OLDER = (
    "This run is of an older release: its intervals are too narrow below ten groups of videos, and its lifts "
    "count clips in which next to nothing moves."
)
# In the place of an interval or a lift that can't be given; `reasons` says why.
NONE = "none"


def percent(share: float | None, unit: str = " %") -> str:
    """Write a share as per cent with one decimal, or a dash where there is none."""
    return MISSING if share is None else f"{100 * share:.1f}{unit}"


def signed(share: float) -> str:
    """Write a difference of shares in points, with its sign."""
    return f"{100 * share:+.1f}"


def percent_range(row: Row, low: str = "low", high: str = "high") -> str:
    """Write the interval between two shares of a row."""
    return without_interval(row) if row.get(low) is None else f"{100 * row[low]:.1f} to {100 * row[high]:.1f}"


def difference_range(row: Row) -> str:
    """Write the interval of a difference of shares, in points and in brackets, or why there is none."""
    if row["low"] is not None:
        return f" (95 %: {signed(row['low'])} to {signed(row['high'])})"
    return f" (no 95 % interval: {row['no_interval']})" if row.get("no_interval") else ""


def without_interval(row: Row) -> str:
    """Write that there is no interval: none of a value, or nothing to have one."""
    return NONE if row.get("no_interval") else MISSING


def lift(row: Row, kind: str = "") -> str:
    """Write a row's lift, or that there is none."""
    return NONE if row.get(f"{kind}no_lift") else number(row.get(f"{kind}lift"))


def reasons(rows: Iterable[Row]) -> list[str]:
    """Why some of the rows have no interval or no lift: a sentence a reason, each once."""
    whys = {
        "no_decision": "No reliance",
        "no_interval": "No 95 % interval",
        "no_lift": "No lift",
        "object_no_lift": "No object lift",
    }
    said = (f"{what}: {row[name]}." for row in rows for name, what in whys.items() if row.get(name))
    return list(dict.fromkeys(said))


def mean_and_deviation(row: Row, mean: str = "mean", deviation: str = "std") -> str:
    """Write a mean share with its standard deviation in brackets."""
    if row.get(mean) is None:
        return MISSING
    return f"{percent(row[mean], '')} ({percent(row[deviation], '')})"


def mean_and_interval(row: Row) -> str:
    """Write a mean share with its interval in brackets, if it has one."""
    if row.get("mean") is None:
        return MISSING
    known = row["low"] is not None or row.get("no_interval")
    between = "no interval" if row["low"] is None else percent_range(row)
    return percent(row["mean"]) + (f" ({between})" if known else "")


def number(value: float | None) -> str:
    """Write a ratio with two decimals."""
    return MISSING if value is None else f"{value:.2f}"


def number_range(row: Row, low: str, high: str) -> str:
    """Write the interval between two ratios of a row."""
    return without_interval(row) if row.get(low) is None else f"{row[low]:.2f} to {row[high]:.2f}"


def milliseconds(row: Row, low: str = "low", high: str | None = None) -> str:
    """Write seconds of a row as milliseconds, one value or a range."""
    if row.get(low) is None:
        return MISSING
    return " to ".join(f"{1000 * row[name]:,.2f}" for name in (low, high) if name is not None)


def count(value: int) -> str:
    """Write a count with separators."""
    return f"{value:,}"


def counted(n: int, noun: str) -> str:
    """Write how many there are of something."""
    return f"{count(n)} {noun}" + ("" if n == 1 else "s")


def map_name(sigma: float) -> str:
    """Name the map of a threshold; 0 is the baseline."""
    return "baseline" if sigma == 0 else f"selective, {sigma:g} sigma"


def same_row(row: Row, paper: Sequence[Row]) -> Row:
    """The paper's row of the same method, methods and sigma; empty if it has none."""
    keys = [key for key in ("method", "method_a", "method_b", "sigma") if key in row]
    return next((other for other in paper if all(other.get(key) == row[key] for key in keys)), {})
