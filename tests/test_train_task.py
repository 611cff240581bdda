import hashlib

import numpy as np
import pytest
import torch

from selrel.models import families, recognise
from storage.checkpoints import read_checkpoint
from storage.ucf101 import read_dataset
from tasks.train import FAMILY, read_samples, recipe_of, train

PROFILE = families()[FAMILY][0].profile
NARROW = {"widths": (2,) * 8, "hidden": (4, 4), "dropout": 0.0}
SETTINGS = {"epochs": 1, "batch_size": 4, "pixel_unit": 64.0}


def trained(data, path, **change):
    arguments = {"split": 1, **NARROW, "recipe": SETTINGS, "seed": 0, "device": "cpu", **change}
    return train.fn(str(data), str(path), **arguments)


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


def test_unknown_settings_are_listed():
    with pytest.raises(ValueError, match=r"has no lr; known: epochs, batch_size, learning_rate"):
        recipe_of({"lr": 1.0})
