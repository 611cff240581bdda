"""The results hash: the same for the same results, however they were computed, and another for others."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from storage.arrays.blocks import clip_hashes, read_block
from storage.layout import RunPaths, content_hash
from storage.runs import Run, read_summary
from storage.stores.receipts import Written, read_receipt, read_receipts, write_receipt
from storage.stores.root import Root
from storage.tables import read_table, write_table
from tasks.stages import report
from tasks.stages.report import results_hash
from tasks.stages.score import _clip_hashes
from tests.made_run import DATASET, RUN, make_run

N_CLIPS, BLOCK = 11, 4


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Root:
    """A finished run of three blocks; who changes it brings it back."""
    place = Root(str(tmp_path_factory.mktemp("made")))
    make_run(place.url, n_clips=N_CLIPS, block_clips=BLOCK)
    return place


@pytest.fixture
def paths(made: Root) -> RunPaths:
    return made.run(RUN)


@pytest.mark.parametrize("block_clips", [1, 3, 64])
def test_the_size_of_a_block_does_not_matter(
    made: Root, paths: RunPaths, tmp_path: Path, block_clips: int
) -> None:
    place = Root(str(tmp_path))
    make_run(place.url, n_clips=N_CLIPS, block_clips=block_clips)
    hashes = [read_summary(root, root.run(RUN))["results_sha256"] for root in (made, place)]
    assert hashes[0] == hashes[1] == results_hash(Run.of(made, RUN))
    assert len(read_receipts(place, place.run(RUN), "explain")) == -(-N_CLIPS // block_clips)


def test_sums_do_not_depend_on_the_size_of_a_block(
    made: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where there are more clips than are summed at a time."""
    monkeypatch.setattr(report, "_CLIPS", 5)
    place = Root(str(tmp_path))
    make_run(place.url, n_clips=N_CLIPS, block_clips=3)
    first, second = (report.reduced(Run.of(root, RUN))[0] for root in (made, place))
    for name in ("table1", "table2", "table3", "sweep", "object_motion"):
        assert json.dumps(first[name]) == json.dumps(second[name]), name


@pytest.mark.parametrize("stage", ["decode", "motion", "explain"])
def test_a_changed_value_of_an_array_gives_another(made: Root, paths: RunPaths, stage: str) -> None:
    before = results_hash(Run.of(made, RUN))
    group, name, owner = {
        "decode": (made.dataset(DATASET).frames, "frames", made.dataset(DATASET)),
        "motion": (made.dataset(DATASET).motion, "flow", made.dataset(DATASET)),
        "explain": (paths.relevance, "deep_taylor", paths),
    }[stage]
    sound = read_receipt(made, owner.receipts(stage, 1))
    assert sound is not None
    arrays = read_block(made, group, sound.start, sound.stop)
    assert clip_hashes(sound.start, arrays) == sound.sha256, "the receipt says what is stored"
    arrays[name] = arrays[name].copy()
    arrays[name][2].flat[7] += 1
    other = clip_hashes(sound.start, arrays)
    assert [clip for clip in other if other[clip] != sound.sha256[clip]] == ["6"], "of that clip alone"
    check_other(made, owner, stage, Written(other), before)


@pytest.mark.parametrize("name", ["score", "agreement"])
def test_a_changed_score_gives_another(made: Root, paths: RunPaths, name: str) -> None:
    before = results_hash(Run.of(made, RUN))
    tables = {
        kind: read_table(made, getattr(paths, kind)(1)).to_pandas().to_dict("records")
        for kind in ("score", "agreement")
    }
    sound = read_receipt(made, paths.receipts("score", 1))
    assert sound is not None
    assert _clip_hashes([*tables["score"], *tables["agreement"]]) == sound.sha256
    column = {"score": "kept_relevance", "agreement": "iou"}[name]
    row = next(row for row in tables[name] if row["clip"] == 5 and row[column] == row[column])
    row[column] = np.nextafter(row[column], 2)
    other = _clip_hashes([*tables["score"], *tables["agreement"]])
    assert [clip for clip in other if other[clip] != sound.sha256[clip]] == ["5"]
    check_other(made, paths, "score", Written(other), before)


def check_other(made: Root, owner: object, stage: str, written: Written, before: str) -> None:
    path = owner.receipts(stage, 1)  # type: ignore[attr-defined]
    sound = made.read_bytes(path)
    try:
        write_receipt(made, owner, stage, 1, written)  # type: ignore[arg-type]
        assert results_hash(Run.of(made, RUN)) != before
    finally:
        made.write_bytes(path, sound)
    assert results_hash(Run.of(made, RUN)) == before


@pytest.mark.parametrize("name", ["clips", "table1", "table2", "table3", "sweep", "object_motion"])
def test_a_changed_entry_of_a_table_gives_another(made: Root, paths: RunPaths, name: str) -> None:
    before, sound = results_hash(Run.of(made, RUN)), made.read_bytes(paths.table(name))
    table = read_table(made, paths.table(name)).to_pandas()
    column = next(
        c for c in table.columns if pd.api.types.is_float_dtype(table[c]) and table[c].notna().any()
    )
    row = table[column].notna().idxmax()
    table.loc[row, column] = np.nextafter(table.loc[row, column], np.inf)
    try:
        write_table(made, paths.table(name), table)
        assert results_hash(Run.of(made, RUN)) != before
    finally:
        made.write_bytes(paths.table(name), sound)
    assert results_hash(Run.of(made, RUN)) == before


@pytest.mark.parametrize("name", ["table4", "comparison"])
def test_what_depends_on_the_clock_or_on_other_runs_is_no_result(
    made: Root, paths: RunPaths, name: str
) -> None:
    before, path = results_hash(Run.of(made, RUN)), paths.table(name)
    sound = made.read_bytes(path) if made.exists(path) else None
    write_table(made, path, pd.DataFrame([{"seconds": 1.0}]))
    assert results_hash(Run.of(made, RUN)) == before
    made.delete(path) if sound is None else made.write_bytes(path, sound)


def test_the_hash_of_a_run_of_an_older_version_is_what_it_was(tmp_path: Path) -> None:
    """Its receipts hold a hash an array of a block."""
    place = Root(str(tmp_path))
    make_run(place.url, n_clips=2)
    paths, dataset = place.run(RUN), place.dataset(DATASET)
    old = {
        "decode": {"frames": "a" * 64},
        "motion": {"camera": "b" * 64, "flow": "c" * 64},
        "explain": {"grad_cam": "d" * 64, "logits": "e" * 64},
        "score": {"agreements": "f" * 64, "scores": "0" * 64},
    }
    for stage, sha256 in old.items():
        owner = dataset if stage in ("decode", "motion") else paths
        write_receipt(place, owner, stage, 0, Written(sha256))
    assert results_hash(Run.of(place, RUN)) == content_hash([[stage, 0, old[stage]] for stage in old])
