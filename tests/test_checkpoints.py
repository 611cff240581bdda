import argparse
import errno
import hashlib
import io
import os
import pickle
import struct
import subprocess
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from storage.checkpoints.files import UnusableCheckpoint, read_checkpoint, write_checkpoint


@pytest.fixture
def state():
    generator = torch.Generator().manual_seed(0)
    return {"conv1.weight": torch.randn(4, 3, generator=generator), "conv1.bias": torch.arange(4.0)}


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def same(left, right):
    return list(left) == list(right) and all(torch.equal(left[key], right[key]) for key in left)


def test_a_round_trip(tmp_path, state):
    path = tmp_path / "epoch-3.pth.tar"
    sha256 = write_checkpoint(path, state, meta={"epoch": 3, "accuracy": 0.5})
    checkpoint = read_checkpoint(path)
    assert same(checkpoint.state, state)
    assert checkpoint.sha256 == sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.size_bytes == path.stat().st_size and checkpoint.path == str(path)
    content = torch.load(path, weights_only=True)
    assert list(content) == ["epoch", "state_dict", "opt_dict", "meta"]
    assert content["epoch"] == 3 and content["meta"] == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("meta", "classes"),
    [
        ({}, None),
        ({"classes": ["YoYo", "Archery"]}, ("YoYo", "Archery")),
        ({"classes": []}, None),
        ({"classes": "YoYo"}, None),
        ({"classes": ["YoYo", 3]}, None),
        ({"classes": {"YoYo": 1}}, None),
    ],
)
def test_checkpoint_says_the_classes_it_was_trained_on(tmp_path, meta, classes):
    write_checkpoint(tmp_path / "a.pth", {"w": torch.ones(2)}, meta=meta)
    assert read_checkpoint(tmp_path / "a.pth").classes == classes


def test_the_same_weights_are_the_same_bytes(tmp_path, state):
    assert write_checkpoint(tmp_path / "a.pth", state) == write_checkpoint(tmp_path / "b.pth", state)


def test_the_sidecar_is_what_sha256sum_reads(tmp_path, state):
    write_checkpoint(tmp_path / "a.pth", state)
    subprocess.run(["sha256sum", "-c", "a.pth.sha256"], cwd=tmp_path, check=True, capture_output=True)
    assert sorted(os.listdir(tmp_path)) == ["a.pth", "a.pth.sha256"]


def test_writing_again_replaces_both_files(tmp_path, state):
    write_checkpoint(tmp_path / "a.pth", {"conv1.bias": torch.zeros(2)})
    write_checkpoint(tmp_path / "a.pth", state)
    assert same(read_checkpoint(tmp_path / "a.pth").state, state)


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path, state, monkeypatch):
    path = tmp_path / "a.pth"
    write_checkpoint(path, state)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        write_checkpoint(path, {"conv1.bias": torch.zeros(2)})
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.pth"]
    assert same(read_checkpoint(path).state, state)


def test_a_view_is_saved_without_the_storage_behind_it(tmp_path):
    write_checkpoint(tmp_path / "a.pth", {"w": torch.zeros(1_000_000)[:2]})
    assert (tmp_path / "a.pth").stat().st_size < 10_000


def test_what_would_not_load_is_not_written(tmp_path, state):
    with pytest.raises(UnusableCheckpoint, match="was not written: .* NaN or infinite values in 1 weights"):
        write_checkpoint(tmp_path / "a.pth", state | {"fc": torch.tensor([float("nan")])})
    with pytest.raises(
        UnusableCheckpoint, match="a.pth was not written: a number of its history or settings"
    ):
        write_checkpoint(tmp_path / "a.pth", state, meta={"history": [{"loss": float("inf")}]})
    with pytest.raises(TypeError):
        write_checkpoint(tmp_path / "a.pth", state, meta={"options": argparse.Namespace()})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: saved(state),
        lambda state: saved(OrderedDict(state)),
        lambda state: saved({"epoch": 1, "state_dict": state, "opt_dict": {"state": {}, "param_groups": []}}),
        lambda state: saved({"meta": {"config": "x"}, "state_dict": OrderedDict(state)}),
        lambda state: saved({"model_state_dict": state}),
        lambda state: saved({"state_dict": {"state_dict": state}}),
        lambda state: saved({key: torch.nn.Parameter(value) for key, value in state.items()}),
        lambda state: saved({"state_dict": state}, _use_new_zipfile_serialization=False),
        lambda state: safetensors.torch.save(dict(reversed(state.items()))),
    ],
    ids=["bare", "ordered", "jfzhang", "mmaction2", "model", "twice", "parameters", "legacy", "safetensors"],
)
def test_the_published_wrappers(tmp_path, state, wrap):
    path = tmp_path / "a.pth"
    path.write_bytes(wrap(state))
    loaded = read_checkpoint(path).state
    assert set(loaded) == set(state) and all(torch.equal(loaded[key], state[key]) for key in state)
    assert not any(value.requires_grad for value in loaded.values())


def deflated(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def archive(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


class Bomb:
    def __reduce__(self):
        return os.system, ("echo exploded > exploded",)


ONE = {"w": torch.ones(2)}
BAD_FILES = {
    "empty": (b"", "is empty"),
    "html": (b"\n<!DOCTYPE html>\n<html>Sign in</html>", "is a web page"),
    "xml": (b"<?xml version='1.0'?><Error>", "is a web page"),
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is a Git LFS pointer.*git lfs pull",
    ),
    "gzip": (b"\x1f\x8b\x08\x00", "is gzip-compressed"),
    "tar": (b"\0" * 257 + b"ustar" + b"\0" * 250, "is a tar archive"),
    "text": (b"hello", "is neither a PyTorch nor a safetensors file"),
    "zip": (archive("notes.txt", "x"), "no PyTorch file"),
    "torchscript": (archive("a/constants.pkl", "x"), "is a TorchScript archive"),
    "compressed": (deflated(saved({"w": torch.zeros(1_000_000)})), r"compressed entries"),
    "code": (saved({"state_dict": ONE, "hook": Bomb()}), r"holds more than weights \((posix|os)\.system\)"),
    "legacy code": (saved({"hook": Bomb()}, _use_new_zipfile_serialization=False), r"\.system"),
    "bare pickle": (pickle.dumps({"w": [1.0]}), "is a pickle that torch.save did not write"),
    "module": (saved(torch.nn.Linear(1, 1)), "holds more than weights .*Linear"),
    "namespace": (saved({"state_dict": ONE, "args": argparse.Namespace(lr=1)}), "argparse.Namespace"),
    "numpy scalar": (saved({"state_dict": ONE, "acc": np.float64(1)}), "holds numpy values"),
    "nan": (
        saved({"a": torch.ones(1), "b": torch.tensor([1.0, float("nan")])}),
        "NaN.* 1 weights, such as 'b'",
    ),
    "inf": (saved({"b": torch.tensor(float("inf"))}), "NaN or infinite"),
    "safetensors nan": (safetensors.torch.save({"b": torch.tensor([float("nan")])}), "NaN or infinite"),
    "safetensors cut": (safetensors.torch.save({"w": torch.ones(100)})[:-8], "is a damaged safetensors file"),
    "expanded": (saved({"w": torch.zeros(1).expand(10**12)}), "declares 4,000,000,000,000 bytes for 'w'"),
    "sparse": (saved({"w": torch.eye(2).to_sparse()}), "not dense"),
    "meta": (saved({"w": torch.ones(2, device="meta")}), "not dense"),
    "tensor": (saved(torch.ones(2)), "holds a Tensor instead of named weights"),
    "no weights": (saved({"state_dict": {}}), "holds an empty dict"),
    "numbers": (saved({"state_dict": {"w": 3}}), "1 entries that are no weights, such as 'w'"),
    "number names": (saved({1: torch.ones(1)}), "1 entries that are no weights"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files_give_one_line(tmp_path, monkeypatch, kind):
    content, words = BAD_FILES[kind]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c3d.pth"
    path.write_bytes(content)
    with pytest.raises(UnusableCheckpoint, match=words) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value) and str(error.value).startswith(str(path))
    assert os.listdir(tmp_path) == ["c3d.pth"]


WHOLE = saved({"epoch": 1, "state_dict": {"w": torch.ones(50), "b": torch.zeros(3)}})
LEGACY = saved({"w": torch.ones(50)}, _use_new_zipfile_serialization=False)


@given(share=st.floats(0, 0.999), whole=st.sampled_from([WHOLE, LEGACY, safetensors.torch.save(ONE)]))
def test_a_file_cut_anywhere_is_refused_in_one_line(tmp_path_factory, share, whole):
    path = tmp_path_factory.mktemp("cut") / "a.pth"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UnusableCheckpoint) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_an_archive_may_not_declare_more_than_it_holds(tmp_path):
    data = bytearray(saved(ONE))
    at = data.index(b"PK\x01\x02") + 20
    data[at : at + 8] = struct.pack("<II", 10**9, 10**9)
    path = tmp_path / "a.pth"
    path.write_bytes(data)
    with pytest.raises(UnusableCheckpoint, match="declares 1,000,0.* bytes of entries"):
        read_checkpoint(path)


def test_too_large_a_file_is_not_read(tmp_path, state):
    path = tmp_path / "a.pth"
    write_checkpoint(path, state)
    with pytest.raises(UnusableCheckpoint, match="100 are allowed"):
        read_checkpoint(path, max_bytes=100)
    os.truncate(path, 2**40)
    with pytest.raises(UnusableCheckpoint, match="has 1,099,511,627,776 bytes"):
        read_checkpoint(path)


def test_weights_that_share_values_may_not_add_up_beyond_the_cap(tmp_path):
    path = tmp_path / "a.pth"
    values = torch.ones(1000)
    path.write_bytes(saved({f"w{i}": values for i in range(100)}))
    assert len(read_checkpoint(path).state) == 100
    with pytest.raises(UnusableCheckpoint, match="declares 400,000 bytes of weights"):
        read_checkpoint(path, max_bytes=100_000)


def test_hash_and_weights_are_of_the_same_bytes(tmp_path, state, monkeypatch):
    path = tmp_path / "a.pth"
    path.write_bytes(saved(state))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    load = torch.load

    def replaced_meanwhile(*args, **kwargs):
        path.write_bytes(saved({"conv1.bias": torch.zeros(1)}))
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", replaced_meanwhile)
    checkpoint = read_checkpoint(path)
    assert checkpoint.sha256 == sha256 and same(checkpoint.state, state)


def test_a_sidecar_of_another_file_is_noticed(tmp_path, state):
    path = tmp_path / "a.pth"
    write_checkpoint(path, state)
    path.write_bytes(saved(state))
    with pytest.raises(UnusableCheckpoint, match="but its .sha256 file says"):
        read_checkpoint(path)
    (tmp_path / "a.pth.sha256").unlink()
    assert same(read_checkpoint(path).state, state)


def test_what_is_no_file_is_refused_at_once(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no checkpoint"):
        read_checkpoint(tmp_path / "a.pth")
    os.mkfifo(tmp_path / "pipe.pth")
    for path in (tmp_path / "pipe.pth", tmp_path):
        with pytest.raises(UnusableCheckpoint, match="is not a regular file"):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("C3D_mini_epoch-19.pth.tar", "module.conv1.weight"),
        ("C3D_mini_epoch-49.pth.tar", "conv1.weight"),
        ("c3d_mini_mmaction2.pth", "backbone.conv1a.conv.weight"),
    ],
)
def test_real_checkpoints_load(shared_data, file, key):
    path = shared_data / "checkpoints" / file
    checkpoint = read_checkpoint(path)
    assert len(checkpoint.state) == 22 and checkpoint.state[key].shape == (16, 3, 3, 3, 3)
    assert checkpoint.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
