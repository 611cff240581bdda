from pathlib import Path

import pytest

from storage.layout import DatasetPaths, RunPaths, content_hash, run_name


def test_every_path_is_spelled_as_the_architecture_says():
    dataset, run = DatasetPaths.of("0123abcd"), RunPaths.of("c3d-0123abcd")
    assert dataset.index == "datasets/0123abcd/index.parquet"
    assert dataset.exclusions == "datasets/0123abcd/exclusions.parquet"
    assert dataset.frames == "datasets/0123abcd/frames.zarr"
    assert dataset.motion == "datasets/0123abcd/motion.zarr"
    assert dataset.receipts("decode", 3) == "datasets/0123abcd/receipts/decode/000003.json"
    assert run.name == "c3d-0123abcd"
    assert run.run_json == "runs/c3d-0123abcd/run.json"
    assert run.relevance == "runs/c3d-0123abcd/relevance.zarr"
    assert run.receipts("explain", 12) == "runs/c3d-0123abcd/receipts/explain/000012.json"
    assert run.score(12) == "runs/c3d-0123abcd/scores/000012.parquet"
    assert run.table("table1") == "runs/c3d-0123abcd/tables/table1.parquet"
    assert run.report.page == "runs/c3d-0123abcd/report/index.html"
    assert run.success == "runs/c3d-0123abcd/_SUCCESS.json"


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "a b", "x\n"])
def test_a_name_that_is_no_plain_name_is_refused(name):
    for named in (RunPaths.of, DatasetPaths.of):
        with pytest.raises(ValueError, match="not allowed"):
            named(name)


def test_a_run_is_named_after_its_checkpoint_in_plain_characters():
    assert run_name("c3d_ucf101.v2", "0123") == "c3d_ucf101.v2-0123"
    assert run_name("../my model <b>", "0123") == "my-model-b-0123"
    assert run_name("..", "0123") == "checkpoint-0123"
    for name in ("a" * 300, "é", "-x"):
        RunPaths.of(run_name(name, "0123"))


def test_a_content_hash_depends_on_content_alone():
    assert content_hash({"a": 1, "b": [1, 2]}) == content_hash({"b": (1, 2), "a": 1})
    assert len(content_hash({})) == 16
    different = [{}, [], None, 1, 1.0, "1", {"a": 1}, {"a": 2}, [1, 2], [2, 1]]
    assert len({content_hash(value) for value in different}) == len(different)
    for bad in (float("nan"), float("inf"), Path("x"), {1, 2}):
        with pytest.raises((TypeError, ValueError)):
            content_hash(bad)
