"""How figures are written, for a page and for a console alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storage.text import decimal

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
    return MISSING if share is None else f"{decimal(100 * share, 1)}{unit}"


def signed(share: float) -> str:
    """Write a difference of shares in points, with its sign."""
    return decimal(100 * share, 1, "+")


def number(value: float | None) -> str:
    """Write a ratio with two decimals."""
    return MISSING if value is None else decimal(value, 2)


def percent_range(row: Row, low: str = "low", high: str = "high") -> str:
    """Write the interval between two shares of a row, or that there is none."""
    if row.get(low) is None:
        return absent(row, "no_interval")
    return f"{percent(row[low], '')} to {percent(row[high], '')}"


def difference_range(row: Row) -> str:
    """Write the interval of a difference of shares, in points and in brackets, or why there is none."""
    if row["low"] is not None:
        return f" (95 %: {signed(row['low'])} to {signed(row['high'])})"
    return f" (no 95 % interval: {row['no_interval']})" if row.get("no_interval") else ""


def absent(row: Row, reason: str) -> str:
    """Write that a value is missing: "none" where the row says why, otherwise a dash."""
    return NONE if row.get(reason) else MISSING


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


def mean_and_interval(row: Row) -> str:
    """Write a mean share with its interval in brackets, if it has one."""
    if row.get("mean") is None:
        return MISSING
    known = row["low"] is not None or row.get("no_interval")
    between = "no interval" if row["low"] is None else percent_range(row)
    return percent(row["mean"]) + (f" ({between})" if known else "")


def count(value: int) -> str:
    """Write a count with separators."""
    return f"{value:,}"


def counted(n: int, noun: str) -> str:
    """Write how many there are of something."""
    return f"{count(n)} {noun}" + ("" if n == 1 else "s")


def map_name(sigma: float, *, short: bool = False) -> str:
    """Name the map of a threshold, 0 being the baseline; a short name fits a console of 80 columns."""
    if short:
        return "all" if sigma == 0 else f"{sigma:g} sigma"
    return "baseline" if sigma == 0 else f"selective, {sigma:g} sigma"


def same_row(row: Row, paper: Sequence[Row]) -> Row:
    """The paper's row of the same method, methods and sigma; empty if it has none."""
    keys = [key for key in ("method", "method_a", "method_b", "sigma") if key in row]
    return next((other for other in paper if all(other.get(key) == row[key] for key in keys)), {})
