"""A root that somebody else filled: nothing outside a run is touched, nothing is unbounded, no traceback."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from flows import cli
from flows.exits import stopped
from flows.printing import print_result, print_runs, result_of
from flows.terminal import Console, LogFormatter
from selrel.training.fitting import Trainer
from storage.arrays.blocks import Variable, create_group, write_block
from storage.checkpoints.ledger import Entry, append, read_ledger
from storage.checkpoints.trainings import DamagedState, describe, write_state
from storage.report.columns import shown_table
from storage.results import result_rows
from storage.runs import Run, list_runs, read_dataset_description, read_run
from storage.stores.leases import read_holder
from storage.stores.receipts import blocks_done, damages, sealed
from storage.stores.root import Root, training_at
from tasks.clips import clips_of, videos_of
from tasks.compare import read_side
from tasks.running.effort import effort_damage, overhead
from tasks.train import _resume
from tasks.verify import verify_run
from tasks.views import views
from tests.made_run import DATASET, RUN, make_run
from tests.test_training import FAST, PROFILE, samples_of
from tests.test_training import made as made_model

PATHS, DATA = Root("/").run(RUN), Root("/").dataset(DATASET)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with a sound run; to be copied."""
    path = tmp_path_factory.mktemp("made")
    make_run(path)
    return path


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy of its own."""
    clips_of.cache_clear()
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
    from storage.stores.receipts import Written, damages, discard_damaged, write_receipt
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


def test_what_a_repair_cannot_drop_keeps_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Directories of somebody's in the place of files: they stay, and all other damage goes."""
    for path in (PATHS.table("table1"), PATHS.score(0)):
        (root / path).unlink()
        (root / path).mkdir()
        (root / path / "kept").write_bytes(b"kept")
    for path in (PATHS.effort("score"), f"{PATHS.relevance}/zarr.json"):
        (root / path).write_bytes(b"damaged")
    code, lines = run(capsys, "verify", root / PATHS.directory, "--repair")
    assert code == 1
    stuck = [line for line in lines if "can't be dropped (Is a directory): remove it yourself" in line]
    assert {line.split()[0] for line in stuck} == {
        str(root / path) for path in (PATHS.table("table1"), PATHS.score(0))
    }
    assert "and dropped" not in lines[-2]
    assert (root / PATHS.score(0) / "kept").read_bytes() == b"kept"
    assert not (root / PATHS.effort("score")).exists() and not (root / PATHS.relevance / "zarr.json").exists()
    for path in (PATHS.table("table1"), PATHS.score(0)):
        shutil.rmtree(root / path)
    code, lines = run(capsys, "verify", root / PATHS.directory, "--repair")
    assert code == 1 and any("dropped: the `selrel explain` command" in line for line in lines), lines
    assert not (root / PATHS.receipts("score", 0)).exists()


# Files that are no files, and files that are not what was written.


def test_a_refused_file_leaves_no_descriptor_open(root: Path) -> None:
    (root / PATHS.directory / "directory").mkdir()
    os.mkfifo(root / PATHS.directory / "pipe")
    (root / PATHS.directory / "link").symlink_to(root / PATHS.run_json)
    open_before = os.listdir("/proc/self/fd")
    for name in ("directory", "pipe", "link", "absent", "run.json/below"):
        with pytest.raises(OSError):
            Root(str(root)).read_bytes(f"{PATHS.directory}/{name}")
    assert os.listdir("/proc/self/fd") == open_before


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


# Files that are small and say that they are large.


def peak_bytes() -> int:
    """The most memory that this process has ever held."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def many_rows(columns: dict[str, pa.Array], *, groups: int = 50) -> bytes:
    """50 million rows, or fewer groups of a million."""
    buffer = io.BytesIO()
    batch = pa.table({name: pa.concat_arrays([values] * 1_000_000) for name, values in columns.items()})
    with pq.ParquetWriter(buffer, batch.schema, compression="zstd") as writer:
        for _ in range(groups):
            writer.write_table(batch)
    return buffer.getvalue()


def long_words(table: pa.Table) -> bytes:
    """Text of 100 kB that is stored once, in each of 100,000 rows."""
    rows = table.take(pa.array(np.zeros(100_000, np.int64)))
    for n, column in enumerate(rows.column_names):
        if pa.types.is_large_string(table.schema.field(column).type):
            words = pa.DictionaryArray.from_arrays(
                pa.array(np.zeros(100_000, np.int32)), pa.array(["x" * 100_000])
            )
            rows = rows.set_column(n, column, words)
    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd")
    return buffer.getvalue()


TABLE_BOMBS: dict[str, Callable[[pa.Table], bytes]] = {
    "rows": lambda table: many_rows({"mean": pa.array([0.5])}),
    "nothing": lambda table: many_rows({"mean": pa.nulls(1)}),
    "lists": lambda table: many_rows({"mean": pa.array([[0.5]])}, groups=1),
    "words": long_words,
}


@pytest.mark.parametrize("kind", TABLE_BOMBS)
def test_a_table_that_says_it_is_large_is_not_read(
    root: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (PATHS.table("table1"), PATHS.table("clips"), PATHS.score(0), DATA.index):
        sound = (root / path).read_bytes()
        bomb = TABLE_BOMBS[kind](pq.read_table(root / path))
        assert len(bomb) < 2**20
        (root / path).write_bytes(bomb)
        clips_of.cache_clear()
        before = peak_bytes()
        code, lines = run(capsys, "report", root / PATHS.directory, "--html", tmp_path / "page")
        assert code == 2
        assert re.search("says that it holds|unfolds|neither numbers nor text", lines[-1]), lines[-1]
        assert peak_bytes() - before < 5e8
        (root / path).write_bytes(sound)


def stretched(shape: list[Any], piece: list[int] | None = None) -> Callable[[dict[str, Any]], None]:
    def change(array: dict[str, Any]) -> None:
        array["shape"] = shape
        if piece:
            array["chunk_grid"]["configuration"]["chunk_shape"] = piece
            array["codecs"][0]["configuration"]["chunk_shape"] = [1, *piece[1:]]

    return change


ZARR_BOMBS = {
    "time": stretched([7, 200_000, 112, 112]),
    "time, in one piece": stretched([7, 200_000, 112, 112], [16, 200_000, 112, 112]),
    "time, that fits a piece": stretched([7, 1000, 24, 32], [16, 1000, 24, 32]),
    "clips": stretched([10**9, 16, 24, 32]),
    "clips, in one piece": stretched([10**6, 16, 24, 32], [10**6, 16, 24, 32]),
    "negative": stretched([7, -16, 24, 32]),
    "not a number": stretched([7, "16", 24, 32]),
}


@pytest.mark.parametrize("kind", ZARR_BOMBS)
def test_an_array_that_says_it_is_large_is_not_read(
    root: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    described = root / PATHS.relevance / "zarr.json"
    content = json.loads(described.read_text())
    ZARR_BOMBS[kind](content["consolidated_metadata"]["metadata"]["deep_taylor"])
    described.write_text(json.dumps(content))
    before = peak_bytes()
    for words in (
        ["report", root / PATHS.directory, "--html", tmp_path / "page"],
        ["export", root / PATHS.directory, "--clip", "0", "--output", tmp_path / "clip.webm"],
    ):
        code, lines = run(capsys, *words)
        assert code == 2
        assert re.search("made to do harm|is no zarr group", lines[-1]), lines[-1]
        assert str(root / PATHS.relevance) in lines[-1]
    assert peak_bytes() - before < 5e8


def test_a_row_that_stands_twice_is_not_multiplied(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Joined with itself, a table of n rows makes n times n."""
    shutil.copytree(root / "runs", root / "copy" / "runs")
    for path, words in ((PATHS.table("clips"), "a clip twice"), (PATHS.score(0), "a score twice")):
        sound, table = (root / path).read_bytes(), pq.read_table(root / path)
        pq.write_table(pa.concat_tables([table, table]), root / path)
        code, lines = run(capsys, "compare", root / PATHS.directory, root / "copy" / PATHS.directory)
        assert code == 2 and words in lines[-1], lines
        (root / path).write_bytes(sound)


# A few MB of JSON, each part of which takes a hundred bytes once it is read, and a kB where it is refused.
JSON_BOMBS: dict[str, Callable[[dict[str, Any]], str]] = {
    "lists": lambda sound: '{"videos": [[' + ",".join(["[]"] * 3 * 10**5) + "]]}",
    "unknown lists": lambda sound: '{"unknown": [' + ",".join(["[]"] * 2**21) + "]}",
    "rows": lambda sound: json.dumps({**sound, "videos": [0] * 10**6}),
    "names": lambda sound: '{"versions": {' + ",".join(f'"{n}": 0' for n in range(2**20)) + "}}",
    "nested": lambda sound: '{"unknown": ' + "[" * 900 + "]" * 900 + "}",
    "nested names": lambda sound: '{"work": {"x": ' + '{"x": ' * 400 + "0" + "}" * 402,
}


@pytest.mark.parametrize("kind", JSON_BOMBS)
def test_a_description_that_is_made_to_do_harm_is_a_line(root: Path, kind: str) -> None:
    place, refused = Root(str(root)), 0
    for path, read in (
        (DATA.description, lambda: read_dataset_description(place, DATA)),
        (PATHS.run_json, lambda: read_run(place, PATHS)),
    ):
        bomb = JSON_BOMBS[kind](json.loads((root / path).read_text()))
        (root / path).write_text(bomb)
        before = peak_bytes()
        told = attempt(read, kind)
        assert len(told) < 600 and "\n" not in told
        refused += bool(told)
        assert peak_bytes() - before < 5e8
    assert refused, "what is no value of one file may be one of the other"


# Files of the right kind that say something else.

OTHERS = (None, True, -1, 1.5, "../../x\x1b[31m", [1], {"x": 1})


def changed(value: Any) -> Iterator[tuple[str, Any]]:
    """A JSON value with each value in it replaced by every other kind, and with each key left out."""
    for other in OTHERS:
        if type(other) is not type(value):
            yield repr(other), other
    for key in value if isinstance(value, dict) else ():
        yield f"{key} left out", {name: inner for name, inner in value.items() if name != key}
        for told, inner in changed(value[key]):
            yield f"{key}: {told}", {**value, key: inner}
    for n, inner in enumerate(value[:1] if isinstance(value, list) else ()):
        for told, other in changed(inner):
            yield f"{n}: {told}", [*value[:n], other, *value[n + 1 :]]


def attempt(work: Callable[[], object], told: str) -> str:
    """The line of what stops a command, as `flows.cli` takes it; anything else is a slip of the program."""
    try:
        work()
    except (ValueError, OSError, RuntimeError) as error:
        return str(error)
    except Exception as error:
        raise AssertionError(told) from error
    return ""


def printed(root: Path) -> str:
    shown = Console(file=io.StringIO(), width=120)
    print_result(shown, str(root / PATHS.directory))
    print_runs(shown, list_runs(Root(str(root))))
    result_of(str(root / PATHS.directory))
    return shown.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("name", [PATHS.run_json, PATHS.success, DATA.description])
def test_a_description_of_another_form_is_a_line(root: Path, name: str) -> None:
    place, refused = Root(str(root)), 0
    sound = json.loads((root / name).read_text())
    sound.pop("seal", None)
    for n, (told, other) in enumerate(changed(sound)):
        content = sealed(other) if name == PATHS.success and isinstance(other, dict) else other
        (root / name).write_text(json.dumps(content))
        clips_of.cache_clear()
        videos_of.cache_clear()
        if name == DATA.description:
            refused += bool(attempt(lambda: clips_of(place, DATASET), told))
        else:
            refused += bool(attempt(lambda: printed(root), told))
        if n % 20 == 0:
            attempt(lambda: verify_run(place, PATHS), told)
    assert refused > 20


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset_id": {"x": 1}}, r"dataset_id is \{'x': 1\}"),
        ({"dataset_id": "../../x"}, r"dataset_id is '../../x'"),
        ({"settings": {"methods": {"../../x": {}}}}, r"methods.*'../../x'|methods\.\.\./\.\./x"),
        ({"settings": {"methods": {"no_such_method": {}}}}, "unknown method 'no_such_method'"),
        ({"settings": {"methods": {"os": {}}}}, "unknown method 'os'"),
        ({"settings": {"methods": []}}, "methods is"),
        ({"profile": {"view": {"crop": [24]}}}, "crop is"),
    ],
)
def test_an_edited_run_json_is_refused_before_anything_is_imported(
    root: Path, tmp_path: Path, change: dict[str, Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads((root / PATHS.run_json).read_text())
    for name, value in change.items():
        content[name] = {**content[name], **value} if name != "dataset_id" else value
    (root / PATHS.run_json).write_text(json.dumps(content))
    before = set(sys.modules)
    code, lines = run(capsys, "report", root / PATHS.directory, "--html", tmp_path / "page")
    assert code == 2 and re.search(said, lines[-1]), lines
    assert not any("no_such_method" in name or "/" in name for name in set(sys.modules) - before)


@pytest.mark.parametrize("stage", ["score", "report"])
def test_a_receipt_of_another_form_is_damage(root: Path, stage: str) -> None:
    place, path, refused = Root(str(root)), PATHS.receipts(stage, 0), 0
    sound = place.read_json(path)
    sound.pop("seal")
    for told, other in changed(sound):
        place.write_json(path, sealed(other) if isinstance(other, dict) else other)
        found: list[object] = []
        assert not attempt(lambda found=found: found.append(damages(place, PATHS, stage, 0)), told)
        refused += found != [{}]
    assert refused > 20


@pytest.mark.parametrize("value", ["NaN", "1e999", "[" * 970 + "]" * 970])
def test_what_was_never_sealed_is_damage(root: Path, value: str) -> None:
    """No seal can be computed of it."""
    place = Root(str(root))
    for path in (PATHS.receipts("score", 0), PATHS.effort("score"), PATHS.success):
        (root / path).write_text(f'{{"seal": "0", "x": {value}}}')
    assert damages(place, PATHS, "score", 0) == {PATHS.receipts("score", 0): "is no receipt, or was changed"}
    assert effort_damage(place, PATHS.effort("score")) == "is not what was written"
    assert list_runs(place)[0].note
    assert verify_run(place, PATHS).damaged


@pytest.mark.parametrize("content", [[], {"attributes": []}, {"attributes": None}, None])
def test_a_group_that_describes_itself_otherwise_is_made_again(root: Path, content: object) -> None:
    place, array = Root(str(root)), {"a": Variable(("clip",), (2,), "float32", 0.0)}
    place.write_json(f"{PATHS.directory}/a.zarr/zarr.json", content)
    create_group(place, f"{PATHS.directory}/a.zarr", array, {}, 2, None)
    write_block(place, f"{PATHS.directory}/a.zarr", 0, {"a": np.ones(2, np.float32)})


def test_a_receipt_has_one_name(root: Path) -> None:
    shutil.copy(root / PATHS.receipts("score", 0), root / PATHS.directory / "receipts/score/0000000.json")
    assert blocks_done(Root(str(root)), PATHS, "score") == [0]


def test_leases_and_effort_of_another_form_are_nobodys(root: Path) -> None:
    place = Root(str(root))
    lease = {"token": "t", "host": "h", "pid": 1, "machine": "m", "beat": 1.0}
    place.write_json(PATHS.lease, lease)
    assert read_holder(place, PATHS.lease) is not None
    for told, other in changed(lease):
        place.write_json(PATHS.lease, other)
        holder = read_holder(place, PATHS.lease)
        assert holder is None or holder.is_gone in (True, False), told
    effort = {"blocks": 1, "worker_seconds": 2.0, "arithmetic_seconds": 1.0}
    for _, other in changed(effort):
        place.write_json(PATHS.effort("score"), sealed(other) if isinstance(other, dict) else other)
        overhead(place, {"score": PATHS})


def columns_changed(table: pa.Table) -> Iterator[tuple[str, pa.Table]]:
    """A table with each column of another kind, empty, or left out."""
    n = len(table)
    for at, name in enumerate(table.column_names):
        yield f"{name} left out", table.drop_columns([name])
        for values in (
            pa.array(["\x1b[31m[red]x[/red]\n:smile:"] * n),
            pa.array([float("nan")] * n),
            pa.array([-(2**62)] * n),
            pa.array([True] * n),
            pa.nulls(n, table.schema.field(name).type),
        ):
            yield f"{name}: {values.type} {values[0]}", table.set_column(at, name, values)


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_a_table_of_another_form_is_a_line(root: Path, name: str) -> None:
    """The others are read by the same function."""
    path = root / PATHS.table(name)
    for told, other in columns_changed(pq.read_table(path)):
        pq.write_table(other, path)
        attempt(lambda: print_result(Console(file=io.StringIO()), str(root / PATHS.directory)), told)
        attempt(lambda: shown_table(views()[name], result_rows(Run(Root(str(root)), PATHS), name)), told)


@pytest.mark.parametrize("path", [PATHS.table("clips"), PATHS.score(0), DATA.index])
def test_rows_of_clips_of_another_form_are_a_line(root: Path, path: str) -> None:
    place = Root(str(root))
    for told, other in columns_changed(pq.read_table(root / path)):
        pq.write_table(other, root / path)
        clips_of.cache_clear()
        attempt(lambda: clips_of(place, DATASET), told)
        attempt(lambda: read_side(Run(place, PATHS)), told)


def test_a_ledger_of_another_form_is_a_line(tmp_path: Path) -> None:
    place = Root(str(tmp_path))
    append(place, "/watched", [Entry("now", "/watched/a.pth", "v", 3, "waiting")])
    path = tmp_path / place.ledger("/watched")
    table = pq.read_table(path)
    for told, other in columns_changed(table):
        pq.write_table(other, path)
        try:
            read_ledger(place, "/watched")
        except ValueError as error:
            assert "\n" not in str(error), told


@pytest.mark.parametrize("name", ["epoch", "model", "optimiser", "schedule", "chance", "history"])
def test_a_training_goes_on_from_a_state_of_its_form_alone(tmp_path: Path, name: str) -> None:
    place, paths = training_at(str(tmp_path / "a.pth"))
    place.write_json(paths.description, [1])
    with pytest.raises(ValueError, match="describes no training"):
        describe(place, paths, {"seed": 0})
    trainer = Trainer(made_model(), samples_of(), profile=PROFILE, recipe=FAST, seed=3)
    sound = {**trainer.state(), "history": []}
    write_state(place, paths, sound)
    assert _resume(trainer, place, paths) == []
    for other in (None, "x", 1.5, [1], {"x": 1}):
        write_state(place, paths, {**sound, name: other})
        with pytest.raises(DamagedState, match="is no state of this training") as error:
            _resume(trainer, place, paths)
        assert "\n" not in str(error.value)
    write_state(place, paths, {key: value for key, value in sound.items() if key != name})
    with pytest.raises(DamagedState, match="is no state of this training"):
        _resume(trainer, place, paths)


# What reaches a terminal.

HOSTILE = "a\x1b[2J\x1b]0;title\x07\x9b31m\u202eb[red]c[/red][link=http://x]d[/link]:smile:\r\nSound: all"


def spoil(path: Path) -> None:
    """Write it into all text of a table."""
    table = pq.read_table(path)
    for at, field in enumerate(table.schema):
        if pa.types.is_large_string(field.type):
            spoilt = pa.array(
                [None if one is None else one + HOSTILE for one in table[field.name].to_pylist()]
            )
            table = table.set_column(at, field.name, spoilt)
    pq.write_table(table, path)


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_of_a_file_commands_the_terminal(
    root: Path, tmp_path: Path, terminal: bool, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for path in (root / PATHS.tables).glob("*.parquet"):
        spoil(path)
    spoil(root / PATHS.score(0))
    spoil(root / DATA.index)
    shutil.copytree(root / "runs", tmp_path / "copy" / "runs")
    reseal(root / PATHS.success, results_sha256=HOSTILE, comparison={
        "previous": "before", "difference": -0.1, "low": None, "high": None, "error": HOSTILE,
    })  # fmt: skip
    receipt = root / PATHS.receipts("score", 0)
    reseal(receipt, files={f"{PATHS.directory}/{HOSTILE}": "0" * 64})
    (root / "runs" / HOSTILE.replace("/", "")).mkdir()
    (root / PATHS.efforts / HOSTILE.replace("/", "")).write_text("{}")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    url, other = str(root / PATHS.directory), str(tmp_path / "copy" / PATHS.directory)
    clips_of.cache_clear()
    for words in (
        ["report", url], ["report", url, "--json"], ["compare", url, other, "--by-class"],
        ["compare", url, other, "--json"], ["verify", url], ["runs", "--root", str(root)],
        ["runs", "--root", str(root), "--json"], ["report", url, "--html", str(tmp_path / "page")],
    ):  # fmt: skip
        cli.main(words)
        told = capsys.readouterr()
        text = told.out + told.err
        # Colours and weights are the program's own.
        own = re.sub(r"\x1b\[[0-9;]*m", "", text) if terminal else text
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", own), (words, own)
        assert "\nSound: all" not in text, words
        if "[red]" in text or "--json" not in words:
            assert "[31m" not in text.replace("\\x9b31m", ""), words
        if "--json" in words and told.out:
            json.loads(told.out)


def test_log_lines_and_errors_are_text_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path / "runs" / "a\x1b[2J-0")]) == 2
    formatter = LogFormatter()
    record = logging.makeLogRecord({"msg": "%s", "args": (HOSTILE,)})
    for text in (capsys.readouterr().err.rstrip("\n"), formatter.format(record)):
        assert text.isprintable(), text
    stopped(HOSTILE, 1)
    assert capsys.readouterr().err.rstrip("\n").isprintable()
