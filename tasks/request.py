"""What a person asks for, checked before anything is done."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isfinite
from numbers import Integral, Real
from typing import Any

from selrel.clips.changes import CHANGES
from selrel.clips.flow import check_rule
from selrel.explain import default_settings, method, methods
from selrel.scores.aggregate import SIGMA as TABLE_SIGMA
from selrel.selective import PRESETS, SIGMAS, SelectiveParameters, check_sigmas

# What the values of `Request` are like, by their type.
_KINDS: dict[str, float | str] = {"int": 1, "float": 0.5, "str": "text"}

PAPER_METHODS = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")


@dataclass(frozen=True)
class Request:
    """The arguments of a run: where the inputs are, and every choice that changes a result.

    However a value is written, by a flag, in a file or in Python, it is brought to one form here: 1 and 1.0,
    -0.0 and 0, a list and a tuple, a path and its text. So one meaning is one run.

    Attributes
    ----------
    data, checkpoint, root
        The data set's directory, the checkpoint file, and the root URL of all results.
    split, subset, classes, held_out_groups, videos, seed
        UCF-101's split 1 to 3; "train", "test" or "all"; the classes whose videos are explained (None: all
        that the model tells apart, which the checkpoint says, or else those of classInd.txt); how many
        groups of each class `train` held out of subset train or all, which are then the only ones (0: all
        groups); how many videos to draw, the same number from each class as far as they go (None: all of
        them); the seed of that draw and of those groups.
    methods
        Settings of every method, by its name: the ones not given are the method's own defaults.
    sigmas
        Thresholds of the sweep, in standard deviations of a clip's temporal edges.
    selective
        The other choices of the selective step.
    motion_rule, tau
        When a voxel counts as moving: "tau" (|flow| > tau px/frame) or "frame_std".
    target
        The class that is explained: "predicted" for the clip, "video" (the one predicted for its
        whole video), "true", or a class by its name.
    family, model, profile
        The checkpoint's family, where its keys don't tell; or `package.module:factory`, which makes a
        model of the user's own and its profile; and changes to that profile.
    block_clips, batch_clips
        Clips of a block, the unit of all work and storage; clips of one forward pass.
    changes
        How clips are changed to see what is left of the model's decision: any of "frozen", "shuffled" and
        "reversed"; "none" alone, or nothing, leaves it out.
    max_drop, against, gate
        The largest fall that passes, as a share (None: any), the run to compare with (None: the one before),
        and what must not fall: "motion_reliance" or "motion_share". They change no result.

    Raises
    ------
    ValueError
        If a value is not allowed; one line says what is.
    """

    data: str
    checkpoint: str
    root: str
    split: int = 1
    subset: str = "test"
    classes: Sequence[str] | None = None
    held_out_groups: int = 0
    videos: int | None = None
    seed: int = 0
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: dict.fromkeys(PAPER_METHODS, {}))
    sigmas: Sequence[float] = SIGMAS
    selective: SelectiveParameters = PRESETS["default"]
    motion_rule: str = "tau"
    tau: float = 0.5
    target: str = "predicted"
    family: str | None = None
    model: str | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    block_clips: int = 64
    batch_clips: int = 8
    changes: Sequence[str] = tuple(CHANGES)
    max_drop: float | None = None
    against: str | None = None
    gate: str = "motion_reliance"

    def __post_init__(self) -> None:
        """Bring every value to its one form, and check what can be checked without reading a file."""
        for one in fields(self):
            kind, _, optional = str(one.type).partition(" | ")
            value = getattr(self, one.name)
            if kind in _KINDS and not (optional and value is None):
                object.__setattr__(self, one.name, _plain(one.name, value, _KINDS[kind]))
        self._normalise()
        check_rule(self.motion_rule, self.tau)
        for name in ("block_clips", "batch_clips"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give 1 or more")
        if self.family is not None and self.model is not None:
            raise ValueError(
                f"family {self.family} and model {self.model} exclude each other; give one of them"
            )
        if self.held_out_groups < 0:
            raise ValueError(f"held_out_groups is {self.held_out_groups}; give 1 or more, or 0 for all")
        if self.held_out_groups and self.subset == "test":
            raise ValueError(
                "a training holds no groups of subset test out; give the subset that it was given: train, "
                "its default, or all"
            )
        self._check_gate()
        if self.videos is not None and self.videos < 1:
            raise ValueError(f"videos is {self.videos}; give 1 or more, or leave it out for all of them")

    def _normalise(self) -> None:
        """Bring the settings that hold several values to their one form."""
        if not self.methods:
            raise ValueError(f"no method given; known methods: {', '.join(methods())}")
        if isinstance(self.classes, str):
            raise ValueError(f"classes is {self.classes!r}; give a list of names, also of a single one")
        sigmas = [_plain("sigma", sigma, TABLE_SIGMA) for sigma in self.sigmas]
        check_sigmas(sigmas)
        usual = asdict(PRESETS["default"])
        selective = {name: _plain(name, value, usual[name]) for name, value in asdict(self.selective).items()}
        normal = {
            "methods": {name: _complete(name, given) for name, given in sorted(self.methods.items())},
            "sigmas": tuple(sorted(set(sigmas))),
            "selective": SelectiveParameters(**selective),
            "classes": tuple(_plain("class", name, "text") for name in self.classes or ()) or None,
            "changes": _known_changes(self.changes),
            # The other rule reads no tau, so none makes another run.
            "tau": self.tau if self.motion_rule == "tau" else Request.tau,
        }
        for name, value in normal.items():
            object.__setattr__(self, name, value)

    def _check_gate(self) -> None:
        if self.gate not in ("motion_reliance", "motion_share"):
            raise ValueError(f"gate is {self.gate!r}; give motion_reliance or motion_share")
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
        if self.gate == "motion_reliance" and "frozen" not in self.changes:
            raise ValueError(
                "max drop is about the motion reliance, which frozen clips measure; add frozen to the "
                "changes, or give the gate motion_share"
            )
        if self.gate == "motion_share" and "deep_taylor" not in self.methods:
            raise ValueError(
                "max drop is about the motion share, which deep_taylor measures; add it to the methods"
            )

    def settings(self) -> dict[str, Any]:
        """Every choice that changes a result and is not in the data set or the checkpoint, as JSON."""
        selective = asdict(self.selective)
        # The sweep names its thresholds; the parameter's own sigma is never read.
        selective.pop("sigma")
        return {
            "methods": {name: dict(given) for name, given in self.methods.items()},
            # The tables and the headline are those of 2 sigma, whatever else is asked for.
            "sigmas": sorted({TABLE_SIGMA, *self.sigmas}),
            "selective": selective,
            "motion": {"rule": self.motion_rule, "tau": self.tau},
            "target": self.target,
            "batch_clips": self.batch_clips,
            "changes": list(self.changes),
        }


def _known_changes(given: Sequence[str]) -> tuple[str, ...]:
    """Changes of clips in one order, each once."""
    if isinstance(given, str):
        raise ValueError(f"changes is {given!r}; give a list of names, also of a single one")
    names = () if list(given) == ["none"] else given
    if unknown := [name for name in names if name not in CHANGES]:
        raise ValueError(
            f"change {unknown[0]!r} is unknown; use any of {', '.join(CHANGES)}, or none by itself"
        )
    return tuple(name for name in CHANGES if name in names)


def _complete(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a method, each in the form of its default."""
    method(name)
    known = default_settings(name)
    if unknown := [key for key in given if key not in known]:
        allowed = ", ".join(known) or "none"
        raise ValueError(f"{name} has no setting {unknown[0]!r}; its settings: {allowed}")
    return {key: _plain(f"{name}: {key}", given.get(key, usual), usual) for key, usual in known.items()}


def _plain(what: str, value: Any, like: bool | float | str) -> Any:
    """A value in the one form of its kind, which is that of another: a Python bool, int, float or str."""
    if isinstance(like, str):
        if isinstance(value, str | os.PathLike):
            return str(os.fspath(value))
    # A truth value counts as a number in Python, and as none here.
    elif isinstance(value, Real) and isinstance(like, bool) == isinstance(value, bool) and isfinite(value):
        number = int(value) if isinstance(value, Integral) else float(value)
        if isinstance(like, bool):
            return bool(number)
        if isinstance(like, float):
            # Adding 0 makes -0.0 the 0.0 that it is equal to.
            return float(number) + 0.0
        if number == int(number):
            return int(number)
    raise ValueError(f"{what} is {value!r}; give one like {like!r}")
