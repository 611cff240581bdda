"""The validity benchmark from the command line: small, but every stage real."""

import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from flows.serving.cluster import cluster
from selrel.training import small_c3d
from storage.arrays.cubes import read_relevance
from storage.drawn.synthetic import make_dataset, read_truth
from storage.runs import mark_success, read_run, write_run
from storage.stores.receipts import Written, pending
from storage.stores.root import Root, run_at
from storage.tables import read_table
from tasks.plan import Plan
from tasks.running.blocks import StageFailed
from tasks.validity.benchmark import CLASSES, FRAMES, Bench, Benchmark, drawing
from tasks.validity.truth import truths_of
from tasks.validity.validate import (
    behaviour_rows,
    note_run,
    panned,
    run_cases,
    run_of,
    sanity_clips,
    scene_of,
)

SMALL = ("--correlations", "0", "1", "--seeds", "1", "--videos-per-class", "8", "--test-groups", "8")


def validate(root, *more):
    command = [
        sys.executable,
        "-m",
        "flows.cli",
        "validate",
        "--root",
        str(root),
        *SMALL,
        "--epochs",
        "2",
        *more,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)


def times(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    directory = tmp_path_factory.mktemp("drawn") / "set"
    make_dataset(
        directory,
        videos_per_class=8,
        groups=8,
        frames=(FRAMES, FRAMES),
        classes=CLASSES,
        setting=drawing(motion=1.0, context=0.0),
    )
    return directory


def test_behaviour_has_a_row_a_clip_with_what_motion_and_scene_say(drawn):
    model, profile = small_c3d.make()
    rows = pd.DataFrame(behaviour_rows(model.eval(), drawn, profile))
    assert len(rows) == 32
    # Every scene shows every class, so the scene tells nothing: a quarter of the clips agrees by chance.
    assert rows.groupby("group").label.nunique().tolist() == [4] * 8
    assert rows.groupby("group").kind.nunique().tolist() == [1] * 8
    assert (rows.kind == rows.label).mean() == 0.25
    assert (rows.lost_intact == 0).all()
    assert set(rows.group) == {f"g0{number}" for number in range(1, 9)}
    for name, group in zip(rows.video, rows.group, strict=True):
        camera = read_truth(drawn, name).camera
        assert (np.ptp(camera, axis=0).max() > 5) == panned(group)


def test_scene_is_the_groups_number():
    assert scene_of("Bobbing/g07") == "g07"


def test_truth_is_brought_to_the_models_view(drawn):
    _, profile = small_c3d.make()
    truths = truths_of(read_truth(drawn, "Rolling/v_Rolling_g01_c01.avi"), profile.view)
    assert {mask.shape for mask in truths.values()} == {(FRAMES, 64, 64)}
    assert (truths["swept"] | ~truths["object"]).all()
    # What is seen of the object, beyond the blur of its outline, moves.
    assert (truths["moving"] & truths["object"]).sum() > 0.9 * truths["object"].sum() > 0


@pytest.mark.parametrize("n_scenes", [8, 9, 16])
@pytest.mark.parametrize("n", [4, 8, 24])
def test_random_weights_are_checked_in_many_scenes(n, n_scenes):
    scenes = [f"g{number + 1:02d}" for number in range(n_scenes)]
    clips = [(label, scene) for label in range(4) for scene in scenes]
    chosen = [clips[number] for number in sanity_clips(clips, n)]
    assert len(set(chosen)) == n
    assert len({scene for _, scene in chosen}) == min(n, n_scenes)
    assert {panned(scene) for _, scene in chosen} == {False, True}
    for label in range(4):
        own = [panned(scene) for its, scene in chosen if its == label]
        assert len(own) == n // 4
        assert len(set(own)) == min(2, len(own))
    assert chosen == [clips[number] for number in sanity_clips(clips, n)]


def test_all_clips_are_drawn_where_there_are_no_more():
    clips = [(label, f"g{number:02d}") for label in range(4) for number in range(1, 9)]
    assert sorted(sanity_clips(clips, 100)) == list(range(32))


@pytest.fixture
def bench(tmp_path):
    bench = Bench(Root(str(tmp_path)).url, "planted", "")
    settings = Benchmark(correlations=(0.0, 1.0), seeds=1)
    bench.place.write_json(bench.paths.description, {"settings": settings.as_dict()})
    return bench


@pytest.mark.slow
def test_a_model_that_kills_its_workers_stops_the_benchmark(bench):
    # Nested, to travel by value.
    def work(bench, case):
        if case == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return Written()

    with (
        cluster(2, threads_per_worker=1),
        pytest.raises(StageFailed, match=r"died.*\(models left out: both-1.00-seed1\).*same command again"),
    ):
        run_cases("train", bench, work, range(3))
    assert pending(bench.place, bench.paths, "train", range(3)) == [1]


def test_a_run_that_left_clips_out_is_not_taken(bench):
    made = Plan(bench.root, "data", "both-0.00-seed1-12", {}, {})
    run = bench.place.run(made.run)
    write_run(bench.place, run, {})
    mark_success(bench.place, run, {"left_out_clips": 16})
    with pytest.raises(StageFailed, match=f"both-0.00-seed1 without 16 clips.*verify {made.url} --repair"):
        note_run(bench, 0, made)
    assert pending(bench.place, bench.paths, "explain", [0]) == [0]
    bench.place.delete(run.success)
    mark_success(bench.place, run, {"left_out_clips": 0})
    note_run(bench, 0, made)
    assert run_of(bench, 0) == made.run


def kept(cube, n_counted):
    """Share of the positive relevance of the first frames that the map of all of them keeps at 2 sigma."""
    padded = np.pad(cube.astype(np.float64), ((1, 1), (1, 1), (1, 1)), mode="edge")
    edges = (padded[2:] - padded[:-2]) / 2
    edges = (edges[:, 2:] + 2 * edges[:, 1:-1] + edges[:, :-2]) / 4
    edges = np.abs((edges[:, :, 2:] + 2 * edges[:, :, 1:-1] + edges[:, :, :-2]) / 4)
    chosen = (edges > 2 * edges.std()) & (edges > 1e-6 * np.abs(cube).max())
    positive = np.maximum(cube, 0)[:n_counted].astype(np.float64)
    return float(positive[chosen[:n_counted]].sum() / positive.sum())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_benchmark_runs_resumes_and_agrees_with_the_main_job(tmp_path):
    done = validate(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "What this says" in done.stdout
    (bench,) = (tmp_path / "validity").iterdir()
    models = pd.read_parquet(bench / "tables" / "models.parquet")
    assert models.case.tolist() == ["both-0.00-seed1", "both-1.00-seed1", "context-seed1", "untrained-seed1"]

    # Every run of the main job is finished, and its motion share is the one that the benchmark compares.
    runs = {path.name.rpartition("-")[0]: path for path in (tmp_path / "runs").iterdir()}
    assert set(runs) == set(models.case)
    shares = pd.read_parquet(bench / "tables" / "shares.parquet").query(
        "camera == 'all' and edge == 'magnitude' and sign == 'positive' and sigma > 0"
    )
    for case, run in runs.items():
        assert (run / "_SUCCESS.json").exists()
        scores = pd.read_parquet(run / "scores")
        root, paths = run_at(str(run))
        description = read_run(root, paths)
        clips = read_table(root, root.dataset(description["dataset_id"]).index).to_pandas()
        for method in ("deep_taylor", "gradient_x_input"):
            cubes = read_relevance(root, paths.relevance, method, 0, len(clips))
            theirs = scores[(scores.method == method) & (scores.sigma == 2)].set_index("clip").kept_relevance
            # The main job leaves out the frame whose flow is unknown, the last of each video.
            expected = [kept(cube, FRAMES - 1) for cube in cubes]
            assert theirs.loc[clips["clip"]].tolist() == pytest.approx(expected, rel=1e-6)
            (ours,) = shares[(shares.case == case) & (shares.method == method) & (shares.sigma == 2)].share
            assert ours == pytest.approx(np.mean([kept(cube, FRAMES) for cube in cubes]), rel=1e-6)
        assert len(shares[shares.case == case]) == 5 * 8

    # As after a kill: what has a receipt stays as it is.
    before = times(bench / "models") | times(bench / "cases") | times(tmp_path / "runs")
    (bench / "_SUCCESS.json").unlink()
    lost = bench / "receipts" / "truth" / "000001.json"
    lost.unlink()
    again = validate(tmp_path)
    assert again.returncode == 0, again.stderr
    after = times(bench / "models") | times(bench / "cases") | times(tmp_path / "runs")
    assert {path for path in before if before[path] != after[path]} == {
        bench / "cases" / "truth" / "both-1.00-seed1.parquet"
    }
    assert lost.exists()
    assert "finished already" in validate(tmp_path).stdout


def test_bad_input_is_one_line(tmp_path):
    command = [sys.executable, "-m", "flows.cli", "validate", "--root", str(tmp_path), "--seeds", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (done.returncode, done.stderr) == (2, "selrel: seeds is 0; give 1 or more\n")
    assert not list(tmp_path.iterdir())
