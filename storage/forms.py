"""What stored JSON must look like, checked where it is read: types here, meaning where it is used.

A root may be filled by somebody else, and a file may be of another version: a value of the wrong kind is
refused with the file's name, and so is a value that is missing, as soon as somebody asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    with_config,
)

# pydantic needs the one of typing_extensions before Python 3.12.
from typing_extensions import TypedDict

from storage.layout import PLAIN_NAME

MAX_SIDE = 2**14
_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
# Passed on as keywords.
_CLOSED = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")

T = TypeVar("T")
# One fault is told, and each that is found takes more memory than the file.
Many = Annotated[list[T], Field(fail_fast=True)]
Name = Annotated[str, StringConstraints(pattern=f"^{PLAIN_NAME}$")]
# What names a method names its file and its array.
Method = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
Count = Annotated[int, Field(ge=0)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Pair = Annotated[list[Side], Field(min_length=2, max_length=2)]
Triple = Annotated[list[float], Field(min_length=3, max_length=3)]
Scalar = str | int | float | bool | None


class Damaged(ValueError):
    """A stored file that is not of the form in which it is written; the message is one line."""


class Stored(dict[str, Any]):
    """A stored object: a value that it lacks is damage of its file, and no slip of the program.

    Raises
    ------
    Damaged
        On asking for a value that is not there.
    """

    where = ""

    def __missing__(self, name: str) -> Any:
        """Name the file that lacks the value."""
        raise Damaged(f"{self.where} lacks {name!r}: it is damaged, or of another version of selrel")


@with_config(_STRICT)
class View(TypedDict, total=False):
    """What `selrel.clips.profiles.View` is made of."""

    resize: Side | Pair
    crop: Pair
    crop_rounding: str
    clip_length: Side


@with_config(_STRICT)
class Profile(TypedDict, total=False):
    """What `selrel.clips.profiles.Profile` is made of."""

    family: str
    view: View
    colour_order: Literal["RGB", "BGR"]
    scale: float
    mean: Triple
    std: Triple
    label_order: Literal["classInd", "sorted"]


@with_config(_CLOSED)
class Selective(TypedDict, total=False):
    """The choices of the selective step but for its threshold."""

    edge: str
    border: str
    floor: float
    scaling: str


@with_config(_CLOSED)
class Motion(TypedDict, total=False):
    """When a voxel counts as moving."""

    rule: str
    tau: float


@with_config(_STRICT)
class Settings(TypedDict, total=False):
    """What changes a result and is neither in the data set nor in the checkpoint."""

    methods: Annotated[dict[Method, dict[str, Scalar]], Field(min_length=1)]
    sigmas: Annotated[list[float], Field(min_length=1, max_length=1000)]
    selective: Selective
    motion: Motion
    target: str
    batch_clips: Side
    changes: list[Literal["frozen", "shuffled", "reversed"]]


@with_config(_STRICT)
class Drawn(TypedDict, total=False):
    """Which videos were drawn."""

    seed: int
    videos: int | None
    classes: Many[str] | None
    held_out_groups: Count | None


@with_config(_STRICT)
class Gate(TypedDict, total=False):
    """Which fall of which measure passes."""

    max_drop: float | None
    against: str | None
    measure: Literal["motion_reliance", "motion_share"]


@with_config(_STRICT)
class RunForm(TypedDict, total=False):
    """run.json."""

    dataset_id: Name
    data: str
    checkpoint: str
    checkpoint_sha256: str
    family: str
    model: str | None
    profile: Profile
    settings: Settings
    code: str
    # Of runs of older versions.
    code_version: str
    versions: dict[str, str]
    device: str
    others: dict[str, str]
    drawn: Drawn
    gate: Gate
    work: dict[str, JsonValue]


@with_config(_STRICT)
class Share(TypedDict, total=False):
    """A motion share with its interval."""

    method: str
    sigma: float
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    n_clips: Count
    n_empty: Count
    n_uncounted: Count
    no_interval: str | None


@with_config(_STRICT)
class Reliance(TypedDict, total=False):
    """A reliance with its interval, and what the model answers."""

    reliance: float | None
    low: float | None
    high: float | None
    mean_score: float | None
    n_clips: Count
    n_groups: Count
    no_interval: str | None
    no_decision: str | None
    reads: str | None
    kept: float | None
    kept_low: float | None
    kept_high: float | None
    accuracy: float | None
    accuracy_low: float | None
    accuracy_high: float | None
    intact_accuracy: float | None
    intact_accuracy_low: float | None
    intact_accuracy_high: float | None


@with_config(_STRICT)
class FrozenShare(TypedDict, total=False):
    """The motion share of some clips as they are and frozen, and the paired difference."""

    as_it_is: float
    frozen: float
    difference: float
    low: float | None
    high: float | None
    n_clips: Count
    no_interval: str | None


@with_config(_STRICT)
class Verdict(TypedDict, total=False):
    """The comparison with the run before."""

    previous: Name
    before: float | None
    after: float | None
    difference: float | None
    low: float | None
    high: float | None
    n_clips: Count | None
    no_interval: str | None
    max_drop: float | None
    measure: Literal["motion_reliance", "motion_share"]
    passed: bool
    error: str


@with_config(_STRICT)
class StageEffort(TypedDict, total=False):
    """What the blocks of a stage took."""

    share: float | None
    blocks: Count
    worker_seconds: float


@with_config(_STRICT)
class Effort(TypedDict, total=False):
    """How much of the workers' time was no arithmetic."""

    share: float | None
    stages: dict[str, StageEffort]


@with_config(_STRICT)
class SummaryForm(TypedDict, total=False):
    """_SUCCESS.json."""

    dataset_id: Name
    motion_share: Share | None
    motion_reliance: Reliance | None
    frozen_share: FrozenShare | None
    videos: Count
    clips: Count
    accuracy: Annotated[float, Field(ge=0, le=1)]
    flagged_clips: Count
    other_target_clips: Count
    excluded_videos: Count
    largest_conservation_error: float | None
    overhead: Effort | None
    results_sha256: str
    finished_at: str
    comparison: Verdict | None
    state: str
    quarantined: Many[dict[str, JsonValue]]
    left_out_blocks: Many[Count]
    left_out_clips: Count


@with_config(_STRICT)
class DatasetForm(TypedDict, total=False):
    """dataset.json; a row a video: name, class, label, group, split, and what else tells it from another."""

    videos: Many[Many[Scalar]]
    classes: Annotated[Many[str], Field(min_length=1)]
    split: int
    subset: str
    view: View
    block_clips: Annotated[int, Field(ge=1)]
    code: str
    opencv: str


@with_config(_CLOSED)
class LeaseForm(TypedDict):
    """lease.json."""

    token: str
    host: str
    pid: int
    machine: str
    beat: float


RUN = TypeAdapter(RunForm)
SUMMARY = TypeAdapter(SummaryForm)
DATASET = TypeAdapter(DatasetForm)
LEASE = TypeAdapter(LeaseForm)
# What is there or not, but not in part.
_TOGETHER = (("low", "high"), ("before", "after", "difference"))
_OF_VIDEO = (str, str, int, str, str)


def checked(form: TypeAdapter[Any], content: object, where: str) -> Stored:
    """Give a stored object back as it is, if it has a form.

    Parameters
    ----------
    form : TypeAdapter
        One of this file's; a value that may be absent is missed by whoever asks for it.
    content : object
        Parsed JSON.
    where : str
        The file, for the message.

    Raises
    ------
    Damaged
        If a value is of the wrong kind: one line names it.
    """
    try:
        form.validate_python(content)
        found: Stored = _stored(content, where)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(repr(part)[1:-1] if isinstance(part, str) else str(part) for part in first["loc"])
        value = repr(first["input"])
        value = value if len(value) <= 60 else f"{value[:60]}.."
        raise Damaged(
            f"{where} is damaged, or was changed by hand: {place[:80] or 'it'} is {value} ({first['msg']})"
        ) from None
    except RecursionError:
        raise Damaged(
            f"{where} is damaged, or was changed by hand: it holds lists in lists without end"
        ) from None
    n_classes = len(found.get("classes", ()))
    for row in found.get("videos", ()) if form is DATASET else ():
        kinds = tuple(type(value) for value in row[: len(_OF_VIDEO)])
        if kinds != _OF_VIDEO or not 0 <= row[2] < n_classes:
            raise Damaged(f"{where} is damaged, or was changed by hand: {row!r:.80} describes no video")
    return found


def _stored(value: object, where: str) -> Any:
    if isinstance(value, dict):
        for together in _TOGETHER:
            if len({value[name] is None for name in together if name in value}) > 1:
                raise Damaged(f"{where} is damaged: of {' and '.join(together)} only some are there")
        found = Stored((name, _stored(inner, where)) for name, inner in value.items())
        found.where = where
        return found
    return [_stored(inner, where) for inner in value] if isinstance(value, list) else value


def rows(found: Iterator[dict[str, Any]] | list[dict[str, Any]], where: str) -> list[Stored]:
    """A table's rows; a column that is missing is damage of the file."""
    return [_stored(row, where) for row in found]
