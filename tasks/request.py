"""What a person asks for, checked before anything is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from selrel.explain import default_settings, method, methods
from selrel.motion import check_rule
from selrel.scores.aggregate import SIGMA as TABLE_SIGMA
from selrel.selective import PRESETS, SIGMAS, SelectiveParameters, check_sigmas

PAPER_METHODS = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")


@dataclass(frozen=True)
class Request:
    """The arguments of a run: where the inputs are, and every choice that changes a result.

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
    max_drop, against
        The largest fall of the motion share that passes, as a share (None: any), and the run to compare
        with (None: the one before). They change no result.

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
    classes: tuple[str, ...] | None = None
    held_out_groups: int = 0
    videos: int | None = None
    seed: int = 0
    methods: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: dict.fromkeys(PAPER_METHODS, {}))
    sigmas: tuple[float, ...] = SIGMAS
    selective: SelectiveParameters = PRESETS["default"]
    motion_rule: str = "tau"
    tau: float = 0.5
    target: str = "predicted"
    family: str | None = None
    model: str | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    block_clips: int = 64
    batch_clips: int = 8
    max_drop: float | None = None
    against: str | None = None

    def __post_init__(self) -> None:
        """Check every value that can be checked without reading a file."""
        if not self.methods:
            raise ValueError(f"no method given; known methods: {', '.join(methods())}")
        for name, settings in self.methods.items():
            _check_settings(name, settings)
        check_sigmas(self.sigmas)
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
        _check_gate(self.max_drop, self.against, self.methods)
        if self.videos is not None and self.videos < 1:
            raise ValueError(f"videos is {self.videos}; give 1 or more, or leave it out for all of them")

    def settings(self) -> dict[str, Any]:
        """Every choice that changes a result and is not in the data set or the checkpoint, as JSON."""
        selective = asdict(self.selective)
        # The sweep names its thresholds; the parameter's own sigma is never read.
        selective.pop("sigma")
        return {
            "methods": {
                n: {**default_settings(n), **dict(given)} for n, given in sorted(self.methods.items())
            },
            # The tables and the headline are those of 2 sigma, whatever else is asked for.
            "sigmas": sorted({TABLE_SIGMA, *map(float, self.sigmas)}),
            "selective": selective,
            "motion": {"rule": self.motion_rule, "tau": float(self.tau)},
            "target": self.target,
            "batch_clips": self.batch_clips,
        }


def _check_gate(max_drop: float | None, against: str | None, methods: Mapping[str, Any]) -> None:
    if max_drop is None:
        if against is not None:
            raise ValueError(
                f"against is {against}, but max drop is not given; give both, or `selrel compare`"
            )
        return
    if not 0 <= max_drop <= 1:
        raise ValueError(f"max drop is {max_drop}; give a share from 0 to 1: 0.05 is five percentage points")
    if "deep_taylor" not in methods:
        raise ValueError(
            "max drop is about the motion share, which deep_taylor measures; add it to the methods"
        )


def _complete(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All settings of a method, each of its default's type: alpha 1 and 1.0 are one run."""
    return {key: type(usual)(given.get(key, usual)) for key, usual in default_settings(name).items()}


def _check_settings(name: str, settings: Mapping[str, Any]) -> None:
    method(name)
    known = default_settings(name)
    for key, value in settings.items():
        if key not in known:
            allowed = ", ".join(known) or "none"
            raise ValueError(f"{name} has no setting {key!r}; its settings: {allowed}")
        usual = known[key]
        number = isinstance(usual, int | float) and not isinstance(usual, bool)
        kind = int | float if number else type(usual)
        if not isinstance(value, kind) or (number and not math.isfinite(value)):
            raise ValueError(f"{name}: {key} is {value!r}; give one like its default, {usual!r}")
