"""A model of five classes, of which videos of two are explained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from selrel.clips.profiles import bounds, normalise
from selrel.engine import Forward, trace
from selrel.explain import deep_taylor
from selrel.models import recognise
from selrel.models.c3d import C3D
from storage.arrays.cubes import create_frames, open_run, read_block
from storage.checkpoints.files import read_checkpoint, write_checkpoint
from storage.stores.receipts import write_receipt
from storage.stores.root import Root
from tasks.clips import clips_of
from tasks.plan import Plan, plan, publish
from tasks.request import Request
from tasks.running.stage import Work
from tasks.stages.decode import decode_block
from tasks.stages.explain import _create, explain_block
from tasks.stages.index import count_block, list_clips

# In classInd.txt's order; sorted, as the checkpoint's family counts, HammerThrow comes before Hammering.
CLASSES = ("Archery", "Hammering", "HammerThrow", "JumpRope", "YoYo")
SORTED = ("Archery", "HammerThrow", "Hammering", "JumpRope", "YoYo")
METHODS = {"deep_taylor": {}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_avi, make_frames) -> Path:
    """A video a class."""
    root = tmp_path_factory.mktemp("five")
    for seed, name in enumerate(CLASSES):
        make_avi(root / f"UCF-101/{name}/v_{name}_g01_c01.avi", make_frames(16, seed=seed))
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(CLASSES, 1)))
    (lists / "testlist01.txt").write_text("".join(f"{name}/v_{name}_g01_c01.avi\n" for name in CLASSES))
    return root


@pytest.fixture(scope="module")
def make_model(tmp_path_factory: pytest.TempPathFactory):
    """A narrow C3D of so many outputs that are far apart, and says what they are if told."""

    def make(n_outputs: int, classes: tuple[str, ...] | None = None) -> Path:
        torch.manual_seed(1)
        model = C3D((2, 2, 4, 4, 4, 4, 4, 4), (8, 8), n_outputs)
        for module in model.modules():
            if isinstance(module, torch.nn.Conv3d | torch.nn.Linear):
                torch.nn.init.kaiming_normal_(module.weight)
        model.fc8.bias.data = torch.arange(float(n_outputs))
        path = tmp_path_factory.mktemp("checkpoints") / "five.pth.tar"
        write_checkpoint(path, model.state_dict(), meta=classes and {"classes": list(classes)})
        return path

    return make


def planned(data: Path, checkpoint: Path, root: Path, **choices) -> Plan:
    request = {"data": str(data), "checkpoint": str(checkpoint), "root": str(root), "methods": METHODS}
    return plan(Request(**{**request, **choices}))


def explained(made: Plan) -> None:
    """Index, decode and explain, without a cluster: everything is one block."""
    place = Root(made.root)
    paths = place.dataset(made.dataset_id)
    publish(made, work={})
    work = Work(place, made.run, made.data, made.description)
    write_receipt(place, paths, "index", 0, count_block(work, 0))
    list_clips(work)
    clips = clips_of(place, made.dataset_id)
    create_frames(place, paths.frames, clips.columns(), **clips.sizes())
    decode_block(work, 0)
    _create(work)
    explain_block(work, 0)


def test_videos_of_two_classes_keep_the_models_five_outputs(data, make_model, tmp_path) -> None:
    checkpoint = make_model(5)
    made = planned(data, checkpoint, tmp_path, classes=("yoyo", "HammerThrow"), target="true")
    assert any(
        note.startswith("of the 5 classes that the model tells apart, videos of 2") for note in made.notes
    )
    assert [video[1:3] for video in made.dataset["videos"]] == [["HammerThrow", 2], ["YoYo", 4]]
    explained(made)
    cubes = open_run(made.url, unfinished=True)
    assert cubes.output.values.tolist() == list(CLASSES)
    assert cubes.label.values.tolist() == [2, 4]
    recognised = recognise(read_checkpoint(checkpoint).state)
    low, high = bounds(recognised.profile)
    graph = trace(recognised.model, recognised.profile.sample_shape, low=low, high=high)
    place = Root(made.root)
    frames = read_block(place, place.dataset(made.dataset_id).frames, 0, 2, ["frames"])["frames"]
    forward = Forward(graph, normalise(torch.from_numpy(frames), recognised.profile))
    # By name: the model's outputs are in sorted order, the stored ones in classInd.txt's.
    of_class = [SORTED.index(name) for name in CLASSES]
    np.testing.assert_allclose(cubes.logits, forward.logits[:, of_class], rtol=1e-5)
    names = [SORTED[output] for output in forward.logits.argmax(dim=1)]
    assert [CLASSES[label] for label in cubes.predicted.values] == names
    assert [CLASSES[label] for label in cubes.target.values] == ["HammerThrow", "YoYo"]
    targets = torch.tensor([SORTED.index("HammerThrow"), SORTED.index("YoYo")])
    cube = deep_taylor.explain(forward, targets).numpy()
    np.testing.assert_allclose(cubes.deep_taylor, cube, rtol=1e-3, atol=1e-7 * np.abs(cube).max())


def test_order_and_capitals_of_the_classes_make_no_other_run(data, make_model, tmp_path) -> None:
    checkpoint = make_model(5)
    one, other = (
        planned(data, checkpoint, tmp_path, classes=names)
        for names in (("YoYo", "HammerThrow"), ("hammerthrow", "yoyo"))
    )
    assert (one.dataset_id, one.run) == (other.dataset_id, other.run)
    assert one.run != planned(data, checkpoint, tmp_path, classes=("YoYo",)).run


def test_a_model_of_just_these_classes_has_no_others(data, make_model, tmp_path) -> None:
    made = planned(data, make_model(2), tmp_path, classes=("YoYo", "HammerThrow"))
    assert made.dataset["classes"] == ["HammerThrow", "YoYo"]
    assert [video[2] for video in made.dataset["videos"]] == [0, 1]


def test_a_part_of_the_classes_that_a_checkpoint_says_it_knows(data, make_model, tmp_path) -> None:
    checkpoint = make_model(3, ("Archery", "Hammering", "YoYo"))
    made = planned(data, checkpoint, tmp_path, classes=("YoYo",))
    assert made.dataset["classes"] == ["Archery", "Hammering", "YoYo"]
    assert [video[1:3] for video in made.dataset["videos"]] == [["YoYo", 2]]
    with pytest.raises(ValueError, match=r"--classes: no class 'JumpRope' among the 3"):
        planned(data, checkpoint, tmp_path, classes=("JumpRope",))


@pytest.mark.parametrize(
    ("n_outputs", "choices", "message"),
    [
        (5, {"classes": ("Yoyoo",)}, r"--classes: no class 'Yoyoo' among the 5; did you mean 'YoYo'\?"),
        (5, {"classes": ("hamerthrow",)}, r"did you mean 'HammerThrow'\?"),
        (5, {"classes": ("YoYo", "yoyo")}, "names one of YoYo, yoyo twice"),
        (5, {"target": "Yoyoo"}, r"target 'Yoyoo' is unknown; .* did you mean 'YoYo'\?"),
        (
            4,
            {"classes": ("YoYo",)},
            "has 4 outputs, neither one for each of the 5 classes .* the 1 of --classes",
        ),
        (4, {}, "has 4 outputs and the data set 5 classes"),
    ],
)
def test_what_cannot_be_meant_is_one_line(data, make_model, tmp_path, n_outputs, choices, message) -> None:
    with pytest.raises(ValueError, match=message) as said:
        planned(data, make_model(n_outputs), tmp_path, **choices)
    assert "\n" not in str(said.value)
