import hashlib
import json

import cv2
import numpy as np
import pytest
import torch

from storage.checkpoints.files import read_checkpoint
from storage.checkpoints.trainings import (
    DamagedState,
    OtherTraining,
    describe,
    publish,
    read_state,
    write_history,
    write_state,
)
from storage.layout import TrainingPaths
from storage.stores.root import Root, training_at
from storage.tables import read_table

WEIGHTS = {"conv1.weight": torch.arange(12.0).reshape(4, 3), "conv1.bias": torch.zeros(4)}
PATHS = TrainingPaths("c3d.pth.tar")
RECORD = {
    "loss": 2.0, "accuracy": 0.25, "learning_rate": 0.1,
    "validation_loss": 3.0, "validation_accuracy": 0.5, "validation_balanced_accuracy": 0.5,
}  # fmt: skip


@pytest.fixture
def root(any_root):
    return any_root


def test_published_checkpoint_has_its_hash_and_its_profile(root):
    profile = {"profile": {"family": "c3d-jfzhang"}, "classes": ["Diving"]}
    sha256 = publish(root, "c3d.pth.tar", WEIGHTS, meta={"epoch": 3}, profile=profile)
    data = root.read_bytes("c3d.pth.tar")
    assert sha256 == hashlib.sha256(data).hexdigest()
    assert root.read_bytes("c3d.pth.tar.sha256") == f"{sha256}  c3d.pth.tar\n".encode()
    assert root.read_json("c3d.pth.tar.profile.json") == profile
    assert root.listdir("") == ["c3d.pth.tar", "c3d.pth.tar.profile.json", "c3d.pth.tar.sha256"]
    if root.is_local:
        assert torch.equal(
            read_checkpoint(root.join("c3d.pth.tar")).state["conv1.weight"], WEIGHTS["conv1.weight"]
        )


def test_no_hash_of_old_weights_ever_stands_beside_new_ones(tmp_path, monkeypatch):
    root = Root(str(tmp_path))
    publish(root, "a.pth", WEIGHTS, meta={}, profile={})
    written, original = [], Root.write_bytes

    def watched(self, path, data):
        promised = root.exists("a.pth.sha256") and root.read_bytes("a.pth.sha256")[:64].decode()
        held = hashlib.sha256(root.read_bytes("a.pth")).hexdigest() if root.exists("a.pth") else ""
        assert not promised or promised == held
        written.append(path)
        original(self, path, data)

    monkeypatch.setattr(Root, "write_bytes", watched)
    publish(root, "a.pth", {"conv1.bias": torch.ones(4)}, meta={}, profile={})
    assert written == ["a.pth.profile.json", "a.pth", "a.pth.sha256"]


def test_a_state_comes_back_as_it_was(root):
    assert read_state(root, PATHS) is None
    state = {"epoch": 3, "model": WEIGHTS, "chance": "{}", "history": [RECORD], "best": float("inf")}
    write_state(root, PATHS, state)
    found = read_state(root, PATHS)
    assert torch.equal(found["model"]["conv1.weight"], WEIGHTS["conv1.weight"])
    assert {key: found[key] for key in state if key != "model"} == {
        k: v for k, v in state.items() if k != "model"
    }


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], lambda data: b""],
)
def test_a_damaged_state_is_said_and_never_loaded(tmp_path, damage):
    root = Root(str(tmp_path))
    write_state(root, PATHS, {"epoch": 1, "model": WEIGHTS})
    root.write_bytes(PATHS.state, damage(root.read_bytes(PATHS.state)))
    with pytest.raises(DamagedState, match="is damaged; remove it"):
        read_state(root, PATHS)


def test_a_training_of_other_settings_is_refused_with_what_differs(root):
    about = {"seed": 0, "recipe": {"epochs": 3}, "classes": ["a", "b"]}
    describe(root, PATHS, about)
    describe(root, PATHS, about)
    with pytest.raises(OtherTraining, match="a training with another recipe, seed; give"):
        describe(root, PATHS, {**about, "seed": 1, "recipe": {"epochs": 4}})
    assert root.read_json(PATHS.description) == about


def test_curve_is_a_table_and_a_picture(root):
    history = [{"epoch": n, **RECORD, "loss": 3.0 / n} for n in range(1, 4)]
    write_history(root, PATHS, history)
    assert read_table(root, PATHS.history).to_pylist() == history
    write_history(root, PATHS, history[:2], picture=False)
    assert read_table(root, PATHS.history).num_rows == 2
    first = root.read_bytes(PATHS.curve)
    picture = cv2.imdecode(np.frombuffer(first, np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape[1] > 2 * picture.shape[0]
    write_history(root, PATHS, history)
    assert root.read_bytes(PATHS.curve) == first
    # One more epoch is another picture, one without held-out clips too.
    write_history(
        root, PATHS, [{**row, "validation_loss": None, "validation_accuracy": None} for row in history]
    )
    assert root.read_bytes(PATHS.curve) != first


@pytest.mark.parametrize(
    ("checkpoint", "url"),
    [("s3://bucket/a/c3d.pth", "s3://bucket/a"), ("/tmp/x/c3d.pth", "/tmp/x"), ("/c3d.pth", "/")],
)
def test_a_training_lies_beside_its_checkpoint(checkpoint, url):
    root, paths = training_at(checkpoint)
    assert (root.url, paths.name, paths.directory) == (url, "c3d.pth", "c3d.pth.training")
    assert paths.epoch(7) == "c3d.pth.training/epoch-0007.pth.tar"


@pytest.mark.parametrize("checkpoint", ["", "somewhere/", "a b.pth", "..", "s3://bucket/"])
def test_a_checkpoint_without_a_plain_name_is_refused(checkpoint):
    with pytest.raises(ValueError, match="names no checkpoint file"):
        training_at(checkpoint)


def test_description_is_plain_json(tmp_path):
    describe(Root(str(tmp_path)), PATHS, {"seed": 0})
    assert json.loads((tmp_path / PATHS.description).read_text()) == {"seed": 0}
