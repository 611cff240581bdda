"""What the benchmark measures when a model's layers are random, against small computations of its own."""

import numpy as np
import pandas as pd
import pytest
import torch

from selrel.clips.profiles import normalise
from selrel.engine import ties
from selrel.training import small_c3d
from selrel.training.augmentation import centre
from selrel.training.randomised import cascade
from storage.checkpoints.files import write_checkpoint
from storage.datasets.ucf101 import read_dataset
from storage.drawn.synthetic import make_dataset
from storage.stores.root import Root
from storage.tables import read_table
from tasks.train import read_samples
from tasks.validity.benchmark import CLASSES, FRAMES, Bench, Benchmark, drawing
from tasks.validity.validate import _likeness, _sanity_rows, randomise_case, sanity_clips
from tests.slow_selective import slow_mask, voxels

METHODS = ("gradient_x_input", "grad_cam")
LAYERS = ["fc6", "fc5", "conv4", "conv3", "conv2", "conv1"]


def cubes():
    """Signed relevance of two models on one clip: bumps that move apart from each other."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(0, 0.05, (2, 5, 7, 8)).astype(np.float32)
    for t in range(5):
        before[t, 2:5, t : t + 3] += 1
        after[t, 2:5, 5 - t : 8 - t] += 2
    return torch.from_numpy(before), torch.from_numpy(after)


def slow_positive(cube):
    """Voxels of the selective map at 2 sigma that are positive."""
    return {(t, y, x) for t, y, x in slow_mask(cube.tolist(), len(cube)) if cube[t, y, x] > 0}


def slow_share(cube, chosen):
    positive = [float(cube[at]) for at in voxels(*cube.shape) if cube[at] > 0]
    return sum(float(cube[at]) for at in chosen) / sum(positive)


def test_likeness_is_that_of_maps_counted_voxel_by_voxel():
    before, after = cubes()
    first, second = slow_positive(before), slow_positive(after)
    ranks = [pd.Series(cube.numpy().ravel()).rank() for cube in (before, after)]
    n, a, b = before.numel(), len(first), len(second)
    by_chance = (a / n) * (b / n)
    assert 0 < len(first & second) < min(a, b)
    assert _likeness(before, after) == {
        "correlation": pytest.approx(np.corrcoef(*ranks)[0, 1]),
        "iou": pytest.approx(len(first & second) / len(first | second)),
        "chance_iou": pytest.approx(by_chance / (a / n + b / n - by_chance)),
        "share_before": pytest.approx(slow_share(before, first)),
        "share_after": pytest.approx(slow_share(after, second)),
    }


def test_likeness_of_a_cube_with_itself_and_with_nothing():
    before, _ = cubes()
    same = _likeness(before, before)
    assert (same["correlation"], same["iou"]) == (pytest.approx(1), 1.0)
    assert same["share_before"] == same["share_after"]
    nothing = _likeness(before, torch.zeros_like(before))
    assert (nothing["correlation"], nothing["iou"], nothing["share_after"]) == (None, 0.0, None)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A benchmark of which one case has weights: those that training starts from."""
    directory = tmp_path_factory.mktemp("bench")
    bench = Bench(Root(str(directory / "root")).url, "planted", str(directory))
    settings = Benchmark(correlations=(0.0, 1.0), seeds=1, test_groups=8, methods=METHODS, sanity_clips=3)
    bench.place.write_json(bench.paths.description, {"settings": settings.as_dict()})
    make_dataset(
        bench.test_data,
        videos_per_class=8,
        groups=8,
        frames=(FRAMES, FRAMES),
        classes=CLASSES,
        setting=drawing(motion=1.0, context=0.0),
    )
    torch.manual_seed(1)
    model, _ = small_c3d.make()
    write_checkpoint(bench.scratch + "/case.pth.tar", model.state_dict())
    weights = (bench.test_data.parent / "case.pth.tar").read_bytes()
    bench.place.write_bytes(bench.paths.checkpoint(settings.cases[0].name), weights)
    return bench


@pytest.fixture(scope="module")
def made(bench):
    """The planted model, the clips that the check draws, and their labels."""
    torch.manual_seed(1)
    model, profile = small_c3d.make()
    videos = read_dataset(bench.test_data, subset="all").videos
    samples = read_samples(read_dataset(bench.test_data, subset="all"), profile)
    numbers = sanity_clips([(video.label, video.group.rpartition("/")[2]) for video in videos], 3)
    clips = np.stack([centre(samples.read(n, 0), profile.view) for n in numbers])
    return model.eval(), profile, clips, numbers, [videos[n].label for n in numbers]


def gradient_times_input(model, clip, target):
    clip = clip[None].clone().requires_grad_()
    logits = model(clip)[0]
    (gradient,) = torch.autograd.grad(logits[target], clip)
    return (gradient * clip).sum(dim=1)[0].detach(), int(logits.argmax())


@pytest.mark.slow
def test_every_layer_is_compared_with_what_the_trained_model_says(made, monkeypatch):
    # Autograd takes winners by their last bit, and so is the engine to do here.
    monkeypatch.setattr(ties, "EQUAL", 2.0**-30)
    model, profile, frames, numbers, labels = made
    clips = normalise(frames, profile)
    # Labels of which some are what the model says, and some are not.
    labels = [gradient_times_input(model, clips[0], 0)[1], *labels[1:]]
    about = [{"clip": n, "label": label} for n, label in zip(numbers, labels, strict=True)]
    rows = pd.DataFrame(_sanity_rows(model, profile, frames, about, METHODS))
    assert len(rows) == len(LAYERS) * 2 * 3
    assert list(dict.fromkeys(rows.layer)) == LAYERS
    rows = rows[rows.method == "gradient_x_input"].set_index(["layer", "clip"])
    for layer, random in cascade(model):
        for clip, n, label in zip(clips, numbers, labels, strict=True):
            said = gradient_times_input(model, clip, 0)[1]
            before, _ = gradient_times_input(model, clip, said)
            after, says = gradient_times_input(random, clip, said)
            found = rows.loc[(layer, n)]
            assert (found.right_before, found.right_after) == (said == label, says == label)
            expected = _likeness(before, after)
            assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert set(rows.right_before) == {True, False}


@pytest.mark.slow
def test_a_case_is_explained_again_from_its_published_weights(bench, made):
    model, profile, frames, numbers, labels = made
    randomise_case(bench, 0)
    case = bench.settings.cases[0].name
    table = read_table(bench.place, bench.paths.measured("sanity", case)).to_pandas()
    about = [{"clip": n, "label": label} for n, label in zip(numbers, labels, strict=True)]
    expected = pd.DataFrame(_sanity_rows(model, profile, frames, about, METHODS))
    pd.testing.assert_frame_equal(table[list(expected)], expected, check_dtype=False, rtol=1e-3, atol=1e-4)
    videos = read_dataset(bench.test_data, subset="all").videos
    for row in table.itertuples():
        assert videos[row.clip].group.endswith("/" + row.group)
        assert row.panned == (int(row.group[1:]) % 2 == 0)
    assert set(table.case) == {case}
