"""What the validity benchmark consists of: its settings, its cases, and where they lie."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from selrel.explain import method
from selrel.selective import SIGMAS, check_sigmas
from storage.drawn.scenes import Setting
from storage.drawn.synthetic import make_dataset
from storage.layout import ValidityPaths, content_hash
from storage.stores.root import Root
from tasks.request import PAPER_METHODS
from tasks.versions import code_version

CLASSES = ("Bobbing", "Rolling", "RollLeft", "RollRight")
SIZE = (128, 96)
# A clip is one window of this many frames, without padding.
FRAMES = 16
PAN = 2.0
TEST_SEED = 1_000_000
# Fewer models have no rank correlation.
LEAST_MODELS = 3


@dataclass(frozen=True)
class Case:
    """One model of the benchmark.

    Attributes
    ----------
    name : str
        Such as ``both-0.50-seed1``.
    motion, context : float
        What its training videos' classes are told by (`storage.drawn.scenes.Setting`).
    seed : int
        Of its videos, weights and order of training.
    trained : bool
        Whether it is trained; otherwise its weights are those that training starts from.
    """

    name: str
    motion: float
    context: float
    seed: int
    trained: bool = True

    @property
    def setting(self) -> Setting:
        """How its training videos are drawn."""
        return drawing(motion=self.motion, context=self.context)


@dataclass(frozen=True)
class Benchmark:
    """The settings of a validity benchmark; equal ones make equal benchmarks.

    Attributes
    ----------
    correlations : tuple of float
        Of scene and class in training videos whose motion always tells the class.
    seeds : int
        Models of each correlation, of those trained on the scene alone, and of the untrained.
    videos_per_class, test_groups, epochs
        Training videos, groups of test videos (one of each class a group), passes over the videos.
    methods, sigmas
        What the main job is asked for.
    sanity_clips : int
        Clips explained again under random weights.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    correlations: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    seeds: int = 3
    videos_per_class: int = 96
    test_groups: int = 16
    epochs: int = 12
    methods: tuple[str, ...] = (*PAPER_METHODS, "gradient_x_input")
    sigmas: tuple[float, ...] = SIGMAS
    sanity_clips: int = 8

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        for name in ("correlations", "methods", "sigmas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name in self.methods:
            method(name)
        check_sigmas(self.sigmas)
        correlations = self.correlations
        if not correlations or len({f"{c:.2f}" for c in correlations}) < len(correlations):
            raise ValueError(
                f"correlations are {list(correlations)}; give one or more that differ in two decimals"
            )
        if not all(0 <= correlation <= 1 for correlation in correlations):
            raise ValueError(f"correlations are {list(correlations)}; each is 0 to 1")
        least = {"seeds": 1, "videos_per_class": 8, "test_groups": 8, "epochs": 1, "sanity_clips": 1}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} is {getattr(self, name)}; give {value} or more")
        if sum(case.trained for case in self.cases) < LEAST_MODELS:
            raise ValueError(
                f"{len(correlations)} correlation and {self.seeds} seed make too few models to rank; "
                "give two correlations or two seeds, or more"
            )

    @property
    def cases(self) -> tuple[Case, ...]:
        """All models, those that take longest first."""
        seeds = range(1, self.seeds + 1)
        both = [Case(f"both-{c:.2f}-seed{s}", 1.0, c, s) for c in self.correlations for s in seeds]
        context = [Case(f"context-seed{s}", 0.0, 1.0, s) for s in seeds]
        untrained = [Case(f"untrained-seed{s}", 1.0, 0.0, s, trained=False) for s in seeds]
        return (*both, *context, *untrained)

    @property
    def sanity_cases(self) -> tuple[int, ...]:
        """Numbers of the cases whose weights are randomised: the extremes of training."""
        extremes = {(1.0, min(self.correlations)), (0.0, 1.0)}
        return tuple(
            number
            for number, case in enumerate(self.cases)
            if case.trained and (case.motion, case.context) in extremes
        )

    def as_dict(self) -> dict[str, Any]:
        """Give the settings as plain JSON values."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class Bench:
    """A benchmark at its place, with the directory of what can be made again at any time.

    Attributes
    ----------
    root, benchmark_id
        Where results lie.
    scratch
        A local directory, gone after the command: test videos, and checkpoints as files.
    """

    root: str
    benchmark_id: str
    scratch: str

    @property
    def place(self) -> Root:
        """The root."""
        return Root(self.root)

    @property
    def paths(self) -> ValidityPaths:
        """Where the benchmark lies under the root."""
        return self.place.validity(self.benchmark_id)

    @property
    def settings(self) -> Benchmark:
        """The settings, as they were written down."""
        found = self.place.read_json(self.paths.description)
        try:
            return Benchmark(**found["settings"])
        except (KeyError, TypeError) as error:
            where = self.place.join(self.paths.description)
            raise ValueError(
                f"{where} is damaged ({error}): remove it, and the same command goes on"
            ) from error

    @property
    def test_data(self) -> Path:
        """The test videos: motion tells their class, the scene does not."""
        return Path(self.scratch) / "test"

    def checkpoint(self, case: Case) -> Path:
        """A case's weights as a file of this machine."""
        path = Path(self.scratch) / f"{case.name}.pth.tar"
        if not path.exists():
            path.write_bytes(self.place.read_bytes(self.paths.checkpoint(case.name)))
        return path


def open_bench(root: str, settings: Benchmark, scratch: str) -> Bench:
    """Name the place of a benchmark, write down what it is, and make its test videos.

    Raises
    ------
    UnusableRoot
        If the root can't be written.
    """
    place = Root(root)
    identity = {"settings": settings.as_dict(), "code_version": code_version()}
    bench = Bench(place.url, content_hash(identity), scratch)
    if not place.exists(bench.paths.success):
        place.check_writable()
        place.write_json(bench.paths.description, identity)
    make_dataset(
        bench.test_data,
        videos_per_class=settings.test_groups,
        groups=settings.test_groups,
        frames=(FRAMES, FRAMES),
        seed=TEST_SEED,
        classes=CLASSES,
        setting=drawing(motion=1.0, context=0.0),
    )
    return bench


def drawing(*, motion: float, context: float) -> Setting:
    """How all videos of the benchmark are drawn; training and test differ in what tells the class."""
    return Setting(size=SIZE, motion=motion, context=context, pan=PAN, marked=False, distractors=1)
