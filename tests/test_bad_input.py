"""Bad input to `selrel explain`: one clear line, exit code 2, and nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from flows.cli import BAD_INPUT, main
from selrel.models import families
from selrel.models.c3d import C3D
from storage.stores.root import Root


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "good.pth"
    torch.manual_seed(0)
    torch.save({"state_dict": C3D((2,) * 8, (4, 4), 4).state_dict()}, path)
    return path


@pytest.fixture
def data(tiny_ucf101: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_ucf101, tmp_path / "data")


Change = Callable[[Path, Path], dict[str, str]]


def no_such_directory(data: Path, good: Path) -> dict[str, str]:
    return {"--data": str(data / "absent")}


def no_lists(data: Path, good: Path) -> dict[str, str]:
    shutil.rmtree(data / "ucfTrainTestlist")
    return {}


def unknown_class(data: Path, good: Path) -> dict[str, str]:
    return rewrite(data / "ucfTrainTestlist/testlist01.txt", "Archery/v_Archery_g01", "Chess/v_Chess_g01")


def label_0(data: Path, good: Path) -> dict[str, str]:
    return rewrite(data / "ucfTrainTestlist/trainlist01.txt", "c01.avi 1", "c01.avi 0")


def label_too_large(data: Path, good: Path) -> dict[str, str]:
    return rewrite(data / "ucfTrainTestlist/trainlist01.txt", "c01.avi 1", "c01.avi 102")


def unknown_family(data: Path, good: Path) -> dict[str, str]:
    return saved(good, {"encoder.weight": torch.ones(3, 3)})


def wrong_number_of_outputs(data: Path, good: Path) -> dict[str, str]:
    return saved(good, C3D((2,) * 8, (4, 4), 101).state_dict())


def nan_weights(data: Path, good: Path) -> dict[str, str]:
    state = C3D((2,) * 8, (4, 4), 4).state_dict()
    state["conv3a.weight"][0, 0, 0, 0, 0] = torch.nan
    return saved(good, state)


def missing_key(data: Path, good: Path) -> dict[str, str]:
    state = C3D((2,) * 8, (4, 4), 4).state_dict()
    del state["fc7.bias"]
    return saved(good, state)


def html_page(data: Path, good: Path) -> dict[str, str]:
    return written(good, b"<!DOCTYPE html><html><body>Sign in</body></html>")


def lfs_pointer(data: Path, good: Path) -> dict[str, str]:
    return written(good, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123456\n")


def no_checkpoint(data: Path, good: Path) -> dict[str, str]:
    return {"--checkpoint": str(good.with_name("absent.pth"))}


def unknown_method(data: Path, good: Path) -> dict[str, str]:
    return {"--methods": "deep_tailor"}


def sigma_0(data: Path, good: Path) -> dict[str, str]:
    return {"--sigmas": "0"}


def unknown_target(data: Path, good: Path) -> dict[str, str]:
    return {"--target": "Chess"}


def too_many_videos(data: Path, good: Path) -> dict[str, str]:
    return {"--videos": "1010"}


def alpha_too_small(data: Path, good: Path) -> dict[str, str]:
    return {"--methods": "deep_taylor:alpha=0.5"}


def no_worker(data: Path, good: Path) -> dict[str, str]:
    return {"--workers": "0"}


def plain_scheduler(data: Path, good: Path) -> dict[str, str]:
    return {"--scheduler": "tcp://192.0.2.1:8786"}


def crop_that_the_model_refuses(data: Path, good: Path) -> dict[str, str]:
    return {"--crop": "96 96"}


def scripted_model(data: Path, good: Path) -> dict[str, str]:
    return {"--model": "tests.test_bad_input:scripted"}


def scripted() -> tuple[torch.jit.ScriptModule, dict[str, object]]:
    return torch.jit.script(torch.nn.Linear(2, 2)), families()["c3d-jfzhang"][0].profile.as_dict()


def root_is_a_file(data: Path, good: Path) -> dict[str, str]:
    return {"--root": str(good)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (no_such_directory, "is not a directory"),
        (no_lists, "ucfTrainTestlist"),
        (unknown_class, "Chess"),
        (label_0, "label '0'"),
        (label_too_large, "102"),
        (unknown_family, "c3d-jfzhang"),
        (wrong_number_of_outputs, "101 outputs"),
        (nan_weights, "conv3a.weight"),
        (missing_key, "fc7.bias"),
        (html_page, "web page"),
        (lfs_pointer, "LFS"),
        (no_checkpoint, "absent.pth"),
        (unknown_method, "deep_taylor"),
        (sigma_0, "sigma is 0"),
        (unknown_target, "predicted, true, video"),
        (too_many_videos, "1010"),
        (alpha_too_small, "at least 1"),
        (no_worker, "workers is 0"),
        (plain_scheduler, "tls://"),
        (crop_that_the_model_refuses, "(clip, 3, 16, 112, 112)"),
        (scripted_model, "'tests.test_bad_input:scripted' can't be used: it is compiled by TorchScript"),
        (root_is_a_file, "good.pth"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_bad_input_gets_one_line(
    change: Change, said: str, data: Path, good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    options = {"--data": str(data), "--checkpoint": str(good), "--root": str(root), "--subset": "all"}
    copy = Path(shutil.copy(good, tmp_path / good.name))
    options["--checkpoint"] = str(copy)
    options |= change(data, copy)
    code = main(
        ["explain", *(word for option in options.items() for part in option for word in part.split(" "))]
    )
    error = capsys.readouterr().err
    assert code == BAD_INPUT
    assert error.startswith("selrel: ")
    assert error.count("\n") == 1, error
    assert said in error
    assert not root.exists() or not any(path.is_file() for path in root.rglob("*"))


def test_too_little_disk_is_found_before_starting(
    data: Path,
    good: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Root, "free_bytes", lambda self: 1_000_000)
    root = tmp_path / "root"
    words = ["--data", str(data), "--checkpoint", str(good), "--root", str(root), "--subset", "all"]
    assert main(["explain", *words]) == BAD_INPUT
    error = capsys.readouterr().err
    assert "needed" in error and "free" in error
    assert not any(path.is_file() for path in root.rglob("*"))


def test_unknown_option_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--colour", "red"]) == BAD_INPUT


def rewrite(path: Path, old: str, new: str) -> dict[str, str]:
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())
    return {}


def saved(path: Path, state: dict[str, torch.Tensor]) -> dict[str, str]:
    torch.save({"state_dict": state}, path)
    return {}


def written(path: Path, content: bytes) -> dict[str, str]:
    path.write_bytes(content)
    return {}


def test_runs_of_no_directory_are_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--root", str(tmp_path / "absent")]) == BAD_INPUT
    assert "absent does not exist" in capsys.readouterr().err
