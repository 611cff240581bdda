"""Motion reliance in sentences, for a page, a console and Prefect alike."""

from __future__ import annotations

from collections.abc import Sequence

from storage.report.figures import Row, count, difference_range, percent, percent_range, signed

# What each change shows, in the order in which they are told.
CHANGES = {"frozen": "motion reliance", "shuffled": "order reliance", "reversed": "direction reliance"}
MEANING = (
    "the part of the score of the model's answers that is lost when the motion stops (0 %: none of it, "
    "100 %: all)"
)
_ANSWERS = {"hardly": "Hardly", "partly": "In part", "mostly": "Mostly"}
NOT_ASKED = (
    "Nobody asked: this run left out the changed clips (`--changes none`), or its model has one class."
)


def answer(row: Row | None) -> str:
    """Answer whether the model uses motion, in a word or a sentence; `row` is a run's ``motion_reliance``."""
    if row is None:
        return NOT_ASKED
    if row["reliance"] is None:
        return f"Nobody can say: {row['no_decision']}."
    first, _, last = row["reads"].partition(" to ")
    return _ANSWERS[first] + (f", or {_ANSWERS[last].lower()}: the interval spans both." if last else ".")


def value(row: Row) -> str:
    """A reliance with its interval, or that there is none."""
    if row["reliance"] is None:
        return "none"
    between = "no interval" if row["low"] is None else percent_range(row)
    return f"{percent(row['reliance'])} ({between})"


def told(rows: Sequence[Row]) -> list[Row]:
    """The rows over all classes for the predicted class, in the order in which they are told."""
    found = {row["change"]: row for row in rows if row["class"] is None and row["target"] == "predicted"}
    return [found[change] for change in CHANGES if change in found]


def by_class(rows: Sequence[Row]) -> list[Row]:
    """The classes with their accuracy by change, those that need motion most first.

    Returns
    -------
    list of dict
        ``class``; ``right``, pairs of a kind of clips and the share of right answers; ``reliance``, the row
        of the frozen clips; ``n_clips``. Classes without a decision to speak of come last.
    """
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row["class"] is not None and row["target"] == "predicted":
            found.setdefault(row["class"], {})[row["change"]] = row
    classes: list[Row] = []
    for name, changes in found.items():
        told_in_order = [changes[change] for change in CHANGES if change in changes]
        first = told_in_order[0]
        classes.append(
            {
                "class": name,
                "right": [("as they are", first["intact_accuracy"])]
                + [(row["change"], row["accuracy"]) for row in told_in_order],
                "reliance": changes.get("frozen"),
                "n_clips": first["n_clips"],
            }
        )

    def order(row: Row) -> tuple[bool, float, str]:
        value = row["reliance"] and row["reliance"]["reliance"]
        return value is None, -(value or 0.0), row["class"]

    return sorted(classes, key=order)


def single_frames(clips: Sequence[Row]) -> str | None:
    """In how many of the clips that were looked at frame by frame one frame alone gives the answer."""
    looked_at = [clip["single_frames"] for clip in clips if clip.get("single_frames")]
    if not looked_at:
        return None
    enough = sum(found["same"][found["best"]] for found in looked_at)
    return (
        f"Of {count(len(looked_at))} of these clips, every frame was also shown to the model by itself: in "
        f"{count(enough)} of them, the best single frame gives the same answer as the whole clip. That is an "
        "upper limit of what a still picture tells, since it is the best of many."
    )


def right(rows: Sequence[Row]) -> str:
    """How often the model is right on the clips as they are, and on each kind of changed ones."""
    shares = ", ".join(f"{percent(row['accuracy'])} {row['change']}" for row in rows)
    return f"It is right on {percent(rows[0]['intact_accuracy'])} of the clips as they are: {shares}."


def beside_frozen(found: Row) -> str:
    """The motion share of some clips beside that of the same clips frozen; ``frozen_share`` of a run."""
    return (
        f"Frozen, where nothing moves, {count(found['n_clips'])} of the clips still have "
        f"{percent(found['frozen'])}, and {percent(found['as_it_is'])} as they are: "
        f"{signed(found['difference'])} points{difference_range(found)}."
    )
