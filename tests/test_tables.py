import hashlib
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from storage.stores.root import Root
from storage.tables import DamagedTable, check_kinds, read_table, read_tables, write_table


@pytest.fixture
def root(tmp_path):
    return Root(str(tmp_path))


def scores(seed=0, n=50):
    random = np.random.default_rng(seed)
    names = ['<b>"quoted"</b>', "two\nlines", "é"]
    return pa.table(
        {
            "clip": pa.array(np.arange(n)),
            "method": [names[i % 3] for i in range(n)],
            "precision": pa.array(random.random(n), mask=random.random(n) < 0.3),
        }
    )


def test_a_table_comes_back(root):
    write_table(root, "scores/000000.parquet", scores())
    assert read_table(root, "scores/000000.parquet").equals(scores())


def test_what_was_read_is_let_go_by_the_thread_that_read_it(root, monkeypatch):
    """Another that waits for Python's lock while Python ends takes the process down with it."""
    write_table(root, "scores/000000.parquet", scores())
    data = root.read_bytes("scores/000000.parquet")
    released_by = []

    class Watched(bytes):
        def __del__(self):
            released_by.append(threading.get_ident())

    monkeypatch.setattr(Root, "read_bytes", lambda *_, most: Watched(data))
    for _ in range(200):
        assert read_table(root, "scores/000000.parquet").equals(scores())
    assert released_by == [threading.get_ident()] * 200


def test_a_frame_is_written_as_the_same_bytes_as_its_table(root):
    frame = pd.DataFrame({"clip": [3, 1], "precision": [0.5, 0.25]}, index=[7, 9])
    from_frame = write_table(root, "a.parquet", frame)
    from_table = write_table(root, "b.parquet", pa.table({"clip": [3, 1], "precision": [0.5, 0.25]}))
    assert from_frame == from_table
    assert root.read_bytes("a.parquet") == root.read_bytes("b.parquet")


def test_the_hash_is_of_the_file_and_the_same_every_time(root):
    first = write_table(root, "a.parquet", scores())
    assert first == hashlib.sha256(root.read_bytes("a.parquet")).hexdigest()
    assert write_table(root, "a.parquet", scores()) == first
    assert write_table(root, "a.parquet", scores(seed=1)) != first


def test_blocks_are_joined_in_block_order(root):
    for block in (10, 2, 0):
        table = pa.table({"clip": [block], "precision": pa.nulls(1) if block == 2 else pa.array([0.5])})
        write_table(root, f"scores/{block:06d}.parquet", table)
    root.write_bytes("scores/notes.txt", b"x")
    joined = read_tables(root, "scores")
    assert joined.to_pydict() == {"clip": [0, 2, 10], "precision": [0.5, None, 0.5]}


def test_an_empty_table_keeps_its_columns(root):
    write_table(root, "a.parquet", scores()[:0])
    assert read_table(root, "a.parquet").schema == scores().schema


@pytest.mark.parametrize("kind", [pa.float64(), pa.null(), pa.string()])
def test_a_column_without_rows_is_of_every_kind(root, kind):
    """As pandas writes one: a data set of which nothing is left out has such exclusions."""
    write_table(root, "empty.parquet", pa.table({"reason": pa.array([], kind)}))
    check_kinds(read_table(root, "empty.parquet"), {"reason": "text or none"}, "empty.parquet")


def test_what_is_absent_is_named(root):
    with pytest.raises(FileNotFoundError, match=r"a\.parquet"):
        read_table(root, "a.parquet")
    with pytest.raises(FileNotFoundError, match="scores"):
        read_tables(root, "scores")


def flipped(data, bit):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_a_flipped_bit_in_the_rows_is_never_read_as_other_rows(root):
    write_table(root, "a.parquet", scores())
    sound = root.read_bytes("a.parquet")
    footer = len(sound) - 8 - int.from_bytes(sound[-8:-4], "little")
    damaged = 0
    for bit in range(0, footer * 8, 29):
        Path(root.join("a.parquet")).write_bytes(flipped(sound, bit))
        try:
            assert read_table(root, "a.parquet").equals(scores())
        except DamagedTable as error:
            assert "\n" not in str(error)
            damaged += 1
    assert damaged > 0.5 * footer * 8 / 29


def test_any_flipped_bit_is_noticed_with_the_hash_of_the_receipt(root):
    sha256 = write_table(root, "a.parquet", scores())
    assert read_table(root, "a.parquet", sha256=sha256).equals(scores())
    sound = root.read_bytes("a.parquet")
    for bit in range(0, len(sound) * 8, 97):
        Path(root.join("a.parquet")).write_bytes(flipped(sound, bit))
        with pytest.raises(DamagedTable, match="not the file of its receipt"):
            read_table(root, "a.parquet", sha256=sha256)


@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_damaged(root, share):
    write_table(root, "a.parquet", scores())
    data = root.read_bytes("a.parquet")
    root.write_bytes("a.parquet", data[: int(len(data) * share)])
    with pytest.raises(DamagedTable, match=r"a\.parquet is damaged"):
        read_table(root, "a.parquet")


def test_only_what_is_asked_for_is_kept(root):
    for block in (0, 1):
        write_table(root, f"scores/{block:06d}.parquet", scores(seed=block))
    whole = read_tables(root, "scores")
    found = read_tables(root, "scores", columns=("clip", "precision"), where=pc.field("clip").isin([3, 7]))
    assert found.column_names == ["clip", "precision"]
    assert found["clip"].to_pylist() == [3, 7, 3, 7]
    assert found["precision"].to_pylist() == whole["precision"].take([3, 7, 53, 57]).to_pylist()
    assert read_tables(root, "scores", where=pc.field("clip").isin([])).num_rows == 0


def test_no_flipped_bit_of_a_footer_ends_the_process(root, tmp_path):
    """For some, pyarrow's C++ would end it, with no word of Python's (SIGABRT)."""
    write_table(root, "t.parquet", pa.table({"a": ["x"], "b": [1]}))
    footer = int.from_bytes((tmp_path / "t.parquet").read_bytes()[-8:-4], "little")
    sound, refused = root.read_bytes("t.parquet"), 0
    # Arrow's own words behind it are long, and describe no part of the file.
    for at in range(len(sound) - 8 - footer, sound.index(b"ARROW:schema")):
        for bit in (0, 2, 6):
            flipped = sound[:at] + bytes([sound[at] ^ 1 << bit]) + sound[at + 1 :]
            (tmp_path / "t.parquet").write_bytes(flipped)
            try:
                read_table(root, "t.parquet")
            except DamagedTable as error:
                refused += 1
                assert "\n" not in str(error)
    assert refused > 100
