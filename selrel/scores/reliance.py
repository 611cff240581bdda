"""Reliance: how much of a model's decision goes when the motion of its clips stops, or is out of order.

The score of a class is its centred logit: the logit less the mean of the other classes'. A number that is
added to all logits changes neither the answer nor this score. Over clips, the reliance is the part of the
score that a change takes away: 0 if nothing is lost, 1 if all is, above 1 if the changed clips speak against
the class. It is not cut to the range 0 to 1, as a share would be.

Frozen clips tell the reliance on motion, shuffled ones on the order of frames, reversed ones on the direction
of time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from selrel.engine.ties import first_highest
from selrel.scores.intervals import jackknife_error, mean_interval, no_interval, student
from selrel.scores.metric import CLIPS, Column, Metric, Row, Table, interval
from selrel.scores.sums import group_sums

Floats = npt.NDArray[np.float64]
_DECISIONS = {"predicted": "decision", "true": "decision_true"}

RELIANCE_OF = {"frozen": "motion_reliance", "shuffled": "order_reliance", "reversed": "direction_reliance"}
# Below it, the class is less than twice as likely as the others are in the (geometric) mean.
LEAST_SCORE = math.log(2)
NO_DECISION = "no decision to speak of"
# Ends of the words for a motion reliance.
_HARDLY, _PARTLY = 0.2, 0.6


def centred(logits: npt.NDArray[Any], classes: npt.NDArray[Any]) -> Floats:
    """The centred logit of a class in each clip.

    Parameters
    ----------
    logits : float array (clip, class)
        The model's outputs before softmax, of two classes or more.
    classes : int array (clip,)
        The class that is asked about; -1 where there is none.

    Returns
    -------
    float64 (clip,): its logit less the mean of all others'; NaN where there is no class.

    Raises
    ------
    ValueError
        If there is only one class: it has no other to be told from.
    """
    n_classes = logits.shape[1]
    if n_classes < 2:
        raise ValueError("the model has one class: a decision takes two")
    values = logits.astype(np.float64)
    # A shift common to all cancels, and what is left keeps its digits.
    values -= values.mean(axis=1, keepdims=True)
    chosen = np.take_along_axis(values, np.maximum(classes, 0)[:, None], axis=1)[:, 0]
    # The deviation from the mean of all is (n - 1) / n of that from the mean of the others.
    return np.where(classes >= 0, chosen * n_classes / (n_classes - 1), np.nan)


def reliance(intact: Floats, changed: Floats, groups: npt.NDArray[Any]) -> Row:
    """Pool clips into one reliance, with its 95 % interval.

    Parameters
    ----------
    intact, changed : float64 (clip,)
        Centred logits of the same class in the clips as they are, and changed; NaN where there is none.
    groups : array (clip,)
        Label of the group that each clip is from; clips of a group need not be independent.

    Returns
    -------
    dict
        ``reliance``, None where there is no decision to speak of; ``low``, ``high`` and ``no_interval``, the
        reason where there is none; ``no_decision``, the reason; ``reads``, the number in words (`in_words`);
        ``mean_score``, the mean centred logit of the
        intact clips (nat); ``n_clips`` and ``n_groups``.
    """
    has = ~np.isnan(intact)
    intact, changed, groups = intact[has], changed[has], groups[has]
    before, after = group_sums(intact, groups), group_sums(changed, groups)
    score, n_groups = before.mean, len(before.groups)
    row: Row = {"reliance": None, "low": None, "high": None, "mean_score": score, "n_clips": len(intact)}
    row |= {"n_groups": n_groups, "no_interval": no_interval(n_groups), "no_decision": None, "reads": None}
    if score is None:
        return row | {"no_decision": f"{NO_DECISION}: no clip has a label that the model knows"}
    if score < LEAST_SCORE:
        return row | {
            "no_interval": None,
            "no_decision": f"{NO_DECISION}: on average, the class is only {math.exp(score):.2f} times as "
            "likely as the others",
        }
    row["reliance"] = 1 - float(after.total.sum() / before.total.sum())
    if row["no_interval"] is None:
        row["low"], row["high"] = _interval(before.total, after.total, before.n, row["reliance"])
    return row | {"reads": in_words(row)}


def _interval(
    before: Floats, after: Floats, n: npt.NDArray[np.intp], value: float
) -> tuple[float, float] | tuple[None, None]:
    """The jackknife's: a group's scores may add up to less than 0, which can't be a weight."""
    rest = before.sum() - before
    if not (rest > 0).all():
        return None, None
    reach = jackknife_error(1 - (after.sum() - after) / rest)
    reach *= student(float(n.sum() ** 2 / (n.astype(np.float64) ** 2).sum() - 1))
    return value - reach, value + reach


def clip_decisions(
    logits: npt.NDArray[Any],
    changed: Mapping[str, npt.NDArray[Any]],
    *,
    answer: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
) -> dict[str, npt.NDArray[Any]]:
    """What the table of reliances needs of each clip.

    Parameters
    ----------
    logits : float array (clip, class)
        Of the clips as they are, of two classes or more.
    changed : mapping of str to float array (clip, class)
        Of the same clips, by the change.
    answer, labels : int64 (clip,)
        The class that the model says of the clips as they are, and the true one; -1 where the model has none
        for it.

    Returns
    -------
    dict of str to array (clip,)
        Centred logits, float64 in nat: ``decision`` of the answer and ``decision_true`` of the true class
        (NaN where there is none), and the same ``_<change>``; int64: ``answer_<change>``.
    """
    found: dict[str, npt.NDArray[Any]] = {}
    for end, values in {"": logits, **{f"_{change}": values for change, values in changed.items()}}.items():
        found[f"decision{end}"] = centred(values, answer)
        found[f"decision_true{end}"] = centred(values, labels)
        if end:
            found[f"answer{end}"] = np.asarray(
                first_highest(torch.from_numpy(np.ascontiguousarray(values))).numpy(), np.int64
            )
    return found


def clip_reliance(decision: Floats, changed: Floats) -> Floats:
    """The reliance of each clip by itself, float64 (clip,); NaN where there is no decision to speak of."""
    decided = decision >= LEAST_SCORE
    return np.where(decided, 1 - changed / np.where(decided, decision, 1), np.nan)


def reliance_rows(
    clips: Mapping[str, npt.NDArray[Any]],
    changes: Sequence[str],
    *,
    answer: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    groups: npt.NDArray[Any],
    classes: npt.NDArray[Any],
    n_answers: int,
) -> list[Row]:
    """The table of reliances: a row for every change, for the predicted class and for the true one.

    Parameters
    ----------
    clips
        As `clip_decisions` gives it.
    changes
        Which.
    answer, labels : int64 (clip,)
        As for `clip_decisions`.
    groups : array (clip,)
        Label of the group that each clip is from.
    classes : array of str (clip,)
        What the rows by class are by.
    n_answers : int
        How many classes the model tells apart.

    Returns
    -------
    list of dict
        ``class`` (None over all), ``change``, ``target``; what `reliance` gives; ``kept``, the share of
        answers that the change keeps; ``accuracy`` of the changed and ``intact_accuracy`` of the intact
        clips, each with ``_low`` and ``_high``.
    """
    rows: list[Row] = []
    guessing: str | None = None
    for name in (None, *np.unique(classes).tolist()):
        of = np.ones(len(classes), bool) if name is None else classes == name
        right = _accuracy("intact_accuracy", answer[of], labels[of], groups[of])
        if name is None:
            guessing = at_chance(right, n_answers)
        for change in changes:
            said = clips[f"answer_{change}"][of]
            common = {
                **_share("kept", (said == answer[of]).astype(np.float64), groups[of]),
                **_accuracy("accuracy", said, labels[of], groups[of]),
                **right,
            }
            for target, decision in _DECISIONS.items():
                row = reliance(clips[decision][of], clips[f"{decision}_{change}"][of], groups[of])
                if guessing:
                    row |= dict.fromkeys(("reliance", "low", "high", "no_interval", "reads"))
                    row["no_decision"] = guessing
                rows.append({"class": name, "change": change, "target": target, **row, **common})
    return rows


def _accuracy(
    name: str, answer: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], groups: npt.NDArray[Any]
) -> Row:
    right = np.where(labels >= 0, (answer == labels).astype(np.float64), np.nan)
    return _share(name, right, groups)


def _share(name: str, values: Floats, groups: npt.NDArray[Any]) -> Row:
    low, high = mean_interval(values, groups, of="share") or (None, None)
    return {name: group_sums(values, groups).mean, f"{name}_low": low, f"{name}_high": high}


def at_chance(right: Row, n_classes: int) -> str | None:
    """Why a model's answers are no better than guesses; None if they are better, or nobody knows."""
    accuracy, low = right["intact_accuracy"], right["intact_accuracy_low"]
    if accuracy is None or (accuracy if low is None else low) > 1 / n_classes:
        return None
    return (
        f"{NO_DECISION}: the model is right on {100 * accuracy:.1f} % of the clips, which may be chance: "
        f"guesses among {n_classes} classes are right on {100 / n_classes:.1f} %"
    )


def in_words(row: Row) -> str:
    """How a motion reliance reads: hardly, partly or mostly; both words where its interval spans two."""
    ends = [row["low"], row["high"]] if row["low"] is not None else [row["reliance"]] * 2
    first, last = ("hardly" if end < _HARDLY else "partly" if end < _PARTLY else "mostly" for end in ends)
    return first if first == last else f"{first} to {last}"


METRIC = Metric(
    terms={
        "reliance": (
            "Motion reliance",
            "The part of the score of the model's answers that is lost when every clip is frozen at its "
            "middle frame: 0 % if the still picture says as much, 100 % if it says nothing, more if it "
            "speaks against the answer. With the frames shuffled it is the reliance on their order, and "
            "with time reversed that on its direction.",
        ),
    },
    tables=(
        Table(
            name="reliance",
            title="Reliance: what is left of the decision when the clips are changed",
            note="The part of a class's score (its logit less the mean of the others') that goes when a "
            "clip is frozen at its middle frame, its frames are shuffled, or time runs backwards: 0 if "
            "nothing is lost, 100 if all is, more if the changed clips speak against the class, less than 0 "
            "if they speak for it even more. No model was trained on such clips. For the predicted class "
            "chance is on the side of the intact clips; for the true one it isn't.",
            order=1,
            columns=(
                Column("change", "Change", "text"),
                Column("target", "Asked about", "target"),
                Column("reliance", "Reliance, %", term="reliance", reason="no_decision"),
                interval("low"),
                Column("kept", "Answers kept, %"),
                Column("intact_accuracy", "Right as it is, %"),
                Column("accuracy", "Right when changed, %"),
                CLIPS,
            ),
        ),
    ),
)
