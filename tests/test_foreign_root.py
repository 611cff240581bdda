"""A root that somebody else filled: nothing outside a run is touched, nothing is unbounded, no traceback."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from flows import cli
from storage.receipts import sealed
from storage.root import Root
from tasks.effort import effort_damage
from tests.made_run import DATASET, RUN, make_run

PATHS, DATA = Root("/").run(RUN), Root("/").dataset(DATASET)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a sound run; to be copied."""
    path = tmp_path_factory.mktemp("made")
    make_run(path)
    return path


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of its own, read by ids that no other test's process has kept."""
    return Path(shutil.copytree(made, tmp_path / "root", symlinks=True))


def files(directory: Path) -> dict[str, bytes]:
    found = (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(directory)): path.read_bytes() for path in found}


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[str]]:
    code = cli.main([str(word) for word in words])
    told = capsys.readouterr()
    return code, [*told.out.splitlines(), *told.err.splitlines()]


def reseal(path: Path, **changes: Any) -> None:
    content = json.loads(path.read_text()) | changes
    content.pop("seal", None)
    path.write_text(json.dumps(sealed(content)))


# What a repair deletes.


@pytest.fixture
def other(root: Path) -> Path:
    """Another run of the same root, which nobody repairs."""
    path = root / "runs" / "other-0123456789abcdef"
    shutil.copytree(root / PATHS.directory, path)
    return path


def test_a_repair_does_not_follow_a_link_out_of_its_run(
    root: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(other)
    shutil.rmtree(root / PATHS.scores)
    (root / PATHS.scores).symlink_to(other / "scores")
    (other / "scores/000000.parquet").write_bytes(b"damaged")
    before["scores/000000.parquet"] = b"damaged"
    code, lines = run(capsys, "verify", root / PATHS.directory, "--repair")
    assert code == 1
    assert sum("is a link" in line for line in lines) == 1, lines
    assert files(other) == before
    assert not (root / PATHS.scores).is_symlink(), "the link itself goes, so that a second start can write"
    assert not (root / PATHS.receipts("score", 0)).exists()
    assert (root / PATHS.receipts("explain", 0)).exists()


@pytest.mark.parametrize("directory", ["receipts", "receipts/report", "effort", "tables", "report"])
def test_no_directory_of_a_run_leads_out_of_it(
    root: Path, other: Path, directory: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (other / directory).rglob("*"):
        if file.is_file():
            file.write_bytes(b"damaged")
    before = files(other)
    shutil.rmtree(root / PATHS.directory / directory)
    (root / PATHS.directory / directory).symlink_to(other / directory)
    code, lines = run(capsys, "verify", root / PATHS.directory, "--repair")
    assert code == 1 and any("is a link" in line for line in lines), lines
    assert files(other) == before


def test_a_run_that_is_a_link_to_another_is_refused(
    root: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / PATHS.run_json).write_bytes(b"damaged")
    before = files(root)
    (root / "runs" / "link-0").symlink_to(root / PATHS.directory)
    code, lines = run(capsys, "verify", root / "runs" / "link-0", "--repair")
    assert code == 2 and len(lines) == 1 and "is a link to" in lines[0]
    assert files(root) == before


FOREIGN = {
    "other run": f"runs/other-0123456789abcdef/{'run.json'}",
    "up": f"{PATHS.directory}/../other-0123456789abcdef/run.json",
    "data set": DATA.index,
    "absolute": "/etc/hostname",
    "empty": "",
    "nothing": f"{PATHS.directory}/",
    "itself": PATHS.directory,
    "NUL": f"{PATHS.directory}/run.json\0",
    "line": f"{PATHS.directory}/run.json\n\x1b[31mSound",
    "prefix": f"{PATHS.directory}-2/run.json",
    "URL": "s3://bucket/key",
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_receipt_has_no_say_over_files_outside_its_run(
    root: Path, other: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(other), files(root / DATA.directory)
    receipt = root / PATHS.receipts("score", 0)
    named = json.loads(receipt.read_text())["files"]
    reseal(receipt, files={**named, FOREIGN[kind]: "0" * 64})
    (root / PATHS.table("table1")).write_bytes(b"damaged")
    code, lines = run(capsys, "verify", root / PATHS.directory, "--repair")
    assert code == 1
    assert sum("refused" in line for line in lines) == 1, lines
    assert any("table1.parquet is not what was written" in line for line in lines), "the rest is verified"
    assert not receipt.exists() and not (root / PATHS.table("table1")).exists(), "and repaired"
    assert (files(other), files(root / DATA.directory)) == before


@pytest.mark.parametrize("kind", ["other run", "up", "absolute", "empty"])
def test_the_same_on_s3(server: Any, kind: str) -> None:
    from storage.receipts import Written, damages, discard_damaged, write_receipt
    from tests.servers import BUCKET, s3_client

    with s3_client(server):
        place = Root(f"s3://{BUCKET}/foreign-{kind.replace(' ', '')}")
        place.write_bytes(FOREIGN["other run"], b"kept")
        write_receipt(place, PATHS, "score", 0, Written(files={FOREIGN[kind]: "0" * 64}))
        found = damages(place, PATHS, "score", 0)
        assert list(found) == [PATHS.receipts("score", 0)]
        assert "is no file of" in found[PATHS.receipts("score", 0)]
        discard_damaged(place, PATHS, "score", 0)
        assert not place.exists(PATHS.receipts("score", 0))
        assert place.read_bytes(FOREIGN["other run"]) == b"kept"


def test_nothing_is_written_through_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    shutil.rmtree(root / PATHS.tables)
    (root / PATHS.tables).symlink_to(tmp_path / "elsewhere")
    for write in (Root(str(root)).write_bytes, Root(str(root)).create_bytes):
        with pytest.raises(OSError, match=r"tables/table1.parquet.*|a link is not followed") as error:
            write(PATHS.table("table1"), b"content")
        assert "link is not followed" in str(error.value)
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Files that are no files, and files that are not what was written.


@pytest.mark.parametrize("command", ["verify", "report", "report --html", "compare", "export"])
@pytest.mark.parametrize("kind", ["pipe", "device", "directory"])
def test_only_regular_files_are_read(
    root: Path, tmp_path: Path, command: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe would be waited for, and a device read for ever."""
    for path in (PATHS.table("table1"), PATHS.table("clips"), PATHS.table("sweep"), PATHS.score(0)):
        (root / path).unlink()
        if kind == "pipe":
            os.mkfifo(root / path)
        elif kind == "device":
            (root / path).symlink_to("/dev/zero")
        else:
            (root / path).mkdir()
    other = shutil.copytree(root / "runs", tmp_path / "runs", ignore=lambda *_: ["tables", "scores"])
    words = {
        "verify": ["verify", root / PATHS.directory],
        "report": ["report", root / PATHS.directory],
        "report --html": ["report", root / PATHS.directory, "--html", tmp_path / "page"],
        "compare": ["compare", root / PATHS.directory, other / RUN],
        "export": ["export", root / PATHS.directory, "--figures", tmp_path / "figures"],
    }[command]
    code, lines = run(capsys, *words)
    assert code == (1 if command == "verify" else 2)
    why = {"pipe": "not a regular file", "device": "link", "directory": "Is a directory"}[kind]
    told = [line for line in lines if "can't be read" in line or "is a link" in line]
    assert told and all(why in line for line in told), lines


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("store", [DATA.frames, DATA.motion, PATHS.relevance])
def test_only_regular_files_are_read_of_a_cube(
    root: Path, tmp_path: Path, store: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in [path for path in (root / store).rglob("*") if path.is_file() and path.name != "zarr.json"]:
        path.unlink()
        os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    for words in (
        ["report", root / PATHS.directory, "--html", tmp_path / "page"],
        ["export", root / PATHS.directory, "--clip", "0", "--output", tmp_path / "clip.webm"],
    ):
        code, lines = run(capsys, *words)
        assert code == 2, lines
        assert any("can't be read" in line or "damaged" in line or "not there" in line for line in lines), (
            lines
        )


def test_a_file_of_another_size_than_its_receipt_says_is_not_read(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading a terabyte of nothing would take an hour."""
    os.truncate(root / PATHS.table("table1"), 10**12)
    code, lines = run(capsys, "verify", root / PATHS.directory)
    assert code == 1
    assert any("table1.parquet is not what was written (1,000,000,000,000 bytes)" in line for line in lines)
    code, lines = run(capsys, "report", root / PATHS.directory)
    assert code == 2 and any("larger than a file of its kind" in line for line in lines)


@pytest.mark.parametrize("flipped", ["first", "middle", "last"])
def test_every_damaged_file_is_named_whatever_else_is_damaged(
    root: Path, flipped: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, "verify", root / PATHS.directory)[0] == 0
    every = files(root)
    for path, data in every.items():
        at = {"first": 0, "middle": len(data) // 2, "last": len(data) - 2}[flipped]
        (root / path).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    code, lines = run(capsys, "verify", root / PATHS.directory)
    assert code == 1
    # What a damaged receipt vouches for can't be told any more.
    receipts = {path for path in every if "/receipts/" in path}
    records = {path for path in every if path.endswith(("run.json", "_SUCCESS.json")) or "/effort/" in path}
    named = {path for path in every if any(line.startswith(f"{root / path} ") for line in lines)}
    assert receipts | records - {PATHS.run_json} <= named
    assert any(PATHS.run_json in line for line in lines)


@pytest.mark.parametrize("also", [[], [PATHS.run_json], [PATHS.run_json, PATHS.success]])
def test_every_file_that_a_receipt_vouches_for_is_named(
    root: Path, also: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled = [path for path in files(root) if "/receipts/" not in path and not path.endswith("SUCCESS.json")]
    for path in {*spoiled, *also}:
        data = (root / path).read_bytes()
        (root / path).write_bytes(bytes([data[0] ^ 1]) + data[1:])
    code, lines = run(capsys, "verify", root / PATHS.directory)
    assert code == 1
    named = {path for path in spoiled if any(line.startswith(f"{root / path} ") for line in lines)}
    assert set(spoiled) == named


def test_a_flipped_bit_of_an_effort_record_is_found_and_dropped(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = root / PATHS.effort("score")
    sound = record.read_bytes()
    for at in range(len(sound)):
        for bit in range(8):
            record.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :])
            assert effort_damage(Root(str(root)), PATHS.effort("score")), (at, bit)
    assert run(capsys, "verify", root / PATHS.directory, "--repair")[0] == 1
    assert not record.exists()
