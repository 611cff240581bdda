"""The command line: where settings come from, what a program can read, and what is said before a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows.cli import application, main
from flows.exits import BAD_INPUT, EXPLAINED, FAILED
from storage.runs import mark_success, write_run
from storage.stores.root import Root
from tasks.checkup import checkup
from tasks.stages import STAGES


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What `selrel explain`, started in an empty directory, would hand to the run."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(
        "flows.commands.explain.run_explain",
        lambda request, cluster: found.update(vars(request), cluster=vars(cluster)) or 0,
    )
    monkeypatch.chdir(tmp_path)
    for name in ("ROOT", "SEED", "WORKERS", "TARGET"):
        monkeypatch.delenv(f"SELREL_{name}", raising=False)
    return found


EXPLAIN = ["explain", "--data", "ucf", "--checkpoint", "c3d.pth"]


def test_flags_come_before_the_file_and_the_file_before_the_environment(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("selrel.toml").write_text(
        'root = "of-file"\nworkers = 3\n[explain]\nseed = 5\nmethods = ["grad_cam", "sensitivity"]\n'
        "resize = [180, 130]\nmotion-rule = 'frame_std'\n"
    )
    monkeypatch.setenv("SELREL_SEED", "6")
    monkeypatch.setenv("SELREL_TARGET", "true")
    monkeypatch.setenv("SELREL_TEST_DATA", "/somewhere")
    assert main([*EXPLAIN, "--root", "of-flag"]) == 0
    assert (given["root"], given["seed"], given["target"]) == ("of-flag", 5, "true")
    assert list(given["methods"]) == ["grad_cam", "sensitivity"]
    assert given["motion_rule"] == "frame_std"
    assert given["resize"] == (180, 130)
    assert given["cluster"] == {"workers": 3, "scheduler": None, "insecure": False}


def test_what_stands_above_the_tables_holds_for_every_command_that_knows_it(
    given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("selrel.toml").write_text('root = "here"\nworkers = 2\n')
    Path("here").mkdir()
    assert main(["runs"]) == 0
    assert main(EXPLAIN) == 0
    assert given["root"] == "here"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds = 5", "says seeds outside of any table; there, it may say data, root"),
        ("[explian]\nseed = 5", "has a table [explian], but there is no such command"),
        ("[explain]\nseeds = 5", 'Unknown option: "[seeds]" from selrel.toml'),
        ("[explain]\nseed = 'x'", 'unable to convert "x" into int'),
        ("seed 5", "can't be read as TOML"),
    ],
)
def test_a_wrong_file_is_bad_input(
    given: dict[str, Any], text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("selrel.toml").write_text(text)
    assert main([*EXPLAIN, "--root", "r"]) == BAD_INPUT
    assert said in " ".join(capsys.readouterr().err.split())
    assert not given


def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    overview = " ".join(capsys.readouterr().out.split())
    assert all(word in overview for word in EXPLAINED.replace("`", "").split())
    for name in application():
        if not name.startswith("-"):
            assert main([name, "--help"]) == 0
            assert f"Example: selrel {name}" in capsys.readouterr().out


def test_runs_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Root(str(tmp_path))
    for name in ("a", "b"):
        write_run(place, place.run(name), {"dataset_id": "d", "long": "x" * 500})
    mark_success(place, place.run("b"), {"clips": 3, "accuracy": 0.5, "motion_share": None})
    assert main(["runs", "--root", str(tmp_path), "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["name"], first["finished"], first["summary"]) == ("a", False, None)
    assert (second["finished"], second["summary"]["clips"]) == (True, 3)
    assert second["description"]["long"] == "x" * 500


def test_a_sound_machine(tmp_path: Path) -> None:
    found = {finding.check: finding for finding in checkup(str(tmp_path / "new" / "root"))}
    assert {finding.state for finding in found.values()} <= {"ok", "note"}, found
    assert {"Python", "packages", "device", "decoder", "root", "ports"} <= found.keys()
    assert found["root"].found.startswith(f"{tmp_path / 'new' / 'root'} can be written")
    assert list(tmp_path.iterdir()) == [], "a check leaves nothing"


def test_the_doctor_names_what_is_broken_and_how_to_mend_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(
        "tasks.checkup.metadata.requires", lambda _: ["numpy<1", "no-such-package", "x; extra=='y'"]
    )
    assert main(["doctor", "--root", str(tmp_path / "file"), "--json"]) == FAILED
    report = json.loads(capsys.readouterr().out)
    broken = {check["check"]: check for check in report["checks"] if check["state"] == "broken"}
    assert report["sound"] is False
    assert broken.keys() == {"packages", "root"}
    assert broken["packages"]["found"].startswith("numpy<1 needed, 2")
    assert broken["packages"]["found"].endswith("no-such-package is missing")
    assert "constraints.txt" in broken["packages"]["mend"]
    assert main(["doctor", "--root", str(tmp_path / "file")]) == FAILED
    assert "-> give a directory that this user may write" in capsys.readouterr().out


@pytest.mark.slow
def test_a_plan_counts_measures_and_leaves_nothing(
    tiny_ucf101: Path, tiny_checkpoint: Path, tiny_frames: dict[str, int], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    root = tmp_path / "new" / "root"
    where = ["--data", str(tiny_ucf101), "--checkpoint", str(tiny_checkpoint), "--root", str(root)]
    words = ["plan", *where, "--subset", "all", "--block-clips", "3", "--workers", "2"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    clips = sum(-(-n_frames // 16) for n_frames in tiny_frames.values())
    assert (found["videos"], found["clips"], found["blocks"]) == (len(tiny_frames), clips, -(-clips // 3))
    assert (found["finished"], found["exact"], found["workers"]) == (False, False, 2)
    assert found["bytes"] == clips * 16 * 112 * 112 * (3 + 4 + 2 * 4)
    assert found["free_bytes"] > 0
    seconds = found["seconds_per_clip"]
    assert seconds.keys() == {stage.name for stage in STAGES}
    assert min(seconds.values()) > 0
    assert found["seconds"] == pytest.approx(sum(seconds.values()) * clips / 2)
    assert list(tmp_path.iterdir()) == []
    assert main(words) == 0
    said = capsys.readouterr().out
    assert f"{len(tiny_frames)} videos, about {clips} clips" in said
    assert "with 2 workers" in said
    assert list(tmp_path.iterdir()) == []


def test_a_plan_passes_over_damaged_videos_and_says_whose_workers_it_counts(
    tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(tiny_ucf101, tmp_path / "data")
    videos = sorted(data.glob("UCF-101/*/*.avi"))
    for video in videos[len(videos) // 2 :]:
        video.write_bytes(b"not a video")
    where = ["--data", str(data), "--checkpoint", str(tiny_checkpoint), "--root", str(tmp_path / "root")]
    words = ["plan", *where, "--subset", "all", "--scheduler", "tcp://127.0.0.1:9"]
    assert main(words) == 0
    assert " here (tcp://127.0.0.1:9 was not asked), once" in capsys.readouterr().out
    for video in videos:
        video.write_bytes(b"not a video")
    assert main(words) == BAD_INPUT
    assert f"none of the {len(videos)} videos in {data} can be decoded" in capsys.readouterr().err
