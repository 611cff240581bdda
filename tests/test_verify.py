"""Verify, on a small run that left a block out: what it says, and what it drops for the next start."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from flows import cli
from storage.layout import RunPaths
from storage.runs import is_finished
from storage.stores.receipts import LINK, read_receipt, withdraw
from storage.stores.root import Root
from tasks.clips import videos_of
from tasks.stages.report import report
from tasks.verify import verify_run
from tests.made_run import DATASET, RUN, make_run

LEFT_OUT = 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two blocks, of which the second was explained but not scored; to be copied."""
    place = Root(str(tmp_path_factory.mktemp("made")))
    make_run(place.url, n_clips=20)
    paths = place.run(RUN)
    place.delete(paths.success)
    withdraw(place, paths, "score", LEFT_OUT)
    report.fn(
        place.url,
        RUN,
        [{"stage": "score", "block": LEFT_OUT, "start": 16, "stop": 20, "reason": "score: killed"}],
    )
    return Path(place.url)


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Root:
    shutil.copytree(made, tmp_path / "root")
    return Root(str(tmp_path / "root"))


@pytest.fixture
def paths(place: Root) -> RunPaths:
    return place.run(RUN)


@pytest.fixture
def damaged(place: Root, paths: RunPaths) -> list[str]:
    """Two files that can't be read: a pipe, and a link to a device that never ends."""
    files = [paths.score(0), paths.table("table1")]
    for file in files:
        place.delete(file)
    os.mkfifo(place.join(files[0]))
    Path(place.join(files[1])).symlink_to("/dev/zero")
    return files


def verify(place: Root, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    code = cli.main(["verify", place.join(f"runs/{RUN}"), *options])
    return code, capsys.readouterr().out.splitlines()


def test_a_run_that_left_blocks_out_is_sound_and_can_try_them_again(
    place: Root, paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = verify(place, capsys)
    assert code == 0, lines
    assert lines[0].startswith("Sound: ")
    assert lines[1:] == [
        "1 block was left out; after `selrel verify RUN --repair` the `selrel explain` command of this run "
        "tries again."
    ]
    assert is_finished(place, paths)
    code, lines = verify(place, capsys, "--repair")
    assert (code, len(lines)) == (0, 2)
    assert lines[1] == (
        "1 block was left out: the run is unfinished now, and its `selrel explain` command tries again."
    )
    assert not is_finished(place, paths)
    assert read_receipt(place, paths.receipts("score", 0)) is not None


def test_files_that_cannot_be_read_are_damage_in_a_line_each_and_are_dropped(
    place: Root, paths: RunPaths, damaged: list[str]
) -> None:
    reasons = ("can't be read: not a regular file", LINK)
    lines = [f"{place.join(file)} {why}" for file, why in zip(damaged, reasons, strict=True)]
    assert sorted(verify_run(place, paths).damaged) == sorted(lines)
    assert sorted(verify_run(place, paths, repair=True).damaged) == sorted(lines)
    assert not is_finished(place, paths)
    assert read_receipt(place, paths.receipts("score", 0)) is None
    assert not any(os.path.lexists(place.join(file)) for file in damaged)


@pytest.mark.parametrize("name", ["success", "run_json"])
def test_a_description_that_cannot_be_read_is_damage(place: Root, paths: RunPaths, name: str) -> None:
    path = getattr(paths, name)
    place.delete(path)
    Path(place.join(path)).symlink_to("/proc/self/mem")
    lines = verify_run(place, paths, repair=True).damaged
    assert [line for line in lines if line.startswith(place.join(path))]
    assert not any("\n" in line for line in lines)
    assert not Path(place.join(path)).is_symlink()


def test_an_unfinished_run_is_sound_so_far_and_goes_on(
    place: Root, paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    goes_on = "The run is not finished: the same `selrel explain` command goes on where it stopped."
    place.delete(paths.success)
    code, lines = verify(place, capsys)
    assert code == 1
    assert lines[0].startswith("Sound so far: ") and lines[1:] == [goes_on]
    place.delete(paths.score(0))
    code, lines = verify(place, capsys)
    assert code == 1
    assert lines[0].startswith(place.join(paths.score(0))) and lines[1].startswith("Damage found; ")
    assert lines[2:] == [goes_on]


def test_a_run_that_was_stopped_before_there_was_an_index_is_sound_so_far(
    place: Root, paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (paths.success, place.dataset(DATASET).index):
        place.delete(path)
    withdraw(place, place.dataset(DATASET), "dataset", 0)
    code, lines = verify(place, capsys)
    assert code == 1
    assert any("its blocks can't be listed" in line for line in lines), "some were explained"
    for block in range(2):
        withdraw(place, paths, "explain", block)
        withdraw(place, paths, "score", block)
    code, lines = verify(place, capsys)
    assert code == 1 and lines[0].startswith("Sound so far: "), lines


def test_a_run_half_repaired_is_not_finished(place: Root, paths: RunPaths) -> None:
    """What can't be deleted like a file, such as a directory in the place of one, is named and stays."""
    place.write_bytes(paths.table("table1"), b"other")
    place.delete(paths.score(0))
    Path(place.join(paths.score(0))).mkdir()
    found = verify_run(place, paths, repair=True)
    assert len(found.damaged) == 2
    (kept,) = found.kept
    assert kept.startswith(f"{place.join(paths.score(0))} can't be dropped (Is a directory)")
    assert not is_finished(place, paths) and not place.exists(paths.table("table1"))


def test_nothing_is_said_of_videos_whose_content_nobody_wrote_down(place: Root) -> None:
    """Earlier versions knew the sizes of videos."""
    path = place.dataset(DATASET).description
    described = place.read_json(path)
    known = ["Archery/v_Archery_g01_c01.avi", "Archery", 0, "Archery/g01", "test", 9]
    for row, lines in ((known, 0), ([*known, "ab" * 32], 1)):
        place.write_json(path, {**described, "videos": [row]})
        videos_of.cache_clear()
        found = verify_run(place, place.run(RUN))
        assert found.videos.count("are not at ucf here") == lines
