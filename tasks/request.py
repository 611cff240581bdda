"""What a person may ask for: the only lists of options.

The flags of the commands, `selrel.toml`, the parameters of the flows with their descriptions, the printed
command and what run.json says derive from them, so an option is one entry here. Nothing heavy is imported
before a request is made: `selrel explain --help` needs no torch.
"""

from __future__ import annotations

import os
import types
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from math import isfinite
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

PAPER_METHODS = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")

_DATA = "Data"
_EXPLANATION = "Explanation"
_PROFILE = "Profile: what differs from the checkpoint family's"
_WORK = "Work"
_GATE = "Gate"
_MODEL = "Model"


def _option(default: Any, group: str, about: str, *, kept: str | None = None) -> Any:
    """Declare an option.

    `default` is ``...`` where a value must be given. `kept` is where a run's description keeps it: a path
    in run.json, or in dataset.json where it begins with "dataset".
    """
    metadata = {"group": group, "help": about, "kept": kept}
    return field(default=MISSING if default is ... else default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is explained, and how: where the inputs are, and every choice that changes a result.

    However a value is written, by a flag, in a file or in Python, it is brought to one form here: 1 and 1.0,
    -0.0 and 0, a list and a tuple, a path and its text. So one meaning is one run.

    Raises
    ------
    ValueError
        If a value is not allowed; one line says what is.
    """

    data: str = _option(..., _DATA, "Directory that holds `UCF-101/` and `ucfTrainTestlist/`.", kept="data")
    checkpoint: str = _option(..., _DATA, "The checkpoint: a file, or `s3://bucket/key`.", kept="checkpoint")
    root: str = _option(..., _DATA, "Directory or `s3://bucket/prefix` under which all results lie.")
    split: int = _option(1, _DATA, "UCF-101's split: 1, 2 or 3.", kept="dataset.split")
    subset: Literal["train", "test", "all"] = _option(
        "test", _DATA, "Which of the split's videos; `all` takes every video on disk.", kept="dataset.subset"
    )
    classes: Sequence[str] | None = _option(
        None,
        _DATA,
        "Only videos of these classes, of those that the model tells apart; by default of all. A model that "
        "has an output for just these, and doesn't say what it was trained on, tells no others apart.",
        kept="drawn.classes",
    )
    held_out_groups: int = _option(
        0,
        _DATA,
        "Only the groups that `selrel train` held out, if given the same of this, of the seed, the split and "
        "the subset (that of `train` is train by default) and the classes.",
        kept="drawn.held_out_groups",
    )
    videos: int | None = _option(
        None,
        _DATA,
        "How many videos to draw, evenly over the classes; all of them by default.",
        kept="drawn.videos",
    )
    seed: int = _option(0, _DATA, "Seed of the draw, and of the held-out groups.", kept="drawn.seed")
    methods: Sequence[str] = _option(
        PAPER_METHODS,
        _EXPLANATION,
        "Explanations, each with its settings where they differ from its own defaults: "
        "`deep_taylor:alpha=2`, or `deep_taylor:alpha=2,start=logit`. Also `gradient_x_input` and "
        "`sensitivity`.",
        kept="settings.methods",
    )
    sigmas: Sequence[float] | None = _option(
        None,
        _EXPLANATION,
        "Thresholds of the selective step in standard deviations; by default 0.5 to 4 in steps of 0.5. 2 is "
        "always among them.",
        kept="settings.sigmas",
    )
    target: str = _option(
        "predicted",
        _EXPLANATION,
        "Class to explain: `predicted` for the clip, `video` (the one predicted for its whole video), "
        "`true`, or the name of a class.",
        kept="settings.target",
    )
    preset: Literal["default", "paper"] = _option(
        "default", _EXPLANATION, "Choices that the paper leaves open: ours, or those that fit its figures."
    )
    edge: Literal["magnitude", "rising", "falling"] | None = _option(
        None,
        _EXPLANATION,
        "Which temporal edges count, instead of the preset's.",
        kept="settings.selective.edge",
    )
    border: Literal["replicate", "zero"] | None = _option(
        None,
        _EXPLANATION,
        "What comes before the first and after the last frame, instead of the preset's.",
        kept="settings.selective.border",
    )
    floor: float | None = _option(
        None,
        _EXPLANATION,
        "Edges below this share of the largest relevance never count, instead of the preset's.",
        kept="settings.selective.floor",
    )
    scaling: Literal["none", "max"] | None = _option(
        None,
        _EXPLANATION,
        "Scaling of a cube before the filter, instead of the preset's.",
        kept="settings.selective.scaling",
    )
    motion_rule: Literal["tau", "frame_std"] = _option(
        "tau",
        _EXPLANATION,
        "When a voxel moves: flow longer than tau, or the rule of the authors' code.",
        kept="settings.motion.rule",
    )
    tau: float = _option(0.5, _EXPLANATION, "Pixels per frame.", kept="settings.motion.tau")
    changes: Sequence[str] | None = _option(
        None,
        _EXPLANATION,
        "Also ask the model about each clip `frozen`, `shuffled` and `reversed` (all three by default), for "
        "one forward pass each: how much of its decision rests on motion, on the order of frames, on the "
        "direction of time. `none`: don't.",
        kept="settings.changes",
    )
    played: int = _option(
        16,
        _EXPLANATION,
        "For how many of the clips that the report plays the method `discriminative` tells frames from their "
        "change; 0: none. `--methods discriminative` does so for all clips.",
        kept="settings.played",
    )
    family: str | None = _option(
        None, _PROFILE, "The checkpoint's family, where its keys don't tell.", kept="family"
    )
    model: str | None = _option(
        None,
        _PROFILE,
        "`package.module:factory`, which makes a model of your own and its profile; the package must be "
        "importable here and on the workers (`PYTHONPATH`).",
        kept="model",
    )
    colour_order: Literal["RGB", "BGR"] | None = _option(
        None, _PROFILE, "Order of the input channels.", kept="profile.colour_order"
    )
    resize: tuple[int, int] | int | None = _option(
        None,
        _PROFILE,
        "Width and height of a frame before the crop, or one number: the length of its short side.",
        kept="profile.view.resize",
    )
    crop: tuple[int, int] | None = _option(
        None, _PROFILE, "Height and width of the centre crop.", kept="profile.view.crop"
    )
    crop_rounding: Literal["floor", "round"] | None = _option(
        None,
        _PROFILE,
        "What becomes of half a pixel beside the crop.",
        kept="profile.view.crop_rounding",
    )
    clip_length: int | None = _option(None, _PROFILE, "Frames of a clip.", kept="profile.view.clip_length")
    mean: tuple[float, float, float] | None = _option(
        None, _PROFILE, "Channel means, in the colour order.", kept="profile.mean"
    )
    std: tuple[float, float, float] | None = _option(
        None, _PROFILE, "Channel deviations, in the colour order.", kept="profile.std"
    )
    scale: float | None = _option(
        None, _PROFILE, "Multiplier of the pixel values 0..255.", kept="profile.scale"
    )
    label_order: Literal["classInd", "sorted"] | None = _option(
        None, _PROFILE, "Order of the model's outputs.", kept="profile.label_order"
    )
    block_clips: int = _option(
        64, _WORK, "Clips of a block, the unit of work, storage and resuming.", kept="dataset.block_clips"
    )
    batch_clips: int = _option(8, _WORK, "Clips of one forward pass.", kept="settings.batch_clips")
    max_drop: float | None = _option(
        None,
        _GATE,
        "The largest fall of the motion reliance that passes: 0.05 is five percentage points. A run that "
        "falls by more, with the whole 95 % interval of the paired difference below 0, is complete, but its "
        "command ends with exit code 4, and its flow run fails and emits the event "
        "selrel.motion-reliance.dropped. With fewer than three groups of videos there is no interval, and "
        "the mean alone decides.",
        kept="gate.max_drop",
    )
    against: str | None = _option(
        None,
        _GATE,
        "The run to compare with; by default the last one on the same data set with the same settings.",
        kept="gate.against",
    )
    gate: Literal["motion_reliance", "motion_share"] = _option(
        "motion_reliance", _GATE, "What must not fall.", kept="gate.measure"
    )

    def __post_init__(self) -> None:
        """Bring every value to its one form, and check what can be checked without reading a file."""
        from selrel.clips.flow import check_rule

        normal = {name: _normal(name, hint, getattr(self, name)) for name, hint in hints(Request).items()}
        for name, value in {**normal, **_normal_explanation(normal)}.items():
            object.__setattr__(self, name, value)
        check_rule(self.motion_rule, self.tau)
        for name in ("block_clips", "batch_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.family is not None and self.model is not None:
            raise ValueError(
                f"family {self.family} and model {self.model} exclude each other; give one of them"
            )
        if self.played < 0:
            raise ValueError(f"played is {self.played}; give a number of clips, or 0 for none")
        if self.held_out_groups < 0:
            raise ValueError(f"held_out_groups is {self.held_out_groups}; give 1 or more, or 0 for all")
        if self.held_out_groups and self.subset == "test":
            raise ValueError(
                "a training holds no groups of subset test out; give the subset that it was given: train, "
                "its default, or all"
            )
        if self.videos is not None and self.videos < 1:
            raise ValueError(f"videos is {self.videos}; give 1 or more, or leave it out for all of them")
        self._check_gate()

    def _check_gate(self) -> None:
        if self.max_drop is None:
            if self.against is not None:
                raise ValueError(
                    f"against is {self.against}, but max drop is not given; give both, or `selrel compare`"
                )
            return
        if not 0 <= self.max_drop <= 1:
            raise ValueError(
                f"max drop is {self.max_drop}; give a share from 0 to 1: 0.05 is five percentage points"
            )
        if self.gate == "motion_reliance" and "frozen" not in (self.changes or ()):
            raise ValueError(
                "max drop is about the motion reliance, which frozen clips measure; add frozen to the "
                "changes, or give the gate motion_share"
            )
        if self.gate == "motion_share" and "deep_taylor" not in self.methods:
            raise ValueError(
                "max drop is about the motion share, which deep_taylor measures; add it to the methods"
            )

    @property
    def profile(self) -> dict[str, Any]:
        """What differs from the profile of the checkpoint's family, by the names of its fields."""
        return {
            one.name: value
            for one in fields(self)
            if (one.metadata["kept"] or "").startswith("profile.")
            and (value := getattr(self, one.name)) is not None
        }

    def kept(self) -> dict[str, Any]:
        """Every option where a run's description keeps it, as JSON; under "dataset" that of its data set."""
        kept: dict[str, Any] = {}
        for one in fields(self):
            if one.metadata["kept"]:
                *parents, name = one.metadata["kept"].split(".")
                inner = kept
                for parent in parents:
                    inner = inner.setdefault(parent, {})
                value = getattr(self, one.name)
                inner[name] = list(value) if isinstance(value, tuple) else value
        return kept

    def settings(self) -> dict[str, Any]:
        """Every choice that changes a result and is not in the data set or the checkpoint, as JSON."""
        settings: dict[str, Any] = self.kept()["settings"]
        return settings


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where the work is done, which changes no result."""

    workers: int | None = _option(
        None, _WORK, "Worker processes; by default one a GPU, or one a CPU where there is none."
    )
    scheduler: str | None = _option(
        None, _WORK, "An existing Dask scheduler to use instead, such as `tls://host:8786`."
    )
    insecure: bool = _option(False, _WORK, "Accept an unencrypted scheduler on another machine.")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained, on what, and where to; how is `selrel.training.recipe.Recipe`."""

    data: str = _option(..., _DATA, "Directory that holds `UCF-101/` and `ucfTrainTestlist/`.")
    checkpoint: str = _option(
        ...,
        _DATA,
        "The file to publish at the end, such as c3d.pth.tar, in a directory or on S3, in the format of "
        "jfzhang95's C3D. Beside it, in `CHECKPOINT.training/`: a checkpoint an epoch, `history.parquet`, "
        "`curve.png`. A file there that another training has made is an error.",
    )
    split: int = _option(1, _DATA, "UCF-101's split: 1, 2 or 3.")
    subset: Literal["train", "all"] = _option(
        "train", _DATA, "Videos to learn from: those of the split's training list, or all."
    )
    classes: Sequence[str] | None = _option(None, _DATA, "The only classes there are; all by default.")
    held_out_groups: int = _option(
        0, _DATA, "Groups of each class that judge the model instead of the split's test list."
    )
    weights: str | None = _option(
        None,
        _MODEL,
        "A C3D to start from (Sports-1M's, or any other, in a published format), a file or "
        "`s3://bucket/key`, with a new last layer; its widths replace those given.",
    )
    widths: Sequence[int] | None = _option(
        None, _MODEL, "Channels of the eight convolutions; those of the published C3D by default."
    )
    hidden: Sequence[int] | None = _option(
        None, _MODEL, "Units of the two hidden layers; 4096 each by default."
    )
    dropout: float = _option(0.5, _MODEL, "Probability that a hidden unit is zeroed in training.")
    every: int = _option(1, _WORK, "Publish a checkpoint every so many epochs.")
    seed: int = _option(
        0, _WORK, "Seed of the weights, the held-out groups, the order of clips, augmentation and dropout."
    )
    device: str = _option("cpu", _WORK, "Where to train: `cpu`, `cuda` or `cuda:1`.")

    def __post_init__(self) -> None:
        """Check what can be checked without reading a file."""
        if self.every < 1:
            raise ValueError(f"every is {self.every}; give 1 epoch or more")
        alone = self.subset == "all" and not self.held_out_groups
        if self.subset not in ("train", "all") or self.held_out_groups < 0 or alone:
            raise ValueError(
                f"subset is {self.subset!r} and held_out_groups {self.held_out_groups}; use subset train, or "
                "subset all with 1 held-out group a class or more: what is learnt from can't judge"
            )


@cache
def hints(options: type) -> dict[str, Any]:
    """The types of a list's options, by name."""
    return get_type_hints(options)


def split(given: Mapping[str, Any], *lists: type) -> list[Any]:
    """Divide options that were given between the lists that they belong to, and make each."""
    return [
        kind(**{one.name: given[one.name] for one in fields(kind) if one.name in given}) for kind in lists
    ]


def _normal(name: str, hint: Any, value: Any) -> Any:
    """A value in the one form of its type, by which it is also checked."""
    wanted = [one for one in (get_args(hint) if _is_union(hint) else (hint,)) if one is not type(None)]
    if value is None and len(wanted) < len(get_args(hint)):
        return None
    kind = wanted[0]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; give one of {', '.join(get_args(kind))}")
        return value
    if kind in _LIKE:
        return _plain(name, value, _LIKE[kind])
    return value


def _is_union(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType)


def _normal_explanation(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the explanation and of the lists of names, in their one form."""
    from selrel.scores.aggregate import SIGMA
    from selrel.selective import PRESETS, SIGMAS, SelectiveParameters, check_sigmas

    asked = SIGMAS if given["sigmas"] is None else given["sigmas"]
    sigmas = [_plain("sigma", sigma, SIGMA) for sigma in asked]
    classes = [_plain("class", name, "text") for name in _names("classes", given["classes"] or ())]
    check_sigmas(sigmas)
    preset = PRESETS[given["preset"]]
    selective = {
        name: getattr(preset, name) if given[name] is None else given[name]
        for name in ("edge", "border", "floor", "scaling")
    }
    SelectiveParameters(**selective)
    return {
        **selective,
        "methods": _methods(given["methods"]),
        # The tables and the headline are those of 2 sigma, whatever else is asked for.
        "sigmas": tuple(sorted({SIGMA, *sigmas})),
        "classes": tuple(classes) or None,
        "changes": _changes(given["changes"]),
        # The other rule reads no tau, so none makes another run.
        "tau": given["tau"] if given["motion_rule"] == "tau" else Request.tau,
    }


def _names(what: str, given: Any) -> Sequence[Any]:
    if isinstance(given, str):
        raise ValueError(f"{what} is {given!r}; give a list of names, also of a single one")
    return list(given)


def _changes(given: Any) -> tuple[str, ...]:
    """Changes of clips in one order, each once; all of them by default."""
    from selrel.clips.changes import CHANGES

    names = CHANGES if given is None else _names("changes", given)
    names = () if list(names) == ["none"] else names
    if unknown := [name for name in names if name not in CHANGES]:
        raise ValueError(
            f"change {unknown[0]!r} is unknown; use any of {', '.join(CHANGES)}, or none by itself"
        )
    return tuple(name for name in CHANGES if name in names)


def _methods(given: Any) -> dict[str, dict[str, Any]]:
    """All settings of each method by its name, read from words such as "deep_taylor:alpha=2,start=logit"."""
    from selrel.explain import default_settings, method, methods

    words = given if isinstance(given, Mapping) else _names("methods", given)
    if not words:
        raise ValueError(f"no method given; known methods: {', '.join(methods())}")
    complete: dict[str, dict[str, Any]] = {}
    for word in words:
        name, _, text = _plain("method", word, "text").partition(":")
        method(name)
        usual = default_settings(name)
        pairs = [pair.partition("=") for pair in text.split(",") if pair]
        own = given[word] if isinstance(given, Mapping) else {key: value for key, _, value in pairs}
        if unknown := [key for key in own if key not in usual]:
            allowed = ", ".join(usual) or "none"
            raise ValueError(f"{name} has no setting {unknown[0]!r}; its settings: {allowed}")
        settings = {
            key: _plain(f"{name}: {key}", own.get(key, like), like, text=bool(pairs))
            for key, like in usual.items()
        }
        if complete.setdefault(name, settings) != settings:
            raise ValueError(f"{name} is given twice, with different settings; give it once")
    return dict(sorted(complete.items()))


# What the values of an option are like, by its type.
_LIKE: dict[type, float | str] = {int: 1, float: 0.5, str: "text", bool: True}


def _plain(what: str, value: Any, like: bool | float | str, *, text: bool = False) -> Any:
    """A value in the one form of its kind, which is that of another: a Python bool, int, float or str.

    `text` says that it may be a number that is spelled, as on a command line.
    """
    if isinstance(like, str):
        if isinstance(value, str | os.PathLike):
            return str(os.fspath(value))
    else:
        number = _spelled(value) if text and isinstance(value, str) else value
        # A truth value counts as a number in Python, and as none here.
        alike = isinstance(number, Real) and isinstance(like, bool) == isinstance(number, bool)
        if alike and isfinite(number):
            number = int(number) if isinstance(number, Integral) else float(number)
            if isinstance(like, bool):
                return bool(number)
            if isinstance(like, float):
                # Adding 0 makes -0.0 the 0.0 that it is equal to.
                return float(number) + 0.0
            if number == int(number):
                return int(number)
    raise ValueError(f"{what} is {value!r}; give one like {like!r}")


def _spelled(text: str) -> Any:
    """The number or truth value that a word spells; the word itself where it spells none."""
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text
