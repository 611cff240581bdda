"""The validity benchmark from the command line: small, but every stage real."""

import subprocess
import sys

import pandas as pd
import pytest

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
    return subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)


def times(directory):
    return {path: path.stat().st_mtime_ns for path in directory.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_benchmark_runs_resumes_and_agrees_with_the_main_job(tmp_path):
    done = validate(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Does the motion share rise with true motion use?" in done.stdout
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
        theirs = scores.groupby(["method", "sigma"]).kept_relevance.mean()
        ours = shares[shares.case == case].set_index(["method", "sigma"]).share
        assert len(ours) == 5 * 8
        # The main job leaves out the frame whose flow is unknown, the last of each video.
        assert (ours - theirs.reindex(ours.index)).abs().max() < 0.05

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
    done = validate(tmp_path, "--seeds", "0")
    assert done.returncode == 2
    assert done.stderr.strip().count("\n") == 0
