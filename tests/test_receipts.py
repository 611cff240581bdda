import hashlib
import os
import resource
import struct

import numpy as np
import pytest

from storage.stores.patience import may_pass
from storage.stores.receipts import (
    DamagedReceipt,
    Receipt,
    Written,
    array_sha256,
    damages,
    discard_damaged,
    file_hashes,
    pending,
    read_receipt,
    read_receipts,
    sealed,
    withdraw,
    write_receipt,
)
from storage.stores.root import Root
from tests.servers import BUCKET, s3_client, s3_server


def written(root, paths, block, stage="explain"):
    root.write_bytes(f"{paths.directory}/x{block}", b"content")
    content = Written({"deep_taylor": "ab" * 32}) | file_hashes(root, [f"{paths.directory}/x{block}"])
    return write_receipt(root, paths, stage, block, content, start=block * 4, stop=block * 4 + 4)


def test_a_receipt_comes_back_and_has_the_same_bytes_again(tmp_path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    receipt = written(root, run, 2)
    first = root.read_bytes(run.receipts("explain", 2))
    files, sizes = {FILE: hashlib.sha256(b"content").hexdigest()}, {FILE: 7}
    assert receipt == Receipt("explain", 2, 8, 12, {"deep_taylor": "ab" * 32}, files, sizes)
    assert read_receipt(root, run.receipts("explain", 2)) == receipt
    written(root, run, 2)
    assert root.read_bytes(run.receipts("explain", 2)) == first
    assert read_receipt(root, run.receipts("explain", 3)) is None


def test_a_sound_block_has_no_damage_and_stays(tmp_path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    written(root, run, 2)
    assert discard_damaged(root, run, "explain", 2) == {}
    assert read_receipt(root, run.receipts("explain", 2)) is not None


FILE, RECEIPT = "runs/c3d-01/x2", "runs/c3d-01/receipts/explain/000002.json"


@pytest.mark.parametrize(
    ("path", "damage", "complaint"),
    [
        (FILE, lambda data: None, {FILE: "is missing"}),
        (FILE, lambda data: data[:-1], {FILE: "is not what was written (6 bytes)"}),
        (FILE, lambda data: b"Content", {FILE: "is not what was written (7 bytes)"}),
        (RECEIPT, lambda data: None, {RECEIPT: "is missing"}),
        (RECEIPT, lambda data: b"", {RECEIPT: "is no receipt, or was changed"}),
        (RECEIPT, lambda data: data.replace(b"ab", b"cd"), {RECEIPT: "is no receipt, or was changed"}),
        (RECEIPT, lambda data: data.replace(b"x2", b"x3"), {RECEIPT: "is no receipt, or was changed"}),
        (RECEIPT, lambda data: data.replace(b"8", b"9", 1), {RECEIPT: "is no receipt, or was changed"}),
    ],
)
def test_any_damage_is_named_and_its_block_pending_again(tmp_path, path, damage, complaint):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    for block in (1, 2):
        written(root, run, block)
    changed = damage(root.read_bytes(path))
    root.delete(path) if changed is None else root.write_bytes(path, changed)
    assert damages(root, run, "explain", 2) == complaint
    assert discard_damaged(root, run, "explain", 2) == complaint
    assert pending(root, run, "explain", [1, 2]) == [2]
    assert not root.exists(path)


@pytest.mark.parametrize("path", [FILE, RECEIPT])
def test_a_file_that_cannot_be_read_is_damage(tmp_path, path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    written(root, run, 2)
    root.delete(path)
    os.mkfifo(tmp_path / path)
    assert discard_damaged(root, run, "explain", 2) == {path: "can't be read: not a regular file"}
    assert pending(root, run, "explain", [2]) == [2]
    written(root, run, 2)
    assert damages(root, run, "explain", 2) == {}


def test_a_receipt_of_the_first_versions_names_no_sizes(tmp_path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    written(root, run, 2)
    content = root.read_json(RECEIPT)
    del content["sizes"], content["seal"]
    root.write_json(RECEIPT, sealed(content))
    assert damages(root, run, "explain", 2) == {}
    assert read_receipt(root, RECEIPT).sizes == {}


def test_what_this_process_lacks_is_no_damage(tmp_path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    written(root, run, 2)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            discard_damaged(root, run, "explain", 2)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert damages(root, run, "explain", 2) == {}


def test_a_store_that_does_not_answer_is_no_damage(tmp_path):
    with s3_server(tmp_path / "served") as server, s3_client(server):
        root = Root(f"s3://{BUCKET}/root", patient=False)
        run = root.run("c3d-01")
        written(root, run, 2)
        server.process.kill()
        server.process.wait()
        with pytest.raises(Exception) as failed:
            damages(root, run, "explain", 2)
    assert may_pass(failed.value)


def test_a_withdrawn_block_leaves_nothing_behind(tmp_path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    for block in (1, 2):
        written(root, run, block)
    for _ in range(2):
        withdraw(root, run, "explain", 2)
        assert root.find(run.directory) == [RECEIPT.replace("2.json", "1.json"), FILE.replace("x2", "x1")]


def test_the_receipt_of_another_block_is_not_taken_for_it(tmp_path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    written(root, run, 2)
    root.write_bytes(run.receipts("explain", 3), root.read_bytes(run.receipts("explain", 2)))
    assert list(damages(root, run, "explain", 3).values()) == ["is the receipt of explain 2"]


def test_pending_blocks_are_those_without_a_receipt(tmp_path):
    root = Root(str(tmp_path))
    for paths in (root.run("c3d-01"), root.dataset("0123")):
        assert pending(root, paths, "explain", range(5)) == [0, 1, 2, 3, 4]
        for block in (3, 1):
            written(root, paths, block)
        written(root, paths, 2, stage="score")
        assert pending(root, paths, "explain", range(5)) == [0, 2, 4]
        assert pending(root, paths, "explain", [4, 3, 0]) == [4, 0]
        root.delete(paths.receipts("explain", 3))
        assert pending(root, paths, "explain", range(5)) == [0, 2, 3, 4]


def test_an_unfinished_write_is_no_receipt(tmp_path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    written(root, run, 0)
    (tmp_path / "runs/c3d-01/receipts/explain/.000001.json.x.unfinished").write_text("{")
    assert pending(root, run, "explain", [0, 1]) == [1]
    assert [receipt.block for receipt in read_receipts(root, run, "explain")] == [0]


def test_all_receipts_come_in_block_order(tmp_path):
    root = Root(str(tmp_path))
    run = root.run("c3d-01")
    assert read_receipts(root, run, "explain") == []
    for block in (1_000_001, 10, 9, 999_999):
        written(root, run, block)
    assert [receipt.block for receipt in read_receipts(root, run, "explain")] == [9, 10, 999_999, 1_000_001]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"stage": 1}', b"\xff\xfe"])
def test_a_damaged_receipt_is_named_in_one_line(tmp_path, content):
    root = Root(str(tmp_path))
    path = root.run("c3d-01").receipts("explain", 0)
    root.write_bytes(path, content)
    with pytest.raises(DamagedReceipt, match=r"000000\.json") as damaged:
        read_receipt(root, path)
    assert "\n" not in str(damaged.value)


def test_an_array_hash_is_of_dtype_shape_and_values():
    array = np.array([[1.5, -2.0], [np.nan, 0.0]], np.float32)
    values = struct.pack("<4f", 1.5, -2.0, np.nan, 0.0)
    assert array_sha256(array) == hashlib.sha256(b"<f4 (2, 2) " + values).hexdigest()
    others = [array.astype(np.float64), array.reshape(4), array.reshape(1, 4), array.T, -array, array[:1]]
    assert len({array_sha256(other) for other in [array, *others]}) == len(others) + 1


def test_an_array_hash_does_not_depend_on_layout():
    array = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    for same in (np.asfortranarray(array), array.astype(">f4"), np.repeat(array, 2, axis=0)[::2]):
        assert array_sha256(same) == array_sha256(array)
    assert array_sha256(np.float32(1).reshape(())) != array_sha256(np.ones(1, np.float32))
    assert array_sha256(np.zeros((0, 3), np.uint8)) != array_sha256(np.zeros((3, 0), np.uint8))


def test_an_array_without_fixed_bytes_has_no_hash():
    for array in (np.array(["a"], object), np.array(["a"]), np.array([1j])):
        with pytest.raises(TypeError, match="has no content hash"):
            array_sha256(array)
