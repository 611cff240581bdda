"""What the demo prints beside the truth, against small computations of its own."""

import hashlib
import math
import shutil

import numpy as np
import pytest
import torch

from selrel.models import recognise
from selrel.models.c3d import C3D
from storage.checkpoints.files import write_checkpoint
from storage.datasets.ucf101 import read_dataset
from storage.drawn.scenes import Setting
from storage.drawn.synthetic import make_dataset, read_truth
from tasks.train import read_samples
from tasks.validity.truth import accuracies, on_the_object
from tests.made_run import make_run
from tests.slow_selective import slow_mask, voxels


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    directory = tmp_path_factory.mktemp("drawn") / "set"
    make_dataset(
        directory,
        videos_per_class=6,
        groups=3,
        frames=(32, 32),
        classes=("Bobbing", "Rolling"),
        setting=Setting(size=(64, 48)),
    )
    return directory


def test_on_the_object_is_summed_voxel_by_voxel(drawn, tmp_path):
    made = make_run(tmp_path / "root", n_clips=4, methods=("deep_taylor",))
    names = [video.name for video in read_dataset(drawn, subset="all").videos]
    found = []
    for clip, name in zip(made.clips.to_dict("records"), names, strict=False):
        truth = drawn / "truth" / name
        target = drawn / "truth" / clip["video"]
        shutil.copy(truth.with_suffix(".npz"), target.with_suffix(".npz"))
        start, n = clip["start_frame"], clip["n_valid_frames"]
        # Half the size: a pixel is the mean of four, and two of four suffice.
        covered = read_truth(drawn, name).mask.reshape(32, 24, 2, 32, 2).mean(axis=(2, 4))
        on = covered[start : start + n] >= 0.5
        found.append(on_one(made.cubes["deep_taylor"][clip["clip"]], on, n))
    assert sorted(made.clips.start_frame) == [0, 0, 16, 16]
    assert set(made.clips.n_valid_frames) == {8, 16}
    expected = dict(zip(("area", "baseline", "selective"), np.mean(found, axis=0), strict=True))
    assert on_the_object(made.url, drawn) == pytest.approx(expected, rel=1e-3)


def on_one(cube, on, n):
    """Area of the object, and its share of the positive relevance and of the selective part."""
    held = {at: float(cube[at]) for at in voxels(n, *cube.shape[1:]) if cube[at] > 0}
    kept = slow_mask(cube.tolist(), n)
    part = [
        math.fsum(value for at, value in held.items() if at in chosen and on[at])
        / math.fsum(value for at, value in held.items() if at in chosen)
        for chosen in (set(held), kept)
    ]
    return [on.mean(), *part]


def slow_answers(model, samples):
    """What a C3D says about each clip by change, clip by clip from the pixels."""
    said = {"intact": [], "frozen": [], "shuffled": [], "reversed": []}
    for number in range(len(samples.labels)):
        frames = samples.read(number, 0)[:, 8:120, 30:142, ::-1].astype(np.float32) - (90, 98, 102)
        order = sorted(range(16), key=lambda at: hashlib.sha256(f"0 {number} {at}".encode()).digest())
        changed = (frames, frames[[8] * 16], frames[order], frames[::-1])
        for name, clip in zip(said, changed, strict=True):
            with torch.no_grad():
                said[name].append(
                    model(torch.tensor(clip.transpose(3, 0, 1, 2)[None].copy()).float())[0].numpy()
                )
    return {name: np.stack(logits) for name, logits in said.items()}


def test_accuracies_are_counted_clip_by_clip(drawn, tmp_path):
    torch.manual_seed(5)
    model = C3D((2, 3, 4, 4, 5, 5, 6, 6), (7, 8), 2).eval()
    profile = recognise(model.state_dict()).profile
    samples = read_samples(read_dataset(drawn, split=1, subset="test"), profile)
    logits = slow_answers(model, samples)
    # The changes move this model's answers by little: its last biases are put where they part, near 0, so
    # that no answer counts as a tie.
    lead = {name: found[:, 1] - found[:, 0] for name, found in logits.items()}
    at = np.sort(np.concatenate(list(lead.values())))
    between = float(at[len(at) // 2 - 1 : len(at) // 2 + 1].mean())
    level = float(np.concatenate([found[:, 0] for found in logits.values()]).mean())
    with torch.no_grad():
        model.fc8.bias -= torch.tensor([level, level + between])
    expected = {name: float(((found > between) == samples.labels).mean()) for name, found in lead.items()}
    assert len(samples.labels) == 8 and len(set(expected.values())) > 1
    write_checkpoint(tmp_path / "c3d.pth.tar", model.state_dict())
    assert accuracies(drawn, tmp_path / "c3d.pth.tar") == pytest.approx(expected)
