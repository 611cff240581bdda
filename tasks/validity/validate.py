"""Validate: the stages of the validity benchmark, a case at a time.

Train a case and see what it does when its input is changed; explain it by the main job; hold the explanations
against the truth; and explain it again under random weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from prefect import task
from prefect.cache_policies import NO_CACHE
from torch import nn

from selrel.behaviour import CHANGES, changed, freeze_effect
from selrel.clips.camera import object_flow
from selrel.clips.flow import grey
from selrel.clips.profiles import Profile
from selrel.engine.ties import first_highest
from selrel.explainer import Explainer
from selrel.scores.localisation import control_orders
from selrel.scores.metric import share
from selrel.scores.ranks import spearman
from selrel.scores.reliance import clip_decisions
from selrel.scores.truth import score_truth
from selrel.selective import PRESETS, selective_mask
from selrel.training import small_c3d
from selrel.training.augmentation import centre
from selrel.training.fitting import fit, measure
from selrel.training.initialisation import initialise
from selrel.training.randomised import cascade
from selrel.training.recipe import Recipe
from selrel.training.samples import Samples
from storage.arrays.cubes import read_block, read_relevances
from storage.checkpoints.files import read_checkpoint, write_checkpoint
from storage.datasets.ucf101 import read_dataset
from storage.drawn.synthetic import make_dataset, read_truth
from storage.runs import read_run, read_summary
from storage.stores.receipts import DamagedReceipt, Written, of_bytes, read_receipt, write_receipt
from storage.tables import write_tables
from tasks.clips import clips_of
from tasks.plan import Plan, plan
from tasks.request import Request
from tasks.running.blocks import StageFailed, run_stage
from tasks.train import read_samples
from tasks.validity.benchmark import CLASSES, FRAMES, TEST_SEED, Bench, Case
from tasks.validity.truth import truths_of

FACTORY = "selrel.training.small_c3d:make"
# The receipts that name the run of each case.
RUNS = "explain"
BLOCK_CLIPS = 16
PARAMETERS = PRESETS["default"]

Row = dict[str, Any]


def recipe(epochs: int) -> Recipe:
    """How every case is trained: fast, and with nothing that would hide the scene or the direction."""
    return Recipe(
        epochs=epochs,
        batch_size=8,
        learning_rate=0.02,
        schedule="cosine",
        pixel_unit=64.0,
        max_gradient_norm=1.0,
        random_crop=True,
    )


@task(name="train-cases", cache_policy=NO_CACHE)
def train_cases(bench: Bench) -> None:
    """Train every case that has no receipt, and measure its behaviour."""
    run_cases("train", bench, train_case, range(len(bench.settings.cases)))


@task(name="truth-of-cases", cache_policy=NO_CACHE)
def score_cases(bench: Bench) -> None:
    """Hold every case's explanations against the truth."""
    run_cases("truth", bench, score_case, range(len(bench.settings.cases)))


@task(name="randomise-cases", cache_policy=NO_CACHE)
def randomise_cases(bench: Bench) -> None:
    """Explain the extreme cases again under random weights."""
    run_cases("randomise", bench, randomise_case, bench.settings.sanity_cases)


def run_cases(stage: str, bench: Bench, work: Callable[[Bench, int], Written], cases: Sequence[int]) -> None:
    """Do a stage's work for cases, on the cluster that is open; none may be left out.

    Raises
    ------
    StageFailed
        If a case failed or killed its workers; the others are done.
    """
    ranges = [(case, case + 1) for case in range(len(bench.settings.cases))]
    left_out = run_stage(
        stage, bench.place, bench.paths, partial(work, bench), ranges, blocks=cases, unit="models"
    )
    if left_out:
        names = ", ".join(bench.settings.cases[block["block"]].name for block in left_out)
        raise StageFailed(
            f"{left_out[0]['reason']} (models left out: {names}); the comparison needs every model: mend the "
            "cause (often memory: fewer workers) and start the same command again, it does what is missing"
        )


def train_case(bench: Bench, number: int) -> Written:
    """Train a case, publish its weights, and note what it says about every test clip, changed or not."""
    settings, case = bench.settings, bench.settings.cases[number]
    model, profile = small_c3d.make()
    with tempfile.TemporaryDirectory(dir=bench.scratch) as directory:
        data = Path(directory) / "data"
        make_dataset(
            data,
            videos_per_class=settings.videos_per_class,
            groups=min(settings.videos_per_class, 96),
            frames=(FRAMES, FRAMES),
            seed=case.seed,
            classes=CLASSES,
            setting=case.setting,
        )
        samples = read_samples(read_dataset(data, subset="all"), profile)
    initialise(model, samples, profile=profile, seed=case.seed)
    if case.trained:
        for _ in fit(model, samples, profile=profile, recipe=recipe(settings.epochs), seed=case.seed):
            pass
    model.eval()
    with tempfile.TemporaryDirectory(dir=bench.scratch) as directory:
        sha256 = write_checkpoint(Path(directory) / "case.pth.tar", model.state_dict())
        weights = (Path(directory) / "case.pth.tar").read_bytes()
    path = bench.paths.checkpoint(case.name)
    bench.place.write_bytes(path, weights)
    rows = behaviour_rows(model, bench.test_data, profile)
    written = Written({"checkpoint": sha256}) | of_bytes(path, weights)
    return written | _write(bench, "behaviour", case, rows)


def behaviour_rows(model: nn.Module, data: Path, profile: Profile) -> list[Row]:
    """Measure what a model says about a synthetic set's clips, as they are and changed in time.

    Returns
    -------
    list of dict
        A row a clip: ``video``, ``group``, ``label``, ``kind`` of scene, and for each change
        ``predicted_<change>`` and ``lost_<change>``, the probability that the intact clip's class lost; and
        the scores that reliance is made of (`selrel.scores.reliance.clip_decisions`).
    """
    dataset = read_dataset(data, subset="all")
    samples = read_samples(dataset, profile)
    logits = {name: measure(model, changed(samples, name), profile=profile) for name in CHANGES}
    columns: dict[str, npt.NDArray[Any]] = {}
    for name, found in logits.items():
        columns[f"predicted_{name}"] = first_highest(torch.from_numpy(found)).numpy()
        columns[f"lost_{name}"] = freeze_effect(logits["intact"], found)
    labels = samples.labels
    columns |= clip_decisions(
        logits["intact"],
        {name: found for name, found in logits.items() if name != "intact"},
        answer=columns["predicted_intact"],
        labels=labels,
    )
    return [
        {
            "video": video.name,
            "group": scene_of(video.group),
            "label": video.label,
            "kind": read_truth(data, video.name).kind,
            **{name: column[clip].item() for name, column in columns.items()},
        }
        for clip, video in enumerate(_of_clips(dataset.videos, samples))
    ]


def _of_clips(videos: Sequence[Any], samples: Samples) -> Sequence[Any]:
    assert len(videos) == len(samples.labels), "a video of the benchmark is one clip"
    return videos


def plan_case(bench: Bench, number: int) -> Plan:
    """Plan the main job for a case."""
    settings = bench.settings
    return plan(
        Request(
            data=str(bench.test_data),
            checkpoint=str(bench.checkpoint(settings.cases[number])),
            root=bench.root,
            subset="all",
            methods=settings.methods,
            sigmas=settings.sigmas,
            **{name: getattr(PARAMETERS, name) for name in ("edge", "border", "floor", "scaling")},
            model=FACTORY,
            block_clips=BLOCK_CLIPS,
        )
    )


def note_run(bench: Bench, number: int, made: Plan) -> None:
    """Note which run explains a case, once it is finished.

    Raises
    ------
    StageFailed
        If the run has left clips out: the comparison needs all of them.
    """
    left_out = read_summary(bench.place, bench.place.run(made.run))["left_out_clips"]
    if left_out:
        raise StageFailed(
            f"run {made.run} explains {bench.settings.cases[number].name} without {left_out} clips, and the "
            f"comparison needs all: `selrel verify {made.url} --repair`, then start the same command again"
        )
    write_receipt(bench.place, bench.paths, RUNS, number, Written({"run": made.run}))


def run_of(bench: Bench, number: int) -> str:
    """Give the name of the run that explains a case."""
    receipt = read_receipt(bench.place, bench.paths.receipts(RUNS, number))
    assert receipt is not None, "the main job comes first"
    if "run" not in receipt.sha256:
        raise DamagedReceipt(bench.place.join(bench.paths.receipts(RUNS, number)), "names no run")
    return receipt.sha256["run"]


def score_case(bench: Bench, number: int) -> Written:
    """Hold a case's explanations against what is true of the test videos."""
    case, settings, place = bench.settings.cases[number], bench.settings, bench.place
    run = place.run(run_of(bench, number))
    dataset_id = read_run(place, run)["dataset_id"]
    clips = clips_of(place, dataset_id)
    rows: list[Row] = []
    for start, stop in clips.ranges:
        frames = read_block(place, place.dataset(dataset_id).frames, start, stop, ["frames"])["frames"]
        motion = read_block(place, place.dataset(dataset_id).motion, start, stop, ["flow", "camera"])
        own = object_flow(motion["flow"], motion["camera"])
        cubes = read_relevances(place, run.relevance, settings.methods, start, stop)
        for position, clip in enumerate(clips.table.iloc[start:stop].to_dict("records")):
            found = score_truth(
                {name: cube[position] for name, cube in cubes.items()},
                truths_of(read_truth(bench.test_data, clip["video"]), clips.view),
                control_orders(motion["flow"][position], own[position], grey(frames[position])),
                sigmas=sorted(settings.sigmas),
                parameters=PARAMETERS,
            )
            scene = scene_of(clip["group"])
            about = {"clip": clip["clip"], "group": scene, "panned": panned(scene)}
            rows += [{**about, **row} for row in found]
    return _write(bench, "truth", case, rows)


def scene_of(group: str) -> str:
    """Number of a group, ``gNN``: in this set it is the same scene in every class, so clips depend on it."""
    return group.rpartition("/")[2]


def panned(scene: str) -> bool:
    """Whether the camera pans in a scene's videos."""
    return int(scene.removeprefix("g")) % 2 == 0


def randomise_case(bench: Bench, number: int) -> Written:
    """Explain some clips of a case with its layers randomised, and compare with what its weights gave."""
    case, settings = bench.settings.cases[number], bench.settings
    model, profile = small_c3d.make()
    model.load_state_dict(dict(read_checkpoint(bench.checkpoint(case)).state))
    model.eval()
    dataset = read_dataset(bench.test_data, subset="all")
    samples = read_samples(dataset, profile)
    videos = _of_clips(dataset.videos, samples)
    numbers = sanity_clips([(video.label, scene_of(video.group)) for video in videos], settings.sanity_clips)
    clips = np.stack([centre(samples.read(n, 0), profile.view) for n in numbers])
    about = [
        {"clip": n, "group": (scene := scene_of(video.group)), "panned": panned(scene), "label": video.label}
        for n, video in ((n, videos[n]) for n in numbers)
    ]
    rows = list(_sanity_rows(model, profile, clips, about, settings.methods))
    return _write(bench, "sanity", case, rows)


def sanity_clips(clips: Sequence[tuple[int, str]], n: int) -> list[int]:
    """Draw clips for the check of random weights: of every class, from as many scenes as there are.

    Parameters
    ----------
    clips : sequence of (int, str)
        Label and scene (`scene_of`) of each, every label in every scene once.
    n : int
        How many to draw; all if there are fewer.

    Returns
    -------
    list of int
        Numbers of the clips: the classes in turn, the scenes of each with a still and a panned camera in
        turn. If there are n scenes, and n is a multiple of the classes, none comes twice.
    """
    numbers = {clip: number for number, clip in enumerate(clips)}
    labels = sorted({label for label, _ in clips})
    drawn = np.random.default_rng(TEST_SEED).permutation(sorted({scene for _, scene in clips})).tolist()
    still, moving = ([scene for scene in drawn if panned(scene) == camera] for camera in (False, True))
    scenes = [scene for pair in zip_longest(still, moving) for scene in pair if scene]
    n = min(n, len(clips))
    turns = -(-n // len(labels))
    return [
        numbers[label, scenes[(position * turns + turn) % len(scenes)]]
        for turn in range(turns)
        for position, label in enumerate(labels)
    ][:n]


def _sanity_rows(
    model: nn.Module,
    profile: Profile,
    clips: npt.NDArray[np.uint8],
    about: Sequence[Row],
    methods: Sequence[str],
) -> Iterator[Row]:
    """Compare explanations of trained and of randomised weights: a row a layer, method and clip.

    Both explain what the trained model says; ``right_*`` is whether the model of before and after does say
    the clip's own class.
    """
    settings: dict[str, Row] = {name: {} for name in methods}
    trained = Explainer(model, profile).explain(clips, settings)
    for layer, random in cascade(model):
        found = Explainer(random, profile).explain(clips, settings, targets=trained.targets)
        for number, clip in enumerate(about):
            right = {
                f"right_{when}": int(first_highest(logits[number, None])) == clip["label"]
                for when, logits in (("before", trained.logits), ("after", found.logits))
            }
            for name in methods:
                before, after = trained.cubes[name][number], found.cubes[name][number]
                yield {**clip, "layer": layer, "method": name, **right, **_likeness(before, after)}


def _likeness(before: torch.Tensor, after: torch.Tensor) -> Row:
    """Compare two cubes of a clip: rank correlation, overlap of the selective maps, motion share of each."""
    maps = [selective_mask(cube, len(cube), PARAMETERS) & (cube > 0) for cube in (before, after)]
    areas = [float(chosen.double().mean()) for chosen in maps]
    together = areas[0] * areas[1]
    union = int((maps[0] | maps[1]).sum())
    return {
        "correlation": spearman(before.numpy().ravel(), after.numpy().ravel()),
        "iou": int((maps[0] & maps[1]).sum()) / union if union else None,
        # The overlap of two independent maps of these areas.
        "chance_iou": together / (sum(areas) - together) if sum(areas) else None,
        "share_before": _kept(before, maps[0]),
        "share_after": _kept(after, maps[1]),
    }


def _kept(cube: torch.Tensor, chosen: torch.Tensor) -> float | None:
    """Share of a cube's positive relevance on the voxels chosen."""
    return share(float(cube[chosen].double().sum()), float(cube.clamp(min=0).double().sum()))


def _write(bench: Bench, kind: str, case: Case, rows: Sequence[Row]) -> Written:
    table = pd.DataFrame(rows).assign(case=case.name)
    return write_tables(bench.place, {kind: (bench.paths.measured(kind, case.name), table)})
