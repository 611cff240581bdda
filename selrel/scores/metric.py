"""What a metric's file exports: what it counts, divides and averages, and how tables show it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from selrel.scores.sums import GroupSums

Counts = dict[str, int | float]
Ratios = dict[str, float | None]
Bools = npt.NDArray[np.bool_]
Columns = Mapping[str, npt.NDArray[Any]]
# The sums by group of each score.
Part = Mapping[str, GroupSums]
Row = dict[str, Any]

# How a value is written. "mean" stands with its deviation, "range" is an interval of shares, "filled" a share
# and the clips that it is of, "score" what the row's score is.
Form = Literal[
    "text", "words", "pair", "target", "map", "sigma", "count", "percent", "ratio", "mean", "range",
    "ratio range", "milliseconds", "milliseconds range", "filled", "score", "score range",
]  # fmt: skip


@dataclass(frozen=True)
class Maps:
    """The counted voxels of one clip and method, and which maps hold them: the baseline, then each sigma's.

    Parameters
    ----------
    relevance : float array, (voxel,)
        Signed baseline relevance.
    moving, object_moving : bool arrays, (voxel,)
        What moves, and what still does when the camera's motion is taken off.
    reached : uint8 array, (voxel,)
        From `selrel.scores.nested.reach`.
    n : int
        Number of maps.
    """

    relevance: npt.NDArray[Any]
    moving: Bools
    object_moving: Bools
    reached: npt.NDArray[np.uint8]
    n: int


@dataclass(frozen=True)
class Column:
    """A column of a table as a person reads it.

    Parameters
    ----------
    name : str
        What it shows of a row. A deviation or the upper end of an interval is read by the same name with
        ``std`` for ``mean``, or ``high`` for ``low``.
    heading : str
        With its unit.
    form : Form
        How its values are written.
    term : str, optional
        The word that explains it.
    short : str
        Heading on a console of 80 columns, which shows no column without one.
    reason : str
        Column that says why there is no value.
    paper : bool
        Whether it is the paper's value.
    drawn : bool
        Whether figures for a paper have it, although a console doesn't.
    chart : str
        Title of its chart over sigma; without one there is no chart.
    """

    name: str
    heading: str
    form: Form = "percent"
    term: str | None = None
    short: str = ""
    reason: str = ""
    paper: bool = False
    drawn: bool = False
    chart: str = ""


@dataclass(frozen=True)
class Table:
    """A table that a metric gives.

    Parameters
    ----------
    name, title, note : str
        Its name in files; what stands above it on a page.
    columns : tuple of Column
        What a page shows of it.
    order : int
        Where it stands among the others.
    row : callable, optional
        Turns the sums of some clips into the values of a row; without one, rows come from elsewhere.
    needed : tuple of str
        Scores that `row` reads.
    by : tuple of str
        What tells the rows of a class apart.
    sigmas : "both", "selective" or "all"
        The baseline and the usual threshold, only the latter, or every threshold.
    rows_of : str
        The table whose rows it shows, if they are not its own.
    short_title : str
        Title on a console, which prints no table without one.
    paper : tuple of dict
        Rows with the paper's values.
    ratios : frozenset of str
        For the forms "score" and "score range": scores that are ratios, not shares.
    """

    name: str
    title: str
    note: str
    columns: tuple[Column, ...]
    order: int
    row: Callable[[Part], Row] | None = None
    needed: tuple[str, ...] = ()
    by: tuple[str, ...] = ("method", "sigma")
    sigmas: Literal["both", "selective", "all"] = "both"
    rows_of: str = ""
    short_title: str = ""
    paper: tuple[Mapping[str, Any], ...] = ()
    ratios: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Metric:
    """One metric, the ``METRIC`` of its file.

    Parameters
    ----------
    terms : mapping of str to (str, str)
        Words that a reader may look up, each with a sentence that explains it.
    tables : tuple of Table
        What it gives.
    count : callable, optional
        Counts each map of a clip, the baseline first.
    ratios : callable, optional
        Divides the counts of one map, which are those of all metrics.
    scores : tuple of str
        Of the ratios, those that tables average over clips.
    derived : tuple of str
        Further scores, which `derive` computes from the columns of many clips.
    derive : callable, optional
        Gives them; it may replace columns.
    swept : tuple of Column
        What tables and charts show of it for every sigma.
    compared : tuple of str
        Scores by which two runs are compared.
    of_baseline : bool
        Whether it says anything of the baseline.
    pairs : bool
        Whether it is of two methods on the same clip.
    """

    terms: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    tables: tuple[Table, ...] = ()
    count: Callable[[Maps], list[Row]] | None = None
    ratios: Callable[[Mapping[str, int | float]], Ratios] | None = None
    scores: tuple[str, ...] = ()
    derived: tuple[str, ...] = ()
    derive: Callable[[Columns], Columns] | None = None
    swept: tuple[Column, ...] = ()
    compared: tuple[str, ...] = ()
    of_baseline: bool = True
    pairs: bool = False


# Columns that many tables have.
METHOD = Column("method", "Method", "text", "method", short="method")
MAP = Column("sigma", "Map", "map", "map", short="map")
CLIPS = Column("n_clips", "Clips", "count", "clip")
EMPTY = Column("n_empty", "Empty", "count", "empty")


def interval(name: str, heading: str = "95 % interval", *, short: str = "95 %") -> Column:
    """The column of an interval, by the name of its lower end."""
    return Column(name, heading, "range", "interval", short=short, reason="no_interval")


def share(part: float, whole: float) -> float | None:
    """Divide, and give None where the whole is 0."""
    return part / whole if whole else None
