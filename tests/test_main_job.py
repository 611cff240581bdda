"""The main job end to end, on videos that the tests make: real Prefect server, real Dask workers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
import xarray as xr

from flows.cli import main
from selrel.clips.profiles import View, bounds, crop, normalise, resize_frame
from selrel.engine import Forward, trace
from selrel.explain import deep_taylor, grad_cam, guided_backprop
from selrel.models import recognise
from selrel.scores import score_clip
from selrel.selective import SelectiveParameters, selective_mask
from storage.arrays.cubes import open_run
from storage.checkpoints.files import read_checkpoint
from storage.datasets.ucf101 import label_index, read_dataset
from storage.runs import read_summary
from storage.stores.root import run_at
from storage.videos.reader import read_frames
from tasks.stages import STAGES
from tests.processes import family, wait_until_gone

METHODS = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")


def command(data: Path, checkpoint: Path, root: Path, *more: str) -> list[str]:
    where = ["--data", str(data), "--checkpoint", str(checkpoint), "--root", str(root)]
    return [sys.executable, "-m", "flows.cli", "explain", *where, *more]


def explain(data: Path, checkpoint: Path, root: Path, *more: str) -> subprocess.CompletedProcess[str]:
    options = ("--subset", "all", "--block-clips", "3", "--batch-clips", "2", "--workers", "2", *more)
    return subprocess.run(
        command(data, checkpoint, root, *options), capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("root")


@pytest.fixture(scope="module")
def run(tiny_ucf101: Path, tiny_checkpoint: Path, root: Path) -> Path:
    """A finished run of the tiny data set, made by the command line."""
    done = explain(tiny_ucf101, tiny_checkpoint, root)
    assert done.returncode == 0, done.stderr
    assert "Does this model use motion?" in done.stdout
    # The tables are for those who ask.
    assert "Table 1" not in done.stdout and "selrel report RUN" in done.stdout
    (found,) = (root / "runs").iterdir()
    return found


def files(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in directory.rglob("*")
        if path.is_file()
    }


def all_windows(data: Path, view: View) -> np.ndarray:
    """Every clip of a data set, cut and padded by hand, (clip, time, y, x, 3)."""
    windows = []
    for video in read_dataset(data).videos:
        frames = [crop(resize_frame(frame, view), view) for frame in read_frames(video.path)]
        for start in range(0, len(frames), 16):
            n = min(16, len(frames) - start)
            windows.append(np.stack([frames[start + t % n] for t in range(16)]))
    return np.stack(windows)


def test_cubes_are_those_of_a_direct_call(run: Path, tiny_ucf101: Path, tiny_checkpoint: Path) -> None:
    cubes = open_run(str(run))
    recognised = recognise(read_checkpoint(tiny_checkpoint).state)
    low, high = bounds(recognised.profile)
    graph = trace(recognised.model, recognised.profile.sample_shape, low=low, high=high)
    order = label_index(read_dataset(tiny_ucf101).classes, recognised.profile.label_order)
    windows = all_windows(tiny_ucf101, recognised.profile.view)
    assert len(windows) == cubes.sizes["clip"]
    torch.set_num_threads(1)
    for block in range(0, len(windows), 3):
        for batch in (slice(block, block + 2), slice(block + 2, block + 3)):
            # The same batches, since another batch size rounds otherwise and may move a pooling's winner.
            stored = cubes.isel(clip=slice(batch.start, min(batch.stop, len(windows)))).load()
            if not stored.sizes["clip"]:
                continue
            forward = Forward(graph, normalise(windows[batch], recognised.profile))
            target = forward.logits.argmax(dim=1)
            np.testing.assert_allclose(stored.logits, forward.logits[:, order], rtol=1e-5)
            assert [order[label] for label in stored.predicted.values] == target.tolist()
            expected = {
                "deep_taylor": deep_taylor.explain(forward, target),
                "grad_cam": grad_cam.explain(forward, target),
                "guided_backprop": guided_backprop.explain(forward, target),
            }
            expected["guided_grad_cam"] = expected["grad_cam"] * expected["guided_backprop"]
            for method, cube in expected.items():
                # float16 keeps 11 bits of a voxel, and 6e-8 of the largest.
                largest = float(cube.abs().max())
                np.testing.assert_allclose(stored[method], cube, rtol=1e-3, atol=1e-7 * largest)


def test_what_is_left_of_the_decision_is_that_of_a_direct_call(
    run: Path, tiny_ucf101: Path, tiny_checkpoint: Path
) -> None:
    cubes = open_run(str(run))
    recognised = recognise(read_checkpoint(tiny_checkpoint).state)
    order = label_index(read_dataset(tiny_ucf101).classes, recognised.profile.label_order)
    windows = all_windows(tiny_ucf101, recognised.profile.view)
    valid = cubes.n_valid_frames.values
    assert (valid < 16).any()
    changed = {
        "frozen": [clip[[n // 2] * 16] for clip, n in zip(windows, valid, strict=True)],
        "reversed": [
            clip[[(n - 1 - t % n) for t in range(16)]] for clip, n in zip(windows, valid, strict=True)
        ],
    }
    model = recognised.model.eval()
    said = {}
    for change, clips in changed.items():
        with torch.no_grad():
            said[change] = model(normalise(np.stack(clips), recognised.profile)).numpy()[:, order]
        scale = np.abs(said[change]).max()
        np.testing.assert_allclose(cubes[f"logits_{change}"], said[change], atol=1e-4 * scale)
    chosen = cubes.predicted.values

    def score(logits: np.ndarray) -> float:
        return sum(
            row[c] - np.delete(row, c).mean() for row, c in zip(logits.astype(float), chosen, strict=True)
        )

    rows = pd.read_parquet(run / "tables" / "reliance.parquet")
    rows = rows[rows["class"].isna() & (rows.target == "predicted")].set_index("change")
    assert rows.mean_score["frozen"] == pytest.approx(score(cubes.logits.values) / len(windows), rel=1e-4)
    clips = pd.read_parquet(run / "tables" / "clips.parquet")
    for change, logits in said.items():
        assert clips[f"decision_{change}"].sum() == pytest.approx(score(logits), rel=1e-3, abs=1e-4)
    # The share that is left where nothing moves, of clips one by one.
    low, high = bounds(recognised.profile)
    graph = trace(model, recognised.profile.sample_shape, low=low, high=high)
    (dataset,) = (run.parent.parent / "datasets").iterdir()
    flow = xr.open_zarr(dataset / "motion.zarr").flow.values
    parameters = SelectiveParameters(sigma=2.0)
    kept = []
    for clip, (frames, n) in enumerate(zip(changed["frozen"], valid, strict=True)):
        forward = Forward(graph, normalise(frames[None], recognised.profile))
        cube = deep_taylor.explain(forward, torch.tensor([order[chosen[clip]]]))[0]
        mask = selective_mask(cube, int(n), parameters).numpy()
        counted = np.isfinite(flow[clip]).all(axis=-1) & (np.arange(16) < n)[:, None, None]
        positive = np.where(counted & (cube.numpy() > 0), cube.numpy(), 0).astype(float)
        kept.append(positive[mask].sum() / positive.sum() if positive.any() else np.nan)
    assert clips.motion_share_frozen.tolist() == pytest.approx(kept, rel=1e-3, abs=1e-5, nan_ok=True)
    found = json.loads((run / "_SUCCESS.json").read_text())["frozen_share"]
    assert found["frozen"] == pytest.approx(np.nanmean(kept), rel=1e-3)
    assert found["difference"] == pytest.approx(found["as_it_is"] - found["frozen"])
    # Random weights decide nothing worth a number.
    assert rows.reliance.isna().all() and rows.no_decision.notna().all()


COMPARED = (
    "relevant_voxels", "relevant_moving_voxels", "precision", "kept_relevance",
    "recall", "object_moving_voxels", "object_precision", "object_recall",
)  # fmt: skip


def test_scores_are_those_of_a_direct_call(run: Path, root: Path) -> None:
    cubes = open_run(str(run))
    (dataset,) = (root / "datasets").iterdir()
    motion = xr.open_zarr(dataset / "motion.zarr")
    scores = pd.concat([pd.read_parquet(path) for path in sorted((run / "scores").glob("*.parquet"))])
    assert not scores.duplicated(["clip", "method", "sigma"]).any()
    assert len(scores) == cubes.sizes["clip"] * len(METHODS) * 9
    for clip in range(cubes.sizes["clip"]):
        row = cubes.isel(clip=clip)
        rows, _ = score_clip(
            {method: row[method].values for method in METHODS},
            motion.flow[clip].values,
            int(row.n_valid_frames),
            camera=motion.camera[clip].values,
            sigmas=(0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4),
            parameters=SelectiveParameters(),
        )
        stored = scores[scores["clip"] == clip].set_index(["method", "sigma"])
        for expected in rows:
            found = stored.loc[(expected["method"], expected["sigma"])]
            for name in COMPARED:
                value = np.nan if expected[name] is None else expected[name]
                assert found[name] == pytest.approx(value, nan_ok=True), name


def test_last_frame_of_a_video_has_no_flow(run: Path, root: Path) -> None:
    (dataset,) = (root / "datasets").iterdir()
    motion = xr.open_zarr(dataset / "motion.zarr").load()
    known = np.isfinite(motion.flow).all(("y", "x", "component"))
    unknown = np.isnan(motion.flow).all(("y", "x", "component"))
    assert (known | unknown).all()
    n_frames = pd.read_parquet(dataset / "index.parquet").n_frames.to_numpy()
    last = (motion.start_frame + motion.n_valid_frames).values == n_frames
    np.testing.assert_array_equal(known.sum("time"), motion.n_valid_frames - last)
    assert (np.isfinite(motion.camera).all(("component", "term")) == known).all()


def test_the_overhead_is_recorded(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    found = summary(run)["overhead"]
    assert isinstance(found, dict)
    stages = found["stages"]
    assert stages.keys() == {stage.name for stage in STAGES}
    assert all(0 <= row["share"] < 1 and row["worker_seconds"] > 0 for row in stages.values()), stages
    assert stages["explain"]["blocks"] == stages["decode"]["blocks"] > 2
    whole = sum(row["worker_seconds"] for row in stages.values())
    spent = sum(row["worker_seconds"] * (1 - row["share"]) for row in stages.values())
    assert found["share"] == pytest.approx(1 - spent / whole)
    main(["report", str(run)])
    assert "of the workers' time was not arithmetic" in " ".join(capfd.readouterr().out.split())


def test_every_block_times_each_method_and_the_selective_step_once(run: Path) -> None:
    blocks = sorted((run / "overhead").glob("explain-*.parquet"))
    assert len(blocks) == summary(run)["overhead"]["stages"]["explain"]["blocks"]
    for block in blocks:
        steps = pd.read_parquet(block).method.tolist()
        assert steps.count("selective step") == 1
        batches = steps.count("forward")
        assert {steps.count(method) for method in METHODS} == {batches} and batches >= 1


def test_deep_taylor_conserves(run: Path) -> None:
    cubes = open_run(str(run))
    error = np.abs(cubes.deep_taylor.sum(("time", "y", "x"), dtype="float64") - 1)
    # The stored error is that before rounding to float16.
    assert float(cubes.conservation_error.max()) < 1e-4
    assert float(error.max()) < 1e-3


def test_plain_xarray_opens_lazily_with_coordinates_and_attributes(run: Path) -> None:
    cubes = xr.open_zarr(run / "relevance.zarr")
    assert cubes.deep_taylor.dims == ("clip", "time", "y", "x")
    assert cubes.deep_taylor.chunks is not None
    assert {"video", "class", "group", "start_frame", "time", "y", "x"} <= set(cubes.coords)
    assert cubes.attrs["checkpoint_sha256"]
    assert cubes.deep_taylor.attrs["units"]
    assert cubes.time.attrs["units"] == "s"


def test_finished_run_is_found_and_not_repeated(
    run: Path, root: Path, tiny_ucf101: Path, tiny_checkpoint: Path
) -> None:
    before = files(root)
    again = explain(tiny_ucf101, tiny_checkpoint, root)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert files(root) == before


@pytest.mark.slow
def test_other_settings_make_another_run_on_the_same_data(
    run: Path, root: Path, tiny_ucf101: Path, tiny_checkpoint: Path
) -> None:
    before = files(root)
    other = explain(tiny_ucf101, tiny_checkpoint, root, "--methods", "grad_cam", "--target", "true")
    assert other.returncode == 0, other.stderr
    after = files(root)
    assert {path: after[path] for path in before} == before
    (new,) = {p for p in (root / "runs").iterdir() if p != run}
    cubes = open_run(str(new))
    assert (cubes.target.values == cubes.label.values).all()
    assert set(cubes.data_vars) & set(METHODS) == {"grad_cam"}


@pytest.mark.slow
def test_a_single_clip_is_enough(
    make_avi: Callable[..., Path],
    make_frames: Callable[..., np.ndarray],
    tiny_ucf101: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    """No deviation and no interval, but a report."""
    data = tmp_path / "data"
    shutil.copytree(tiny_ucf101 / "ucfTrainTestlist", data / "ucfTrainTestlist")
    make_avi(data / "UCF-101/Archery/v_Archery_g01_c01.avi", make_frames(12))
    done = explain(data, tiny_checkpoint, tmp_path / "root")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "root/runs").iterdir()
    assert summary(run)["clips"] == 1
    assert "Archery" in (run / "report/index.html").read_text()


@pytest.fixture
def killed(
    tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path
) -> Iterator[tuple[Path, list[psutil.Process]]]:
    """A root whose run was killed, with everything it had started, after its first explained block."""
    options = ("--subset", "all", "--block-clips", "3", "--batch-clips", "2", "--workers", "1")
    process = subprocess.Popen(
        command(tiny_ucf101, tiny_checkpoint, tmp_path, *options),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    try:
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob("runs/*/receipts/explain/*.json")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        started = family(process.pid)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    yield tmp_path, started


def has_worker(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("spawn_main" in " ".join(process.cmdline()) for process in family(pid))
    return False


# What can be seen of a run as it goes on. In the first two, Python imports: the commands, and torch.
MOMENTS: dict[str, Callable[[int, Path], object]] = {
    "commands": lambda pid, _: "/_ssl." in Path(f"/proc/{pid}/maps").read_text(),
    "torch": lambda pid, _: "/libtorch_python." in Path(f"/proc/{pid}/maps").read_text(),
    "server": lambda _, place: list(place.glob("tmp/selrel-prefect-*")),
    "cluster": lambda _, place: list(place.glob("tmp/selrel-dask-*")),
    "workers": lambda pid, _: has_worker(pid),
    "blocks": lambda _, place: list(place.glob("datasets/*/receipts/*/*.json")),
}


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "again"), [(moment, moment == "cluster") for moment in MOMENTS])
def test_interrupted_command_says_how_to_go_on(
    moment: str, again: bool, tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "tmp").mkdir()
    process = subprocess.Popen(
        command(tiny_ucf101, tiny_checkpoint, tmp_path, "--subset", "all", "--workers", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path / "tmp")},
        process_group=0,
    )
    try:
        deadline = time.monotonic() + 200
        while not MOMENTS[moment](process.pid, tmp_path):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        started = family(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        while again and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.1)
            os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    *progress, last = said.splitlines()
    assert last == "selrel: interrupted; the same command goes on where it stopped"
    assert all(re.match(r"\w+: \d+ of \d+ ", line) for line in progress), said
    assert process.returncode == 130
    assert wait_until_gone(started, timeout=30) == []
    assert list(tmp_path.glob("tmp/selrel-*")) == []


@pytest.mark.slow
def test_killed_run_leaves_no_process_and_goes_on_with_the_same_result(
    killed: tuple[Path, list[psutil.Process]], run: Path, tiny_ucf101: Path, tiny_checkpoint: Path
) -> None:
    root, started = killed
    assert len(started) > 2, "there should be a server and a worker"
    assert wait_until_gone(started, timeout=30) == []
    done = {path: stat for path, stat in files(root).items() if "/receipts/" in path}
    assert done
    assert not list(root.glob("runs/*/_SUCCESS.json"))
    again = explain(tiny_ucf101, tiny_checkpoint, root)
    assert again.returncode == 0, again.stderr
    after = files(root)
    assert {path: after[path] for path in done} == done, "finished blocks were done again"
    (resumed,) = (root / "runs").iterdir()
    assert summary(resumed)["results_sha256"] == summary(run)["results_sha256"]


def summary(run: Path) -> dict[str, object]:
    return read_summary(*run_at(str(run)))
