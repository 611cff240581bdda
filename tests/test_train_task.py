import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from flows.train_c3d import train_c3d
from selrel.clips.profiles import Profile
from selrel.models import families, recognise
from selrel.models.c3d import C3D
from selrel.training.recipe import Recipe
from storage.checkpoints.files import read_checkpoint, write_checkpoint
from storage.checkpoints.trainings import read_state
from storage.datasets.fingerprints import ChangedVideo
from storage.datasets.ucf101 import read_dataset
from storage.stores.root import training_at
from tasks.plan import plan
from tasks.request import Request, Training, split
from tasks.train import FAMILY, divided, read_samples, train
from tests.servers import BUCKET, s3_client, s3_server

PROFILE = families()[FAMILY][0].profile
NARROW = {"widths": (2,) * 8, "hidden": (4, 4), "dropout": 0.0}
SETTINGS = {"epochs": 1, "batch_size": 4, "pixel_unit": 64.0}


def trained(data, path, **change):
    options = {"data": str(data), "checkpoint": str(path), **NARROW, **SETTINGS, **change}
    return train.fn(*split(options, Training, Recipe))


def parts(data, **options):
    return divided(Training(data=str(data), checkpoint="", **options))


def test_checkpoint_is_recognised_with_its_profile(tiny_ucf101, tmp_path):
    made = trained(tiny_ucf101, tmp_path / "c3d.pth.tar")
    checkpoint = read_checkpoint(tmp_path / "c3d.pth.tar")
    found = recognise(checkpoint.state)
    assert found.family == "c3d-jfzhang"
    assert (found.profile.colour_order, found.profile.mean) == ("BGR", (90.0, 98.0, 102.0))
    assert (found.profile.label_order, found.n_outputs) == ("sorted", 4)
    assert made["classes"] == ["Archery", "HammerThrow", "Hammering", "HandstandPushups"]
    assert made["sha256"] == checkpoint.sha256
    assert checkpoint.sha256 == hashlib.sha256((tmp_path / "c3d.pth.tar").read_bytes()).hexdigest()
    assert (tmp_path / "c3d.pth.tar.sha256").read_text().startswith(checkpoint.sha256)
    assert [record["epoch"] for record in made["history"]] == [1]
    assert 0 <= made["history"][0]["validation_accuracy"] <= 1
    content = torch.load(tmp_path / "c3d.pth.tar", weights_only=True)
    assert set(content) == {"epoch", "state_dict", "opt_dict", "meta"}
    assert content["meta"]["recipe"]["momentum"] == 0.9


def test_weights_move_and_follow_from_the_seed(tiny_ucf101, tmp_path):
    again = [
        trained(tiny_ucf101, tmp_path / f"{n}.pth", seed=seed)["sha256"] for n, seed in enumerate((3, 3, 4))
    ]
    assert again[0] == again[1] != again[2]


def test_labels_are_outputs_in_sorted_order(tiny_ucf101):
    dataset = read_dataset(tiny_ucf101, split=1, subset="train")
    samples = read_samples(dataset, PROFILE)
    # By name: Archery, HammerThrow, Hammering, HandstandPushups, each one window.
    assert [video.class_name for video in dataset.videos] == sorted(
        ["Archery", "HammerThrow", "Hammering", "HandstandPushups"]
    )
    assert samples.labels.tolist() == [0, 1, 2, 3]


def test_clips_are_the_same_from_memory_and_from_disk(tiny_ucf101):
    dataset = read_dataset(tiny_ucf101, split=1, subset="test")
    kept, decoded = read_samples(dataset, PROFILE), read_samples(dataset, PROFILE, keep_bytes=0)
    # 20, 17, 33 and 18 frames.
    assert len(kept.labels) == 2 + 3 + 2 + 2
    for sample in range(len(kept.labels)):
        for shift in (-3, 0, 5):
            ours, theirs = kept.read(sample, shift), decoded.read(sample, shift)
            assert ours.shape == (16, 128, 171, 3)
            assert np.array_equal(ours, theirs)


def test_last_window_is_loop_padded_and_a_shifted_one_is_full(tiny_ucf101):
    dataset = read_dataset(tiny_ucf101, split=1, subset="test")
    samples = read_samples(dataset, PROFILE)
    assert dataset.videos[0].name.startswith("Archery")
    first, last = samples.read(0, 0), samples.read(1, 0)
    # 20 frames: the second window holds frames 16 to 19, four times.
    assert np.array_equal(last, np.tile(last[:4], (4, 1, 1, 1)))
    shifted = samples.read(1, -1)
    assert np.array_equal(shifted[:12], first[4:])
    assert np.array_equal(shifted[12:], last[:4])
    assert np.array_equal(samples.read(0, -2), first)


def test_existing_file_is_never_replaced(tiny_ucf101, tmp_path):
    (tmp_path / "mine.pth").write_bytes(b"precious")
    with pytest.raises(FileExistsError, match="exists already"):
        trained(tiny_ucf101, tmp_path / "mine.pth")
    assert (tmp_path / "mine.pth").read_bytes() == b"precious"


def test_missing_directory_is_said_before_training(tiny_ucf101, tmp_path):
    with pytest.raises(FileNotFoundError, match="no directory to write to"):
        trained(tiny_ucf101, tmp_path / "absent" / "c3d.pth")


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(TypeError, match="lr"):
        train_c3d(data="d", checkpoint="c", lr=1.0)


def test_every_epoch_is_published_with_its_hash_profile_and_curve(tiny_ucf101, tmp_path):
    made = trained(tiny_ucf101, tmp_path / "c3d.pth.tar", epochs=3, every=2)
    place = tmp_path / "c3d.pth.tar.training"
    assert sorted(path.name for path in place.glob("epoch-*")) == [
        "epoch-0002.pth.tar", "epoch-0002.pth.tar.profile.json", "epoch-0002.pth.tar.sha256",
    ]  # fmt: skip
    epoch, last = read_checkpoint(place / "epoch-0002.pth.tar"), read_checkpoint(tmp_path / "c3d.pth.tar")
    assert recognise(epoch.state).n_outputs == 4
    assert epoch.sha256 != last.sha256 == made["sha256"]
    about = json.loads((tmp_path / "c3d.pth.tar.profile.json").read_text())
    assert Profile.from_dict(about["profile"]) == PROFILE
    assert about["classes"] == made["classes"]
    history = pd.read_parquet(place / "history.parquet")
    assert history.epoch.tolist() == [1, 2, 3]
    assert history.validation_balanced_accuracy.between(0, 1).all()
    assert cv2.imread(str(place / "curve.png")) is not None


def test_last_epoch_and_checkpoint_are_the_same_file(tiny_ucf101, tmp_path):
    made = trained(tiny_ucf101, tmp_path / "c3d.pth.tar")
    epoch = tmp_path / "c3d.pth.tar.training" / "epoch-0001.pth.tar"
    assert hashlib.sha256(epoch.read_bytes()).hexdigest() == made["sha256"]


CODE = """
import sys
from tests.test_train_task import trained, LONG
trained(sys.argv[1], sys.argv[2], **LONG)
"""
LONG = {
    "epochs": 5,
    "batch_size": 2,
    "jitter": 2,
    "flip": True,
    "learning_rate": 0.01,
    "dropout": 0.3,
}


@pytest.mark.slow
def test_killed_training_goes_on_and_ends_with_the_same_bytes(tiny_ucf101, tmp_path):
    whole = trained(tiny_ucf101, tmp_path / "whole.pth.tar", **LONG)
    target = tmp_path / "killed.pth.tar"
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, str(tiny_ucf101), str(target)],
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
    )
    second = Path(f"{target}.training") / "epoch-0002.pth.tar.sha256"
    deadline = time.monotonic() + 120
    while not second.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    assert not target.exists()
    done = len(list(second.parent.glob("epoch-*.sha256")))
    assert 2 <= done < 5
    first = second.with_name("epoch-0001.pth.tar.sha256")
    before = first.stat().st_mtime_ns
    again = trained(tiny_ucf101, target, **LONG)
    assert again["sha256"] == whole["sha256"]
    assert again["history"] == whole["history"]
    # It went on: what was done was not done again.
    assert first.stat().st_mtime_ns == before
    assert read_checkpoint(target).sha256 == whole["sha256"]


def test_finished_training_is_found(tiny_ucf101, tmp_path):
    first = trained(tiny_ucf101, tmp_path / "c3d.pth.tar")
    epoch = tmp_path / "c3d.pth.tar.training" / "epoch-0001.pth.tar"
    before = epoch.stat().st_mtime_ns
    assert trained(tiny_ucf101, tmp_path / "c3d.pth.tar") == first
    assert epoch.stat().st_mtime_ns == before


def test_a_training_on_a_video_that_was_replaced_is_another_training(tiny_ucf101, tmp_path):
    data = shutil.copytree(tiny_ucf101, tmp_path / "data")
    trained(data, tmp_path / "c3d.pth.tar")
    video = read_dataset(data, subset="train").videos[0].path
    before, changed = os.stat(video), bytearray(Path(video).read_bytes())
    changed[-1] ^= 1
    Path(video).write_bytes(changed)
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ValueError, match="holds a training with another data; give"):
        trained(data, tmp_path / "c3d.pth.tar")


def test_a_video_that_changes_while_it_is_learnt_from_is_named(tiny_ucf101, tmp_path):
    data = shutil.copytree(tiny_ucf101, tmp_path / "data")
    dataset = read_dataset(data, subset="train")
    samples = read_samples(dataset, PROFILE, keep_bytes=0)
    before = samples.read(0, 0)
    np.testing.assert_array_equal(samples.read(0, 0), before)
    video = Path(dataset.videos[0].path)
    os.utime(video)
    np.testing.assert_array_equal(samples.read(0, 0), before)
    video.write_bytes(video.read_bytes()[:-1] + b"x")
    with pytest.raises(ChangedVideo, match=f"{video} has changed since this was planned"):
        samples.read(0, 0)


def test_place_of_another_training_is_refused(tiny_ucf101, tmp_path):
    made = trained(tiny_ucf101, tmp_path / "c3d.pth.tar")
    with pytest.raises(ValueError, match="holds a training with another seed"):
        trained(tiny_ucf101, tmp_path / "c3d.pth.tar", seed=1)
    assert read_checkpoint(tmp_path / "c3d.pth.tar").sha256 == made["sha256"]


def test_training_on_s3_leaves_the_same_files(tiny_ucf101, tmp_path):
    local = trained(tiny_ucf101, tmp_path / "c3d.pth.tar")
    with s3_server(tmp_path / "served") as server, s3_client(server):
        made = trained(tiny_ucf101, f"s3://{BUCKET}/models/c3d.pth.tar")
        again = trained(tiny_ucf101, f"s3://{BUCKET}/models/c3d.pth.tar")
    assert made["checkpoint"] == f"s3://{BUCKET}/models/c3d.pth.tar"
    assert made["sha256"] == again["sha256"] == local["sha256"]
    there = tmp_path / "served" / BUCKET / "models"
    here = {path.relative_to(tmp_path) for path in tmp_path.glob("c3d*") if path.is_file()}
    assert {path.relative_to(there) for path in there.glob("c3d*") if path.is_file()} == here
    assert read_checkpoint(there / "c3d.pth.tar").sha256 == local["sha256"]


def test_chosen_classes_are_the_only_ones(tiny_ucf101, tmp_path):
    made = trained(tiny_ucf101, tmp_path / "c3d.pth.tar", classes=["HammerThrow", "archery"])
    assert made["classes"] == ["Archery", "HammerThrow"]
    checkpoint = read_checkpoint(tmp_path / "c3d.pth.tar")
    assert recognise(checkpoint.state).n_outputs == 2
    learn, held_out = parts(tiny_ucf101, classes=["HammerThrow", "archery"])
    assert {video.class_name for video in (*learn.videos, *held_out.videos)} == {"Archery", "HammerThrow"}
    assert {video.label for video in learn.videos} == {0, 1}


def test_checkpoint_of_chosen_classes_is_explained_on_them(tiny_ucf101, tmp_path):
    chosen = ["HammerThrow", "Archery"]
    trained(tiny_ucf101, tmp_path / "two.pth.tar", classes=chosen)
    places = {"data": str(tiny_ucf101), "checkpoint": str(tmp_path / "two.pth.tar"), "root": str(tmp_path)}
    made = plan(Request(**places, methods=["grad_cam"], classes=chosen))
    # In classInd's order, counted anew, as the model's outputs are.
    assert made.dataset["classes"] == ["Archery", "HammerThrow"]
    assert [row[1:3] for row in made.dataset["videos"]] == [["Archery", 0], ["HammerThrow", 1]]
    # The checkpoint knows its classes.
    assert plan(Request(**places, methods=["grad_cam"])).run == made.run
    with pytest.raises(ValueError, match="must be finite and above 0"):
        plan(Request(**places, scale=0.0))
    with pytest.raises(ValueError, match="no class 'Hammering' among the 2"):
        plan(Request(**places, classes=[*chosen, "Hammering"]))


def test_a_training_that_overflows_keeps_what_was_done_before(tiny_ucf101, tmp_path):
    """The second epoch's weights are still finite, and so is its loss, which its only step came after."""
    recipe = {**SETTINGS, "epochs": 2, "batch_size": 64, "learning_rate": 10.0}
    with pytest.raises(ValueError) as error:
        trained(tiny_ucf101, tmp_path / "c3d.pth.tar", **recipe)
    assert str(error.value) == (
        "the validation loss of epoch 2 is not finite; make learning_rate (10.0) smaller, or set "
        "max_gradient_norm"
    )
    place, paths = training_at(str(tmp_path / "c3d.pth.tar"))
    state = read_state(place, paths)
    assert state["epoch"] == 1 and [row["epoch"] for row in state["history"]] == [1]
    assert pd.read_parquet(tmp_path / paths.history).epoch.tolist() == [1]
    epoch = Path(paths.epoch(1)).name
    assert {path.name for path in tmp_path.rglob("*.*") if path.is_file()} == {
        *(epoch, f"{epoch}.sha256", f"{epoch}.profile.json"),
        *(Path(path).name for path in (paths.description, paths.history, paths.state)),
    }


def test_numbers_that_mean_nothing_are_refused_before_anything(tiny_ucf101, tmp_path):
    for change, message in (
        ({"dropout": float("nan")}, "dropout is nan; give a probability"),
        ({"max_gradient_norm": float("inf")}, "max_gradient_norm is inf; give"),
        ({"learning_rate": float("nan")}, "learning_rate is nan; give"),
    ):
        with pytest.raises(ValueError, match=message):
            trained(tiny_ucf101, tmp_path / "c3d.pth.tar", **change)
    assert not list(tmp_path.iterdir())


def test_held_out_groups_are_explained_alone(tiny_ucf101, tmp_path):
    chosen = {"subset": "all", "held_out_groups": 1, "seed": 2}
    trained(tiny_ucf101, tmp_path / "c3d.pth.tar", **chosen)
    places = {"data": str(tiny_ucf101), "checkpoint": str(tmp_path / "c3d.pth.tar"), "root": str(tmp_path)}
    made = plan(Request(**places, methods=["grad_cam"], **chosen))
    _, held_out = parts(tiny_ucf101, **chosen)
    assert [row[0] for row in made.dataset["videos"]] == [video.name for video in held_out.videos]
    assert 4 <= len(held_out.videos) < 9
    with pytest.raises(ValueError, match="held_out_groups is -1; give 1 or more, or 0 for all"):
        Request(**places, held_out_groups=-1)
    with pytest.raises(ValueError, match="give the subset that it was given: train"):
        Request(**places, held_out_groups=1)


def test_no_group_to_hold_out_is_said(tiny_ucf101):
    with pytest.raises(ValueError, match="no class has a second group, so none can be held out"):
        parts(tiny_ucf101, held_out_groups=1)


def test_a_class_that_nothing_judges_is_named(tiny_ucf101, tmp_path, caplog):
    videos = tiny_ucf101 / "UCF-101" / "Hammering"
    data = tmp_path / "ucf"
    shutil.copytree(tiny_ucf101, data)
    (data / "UCF-101" / "Hammering" / next(videos.glob("*_g01_*")).name).unlink()
    trained(data, tmp_path / "c3d.pth.tar", subset="all", held_out_groups=1)
    assert "no held-out video judges Hammering" in caplog.text


def test_judges_that_cannot_be_decoded_are_said_before_training(tiny_ucf101, tmp_path):
    data = tmp_path / "ucf"
    shutil.copytree(tiny_ucf101, data)
    _, held_out = parts(data)
    for video in held_out.videos:
        Path(video.path).write_bytes(b"no video")
    with pytest.raises(ValueError, match="none of the 4 held-out videos can be decoded"):
        trained(data, tmp_path / "c3d.pth.tar")
    assert not list(tmp_path.glob("c3d.pth.tar.training/*.pth*"))


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "meta", ""])
def test_a_device_that_is_not_there_is_refused_before_anything(tiny_ucf101, tmp_path, device):
    with pytest.raises(ValueError, match=rf"device is {device!r}; usable here: cpu"):
        trained(tiny_ucf101, tmp_path / "c3d.pth.tar", device=device)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["Juggling"]}, "no class 'Juggling'"),
        ({"classes": ["Archery", "archery"]}, "twice; give each class once"),
        ({"subset": "all"}, "what is learnt from can't judge"),
        ({"subset": "test"}, "use subset train, or subset all"),
        ({"held_out_groups": -1}, "held_out_groups -1"),
    ],
)
def test_bad_divisions_are_refused(tiny_ucf101, change, message):
    with pytest.raises(ValueError, match=message):
        parts(tiny_ucf101, **change)


def test_held_out_groups_are_never_learnt_from(tiny_ucf101):
    learn, held_out = parts(tiny_ucf101, subset="all", held_out_groups=1, seed=2)
    assert len(learn.videos) + len(held_out.videos) == 9
    groups = [{video.group for video in part.videos} for part in (learn, held_out)]
    assert not groups[0] & groups[1]
    assert {group.partition("/")[0] for group in groups[1]} == set(learn.classes)
    # However many are asked for, every class keeps one.
    learn, held_out = parts(tiny_ucf101, subset="all", held_out_groups=99)
    assert len(learn.videos) == 4
    assert {video.label for video in learn.videos} == {0, 1, 2, 3}


def test_group_in_both_lists_is_refused(tiny_ucf101, tmp_path):
    for name in ("UCF-101", "ucfTrainTestlist"):
        (tmp_path / name).mkdir()
    for source in (tiny_ucf101 / "ucfTrainTestlist").iterdir():
        text = source.read_text().replace("Archery/v_Archery_g08_c01", "Archery/v_Archery_g01_c02")
        (tmp_path / "ucfTrainTestlist" / source.name).write_text(text)
    for source in (tiny_ucf101 / "UCF-101").rglob("*.avi"):
        target = (
            tmp_path
            / "UCF-101"
            / source.parent.name
            / source.name.replace("Archery_g08_c01", "Archery_g01_c02")
        )
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match="group Archery/g01 is in the train list and in the test list"):
        parts(tmp_path)


def test_training_starts_from_other_weights(tiny_ucf101, tmp_path):
    source = C3D((2, 3, 2, 2, 2, 2, 2, 2), (5, 6), 487)
    sha256 = write_checkpoint(tmp_path / "sports1m.pth", source.state_dict())
    still = {**SETTINGS, "learning_rate": 1e-30}
    made = trained(tiny_ucf101, tmp_path / "c3d.pth.tar", weights=str(tmp_path / "sports1m.pth"), **still)
    state = read_checkpoint(tmp_path / "c3d.pth.tar").state
    assert torch.equal(state["conv2.weight"], source.conv2.weight)
    assert state["fc8.weight"].shape == (4, 6)
    content = torch.load(tmp_path / "c3d.pth.tar", weights_only=True)
    assert content["meta"]["model"]["weights"] == sha256
    assert made["classes"] == ["Archery", "HammerThrow", "Hammering", "HandstandPushups"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_on_a_gpu_follows_from_the_seed(tiny_ucf101, tmp_path, precision):
    settings = {**SETTINGS, "epochs": 2, "precision": precision}
    made = [
        trained(tiny_ucf101, tmp_path / f"{n}.pth", device="cuda", dropout=0.5, **settings)["sha256"]
        for n in range(2)
    ]
    assert made[0] == made[1]
    assert next(iter(read_checkpoint(tmp_path / "0.pth").state.values())).dtype == torch.float32
