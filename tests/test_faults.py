"""What happens to a run when machines, disks, servers and people do their worst: nothing is lost.

Every run here is the real command, with real workers; its result must be that of a run without the fault.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from storage.checkpoints.files import read_checkpoint, write_checkpoint
from storage.runs import read_summary
from storage.stores.root import run_at
from tasks.verify import verify_run
from tests.faults import faulty
from tests.prefect_server import PrefectServer, prefect_server
from tests.processes import family, wait_until_gone
from tests.servers import BUCKET, free_port, s3_server

CHOICES = ("--subset all", "--block-clips 3", "--batch-clips 2", "--workers 2", "--sigmas 2")
OPTIONS = [word for choice in CHOICES for word in choice.split()]
OPTIONS += ["--methods", "deep_taylor", "grad_cam"]
# A file that shows that a stage has begun and, but for the first, has done a block.
SIGNS = {
    "index": "datasets/*/dataset.json",
    "decode": "datasets/*/receipts/decode/*.json",
    "motion": "datasets/*/receipts/motion/*.json",
    "explain": "runs/*/receipts/explain/*.json",
    "score": "runs/*/receipts/score/*.json",
    "report": "runs/*/tables/*.parquet",
}


class Job:
    """The command on one root, again and again."""

    def __init__(self, data: Path, checkpoint: Path, root: Path | str, place: Path) -> None:
        self.data, self.checkpoint, self.root = data, checkpoint, root
        # Where the root's files lie, also those of one on S3.
        self.place = place

    def start(self, **environment: str) -> subprocess.Popen[str]:
        where = ["--data", str(self.data), "--checkpoint", str(self.checkpoint), "--root", str(self.root)]
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "explain", *where, *OPTIONS],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment,
        )

    def run(self, **environment: str) -> tuple[int, str]:
        """Start it and wait: its exit code, and what it said."""
        with ended(self.start(**environment)) as process:
            said, _ = process.communicate(timeout=300)
        return process.returncode, said

    def wait_for(self, pattern: str, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 200
        while not list(self.place.glob(pattern)):
            assert process.poll() is None, f"it ended before there was {pattern}:\n{process.communicate()[0]}"
            assert time.monotonic() < deadline, pattern
            time.sleep(0.02)

    @property
    def result(self) -> Path:
        (run,) = (self.place / "runs").iterdir()
        return run


@contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def summary(run: Path) -> dict[str, Any]:
    return read_summary(*run_at(str(run)))


@pytest.fixture(scope="module")
def clean(tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without a fault; to be read only."""
    root = tmp_path_factory.mktemp("clean")
    job = Job(tiny_ucf101, tiny_checkpoint, root, root)
    code, said = job.run()
    assert code == 0, said
    return job.result


@pytest.fixture
def job(tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path) -> Job:
    return Job(tiny_ucf101, tiny_checkpoint, tmp_path / "root", tmp_path / "root")


def check_same(run: Path, clean: Path) -> None:
    """Nothing lost, nothing twice, nothing damaged, and the same to the bit."""
    found, expected = summary(run), summary(clean)
    assert found["results_sha256"] == expected["results_sha256"]
    # What depends on the clock.
    timing = {"finished_at": None, "overhead": None}
    assert found | timing == expected | timing
    scores = pd.read_parquet(run / "scores")
    assert not scores.duplicated(["clip", "method", "sigma"]).any()
    assert len(scores) == len(pd.read_parquet(clean / "scores"))
    assert verify_run(*run_at(str(run))).damaged == []


# --- verify, and repair -------------------------------------------------------------------------


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGES: list[tuple[str, Callable[[bytes], bytes | None]]] = [
    *(
        (path, damage)
        for path in (
            "runs/*/relevance.zarr/deep_taylor/c/1/*/*/*",
            "runs/*/scores/000002.parquet",
            "datasets/*/frames.zarr/frames/c/0/*/*/*/*",
        )
        for damage in (flip, cut, lambda data: None)
    ),
    ("runs/*/relevance.zarr/grad_cam_scale/c/0", flip),
    ("runs/*/relevance.zarr/zarr.json", flip),
    ("runs/*/relevance.zarr/logits/zarr.json", flip),
    ("runs/*/relevance.zarr/video/c/0", flip),
    ("runs/*/receipts/explain/000001.json", lambda data: None),
    ("runs/*/receipts/explain/000001.json", flip),
    ("runs/*/receipts/score/000001.json", lambda data: data.replace(b"scores", b"scored")),
    ("runs/*/receipts/report/000000.json", lambda data: None),
    ("runs/*/agreements/000000.parquet", flip),
    ("runs/*/tables/table1.parquet", flip),
    ("runs/*/report/index.html", flip),
    ("runs/*/exclusions.parquet", flip),
    ("runs/*/run.json", lambda data: data.replace(b'"tau": 0.5', b'"tau": 0.6')),
    ("runs/*/_SUCCESS.json", lambda data: data.replace(b'"clips": 1', b'"clips": 2')),
    ("datasets/*/motion.zarr/flow/c/1/*/*/*/*", flip),
    ("datasets/*/index.parquet", flip),
    ("datasets/*/counts/000000.parquet", lambda data: None),
    ("datasets/*/receipts/decode/000002.json", lambda data: None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("pattern", "damage"), DAMAGES)
def test_verify_finds_any_damage_and_names_it_in_a_line(
    clean: Path, pattern: str, damage: Callable[[bytes], bytes | None]
) -> None:
    (path,) = clean.parent.parent.glob(pattern)
    sound = path.read_bytes()
    changed = damage(sound)
    assert changed != sound
    try:
        path.unlink() if changed is None else path.write_bytes(changed)
        (line,) = verify_run(*run_at(str(clean))).damaged
    finally:
        path.write_bytes(sound)
    assert line.startswith(str(path)), line
    assert "\n" not in line
    assert verify_run(*run_at(str(clean))).damaged == []


def verify(run: Path, *options: str) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "flows.cli", "verify", str(run), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout.splitlines()


@pytest.mark.slow
def test_what_is_damaged_is_redone_and_nothing_else(clean: Path, job: Job) -> None:
    shutil.copytree(clean.parent.parent, job.place)
    code, lines = verify(job.result)
    assert (code, len(lines)) == (0, 1) and lines[0].startswith("Sound")
    damaged = [
        next(job.place.glob("datasets/*/frames.zarr/frames/c/0/*/*/*/*")),
        next(job.place.glob("runs/*/relevance.zarr/deep_taylor/c/1/*/*/*")),
        next(job.place.glob("runs/*/relevance.zarr/zarr.json")),
        next(job.place.glob("runs/*/scores/000002.parquet")),
        next(job.place.glob("datasets/*/counts/000000.parquet")),
    ]
    for path in damaged:
        path.write_bytes(flip(path.read_bytes()))
    assert verify(job.result)[0] == 1
    code, lines = verify(job.result, "--repair")
    assert code == 1
    assert sorted(line.split(" is ")[0] for line in lines[:-1]) == sorted(map(str, damaged))
    notes = job.place.parent / "notes"
    notes.mkdir()
    code, said = job.run(**faulty(note=str(notes)))
    assert code == 0, said
    assert begun(notes) == {"index-0": 1, "decode-0": 1, "explain-1": 1, "score-2": 1}
    check_same(job.result, clean)
    (job.result / "_SUCCESS.json").unlink()
    code, said = job.run()
    assert code == 0, said
    check_same(job.result, clean)


def begun(notes: Path) -> Counter[str]:
    return Counter(path.name.rpartition("-")[0] for path in notes.iterdir())


# --- processes that die -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_flow_killed_at_each_stage_goes_on_with_the_same_result(clean: Path, job: Job) -> None:
    """It is killed at every stage in turn, and a shard of the blocks that were done is lost meanwhile."""
    for stage, pattern in SIGNS.items():
        with ended(job.start(**faulty(slow=0.2))) as process:
            job.wait_for(pattern, process)
            started = family(process.pid)
            process.send_signal(signal.SIGKILL)
        assert wait_until_gone(started, timeout=30) == []
        assert not list(job.place.glob("runs/*/_SUCCESS.json")), stage
        if stage == "motion":
            next(job.place.glob("datasets/*/frames.zarr/frames/c/1/*/*/*/*")).unlink()
    code, said = job.run()
    assert code == 0, said
    total = summary(clean)["clips"]
    assert f"score: {total} of {total} clips done" in said
    check_same(job.result, clean)


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_block_costs_nothing(clean: Path, job: Job) -> None:
    with ended(job.start(**faulty(slow=0.7))) as process:
        job.wait_for(SIGNS["explain"], process)
        started = family(process.pid)
        workers = [child for child in started if "spawn_main" in " ".join(child.cmdline())]
        workers[0].kill()
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert wait_until_gone(started, timeout=30) == []
    check_same(job.result, clean)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "poison"), [("decode", 1), ("explain", 2)])
def test_a_block_that_kills_its_workers_is_left_out_with_its_reason(
    clean: Path, job: Job, stage: str, poison: int
) -> None:
    notes = job.place.parent / "notes"
    notes.mkdir()
    code, said = job.run(**faulty(poison=[stage, poison], note=str(notes)))
    assert code == 3, said
    assert "Completed with exclusions" in said
    assert begun(notes)[f"{stage}-{poison}"] == 3
    found, whole = summary(job.result), summary(clean)
    assert found["state"] == "completed with exclusions"
    assert [row["block"] for row in found["quarantined"]] == [poison] == found["left_out_blocks"]
    assert found["clips"] + found["left_out_clips"] == whole["clips"]
    exclusions = pd.read_parquet(job.result / "exclusions.parquet").query("kind == 'quarantined'")
    assert exclusions.reason.str.contains(f"{stage}: its worker process died").all() and len(exclusions)
    scores, expected = (pd.read_parquet(run / "scores") for run in (job.result, clean))
    kept = expected[expected["clip"] // 3 != poison].reset_index(drop=True)
    pd.testing.assert_frame_equal(scores.reset_index(drop=True), kept)
    assert verify_run(*run_at(str(job.result))).damaged == []
    code, said = job.run()
    assert code == 3 and "finished already" in said, said


@pytest.mark.slow
def test_a_block_that_is_lost_later_takes_what_was_made_of_it_along_until_it_is_repaired(
    clean: Path, job: Job
) -> None:
    """An earlier start has scored it; now its frames are damaged, and it kills whoever decodes it again."""
    shutil.copytree(clean.parent.parent, job.place)
    (job.result / "_SUCCESS.json").unlink()
    shard = next(job.place.glob("datasets/*/frames.zarr/frames/c/1/*/*/*/*"))
    shard.write_bytes(flip(shard.read_bytes()))
    code, said = job.run(**faulty(poison=["decode", 1]))
    assert code == 3, said
    for stage in ("explain", "score"):
        assert f"{stage}: dropped, since what they were made from is gone: block 1" in said
    assert summary(job.result)["left_out_blocks"] == [1]
    assert not (pd.read_parquet(job.result / "scores")["clip"] // 3 == 1).any()
    assert not (pd.read_parquet(job.result / "tables" / "clips.parquet")["clip"] // 3 == 1).any()
    assert verify(job.result)[0] == 0
    assert verify(job.result, "--repair")[0] == 0
    code, said = job.run()
    assert code == 0, said
    check_same(job.result, clean)


# --- disks and servers that fail ----------------------------------------------------------------


@pytest.mark.slow
def test_a_full_disk_stops_the_run_which_then_goes_on(clean: Path, job: Job) -> None:
    code, said = job.run(**faulty(file_size=20_000))
    assert code == 1
    assert "File too large" in said.splitlines()[-1]
    assert not list(job.place.rglob("*.unfinished"))
    code, said = job.run()
    assert code == 0, said
    check_same(job.result, clean)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [5, 20])
def test_an_s3_server_that_is_away_for_a_while_costs_only_time(
    clean: Path, tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path, seconds: int
) -> None:
    port, served = free_port(), tmp_path / "served"
    job = Job(tiny_ucf101, tiny_checkpoint, f"s3://{BUCKET}/root", served / BUCKET / "root")
    with s3_server(served, port=port) as server:
        process = job.start(**server.environment, **faulty(slow=0.3))
        try:
            job.wait_for(SIGNS["decode"], process)
            started = family(process.pid)
        except BaseException:
            process.kill()
            raise
    with ended(process):
        time.sleep(seconds)
        # The shorter one may pass within the client's own tries, without a word from us.
        assert process.poll() is None, "it waits while nothing answers"
        assert not list(job.place.glob(SIGNS["explain"])), "the server went in the middle of the run"
        with s3_server(served, port=port):
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said
            assert server.secret not in said
    assert wait_until_gone(started, timeout=30) == []
    assert not [path for path in served.rglob("*.json") if server.secret in path.read_text()]
    check_same(job.result, clean)


@pytest.mark.slow
def test_a_prefect_server_that_is_killed_and_comes_back_costs_nothing(
    clean: Path, job: Job, tmp_path: Path
) -> None:
    with (
        prefect_server(tmp_path / "prefect", deploy=False) as server,
        ended(started_on(server, job, slow=0.5)) as process,
    ):
        job.wait_for(SIGNS["decode"], process)
        lose(server)
        time.sleep(3)
        server.start(
            "server", "server", "start", "--host", "127.0.0.1", "--port", server.url.split(":")[2][:-4]
        )
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    check_same(job.result, clean)


@pytest.mark.slow
def test_a_prefect_server_that_goes_away_for_good_costs_only_seconds(
    clean: Path, job: Job, tmp_path: Path
) -> None:
    with (
        prefect_server(tmp_path / "prefect", deploy=False) as server,
        ended(started_on(server, job, slow=1)) as process,
    ):
        job.wait_for(SIGNS["explain"], process)
        lose(server)
        said, _ = process.communicate(timeout=300)
        ended_at = time.time()
    assert process.returncode == 0, said
    assert "the work is done all the same" in said
    check_same(job.result, clean)
    done = sorted(path.stat().st_mtime for path in job.place.glob("runs/*/receipts/*/*.json"))
    apart = max(later - sooner for sooner, later in itertools.pairwise(done))
    print(f"receipts at most {apart:.1f} s apart, the end {ended_at - done[-1]:.1f} s after the last")
    assert apart < 40
    assert ended_at - done[-1] < 40


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_obeyed_also_without_the_prefect_server(
    job: Job, tmp_path: Path, sent: signal.Signals
) -> None:
    with (
        prefect_server(tmp_path / "prefect", deploy=False) as server,
        ended(started_on(server, job, slow=2)) as process,
    ):
        job.wait_for(SIGNS["decode"], process)
        lose(server)
        job.wait_for(SIGNS["motion"], process)
        began = family(process.pid)
        sent_at = time.monotonic()
        process.send_signal(sent)
        said, _ = process.communicate(timeout=300)
        took = time.monotonic() - sent_at
    print(f"obeyed after {took:.1f} s")
    assert process.returncode not in (0, None), said
    assert took < 20
    assert wait_until_gone(began, timeout=30) == []


def started_on(server: PrefectServer, job: Job, **faults: object) -> subprocess.Popen[str]:
    """The flow, called from Python with the server's address in the environment."""
    code = (
        "from flows.explain_ucf101 import explain_ucf101\n"
        f"explain_ucf101(data={str(job.data)!r}, checkpoint={str(job.checkpoint)!r}, root={str(job.root)!r},"
        " subset='all', block_clips=3, batch_clips=2, workers=2, sigmas=(2,),"
        " methods=('deep_taylor', 'grad_cam'))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=server.environment | faulty(**faults),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lose(server: PrefectServer) -> None:
    """Kill the server and all that it started."""
    for part in family(server.processes["server"].pid):
        part.kill()
    server.processes.pop("server").wait()


@pytest.mark.slow
def test_a_private_prefect_server_that_is_killed_costs_nothing(clean: Path, job: Job) -> None:
    with ended(job.start(**faulty(slow=1))) as process:
        job.wait_for(SIGNS["explain"], process)
        kill_private_server(process)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "the work is done all the same" in said
    check_same(job.result, clean)
    done = sorted(path.stat().st_mtime for path in job.place.glob("runs/*/receipts/*/*.json"))
    # Each call of a lost server took more than a minute.
    assert max(later - sooner for sooner, later in itertools.pairwise(done)) < 40


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_obeyed_also_without_the_private_server(job: Job, sent: signal.Signals) -> None:
    with ended(job.start(**faulty(slow=2))) as process:
        job.wait_for(SIGNS["decode"], process)
        kill_private_server(process)
        job.wait_for(SIGNS["motion"], process)
        started = family(process.pid)
        began = time.monotonic()
        process.send_signal(sent)
        said, _ = process.communicate(timeout=300)
        took = time.monotonic() - began
    print(f"obeyed after {took:.1f} s")
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "selrel: interrupted; the same command goes on where it stopped"
    # A few seconds; on a busy machine, a few more.
    assert took < 20
    assert wait_until_gone(started, timeout=30) == []


def kill_private_server(process: subprocess.Popen[str]) -> None:
    (server,) = (child for child in family(process.pid) if "local_server.py" in " ".join(child.cmdline()))
    server.kill()


# --- people -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_of_two_runs_of_the_same_checkpoint_one_works_and_the_other_waits(clean: Path, job: Job) -> None:
    notes = job.place.parent / "notes"
    notes.mkdir()
    with (
        ended(job.start(**faulty(note=str(notes)))) as one,
        ended(job.start(**faulty(note=str(notes)))) as two,
    ):
        said = [process.communicate(timeout=300)[0] for process in (one, two)]
    assert (one.returncode, two.returncode) == (0, 0), said
    assert sum("waiting for process" in text for text in said) == 1
    assert set(begun(notes).values()) == {1}
    check_same(job.result, clean)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["runs", "datasets"])
def test_a_run_that_another_process_has_taken_over_stops_and_says_so(job: Job, what: str) -> None:
    with ended(job.start(**faulty(slow=0.3))) as process:
        job.wait_for(SIGNS["decode"], process)
        (lease,) = job.place.glob(f"{what}/*/lease.json")
        other = {"token": "x", "host": "elsewhere", "machine": "another", "pid": 1, "beat": time.time()}
        lease.write_text(json.dumps(other))
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert f"{lease} is held by process 1 on elsewhere" in said.splitlines()[-1]
    assert json.loads(lease.read_text()) == other
    assert not list(job.place.glob("datasets/*/receipts/motion/*"))
    assert not list(job.place.glob("runs/*/_SUCCESS.json"))


@pytest.mark.slow
def test_a_checkpoint_that_is_replaced_meanwhile_is_noticed(clean: Path, job: Job, tmp_path: Path) -> None:
    original, job.checkpoint = job.checkpoint, tmp_path / "tiny.pth.tar"
    shutil.copy(original, job.checkpoint)
    with ended(job.start(**faulty(slow=0.3))) as process:
        job.wait_for(SIGNS["decode"], process)
        other = {name: 2 * values for name, values in read_checkpoint(original).state.items()}
        write_checkpoint(tmp_path / "other.pth", other)
        os.replace(tmp_path / "other.pth", job.checkpoint)
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "changed since the run was planned" in said.splitlines()[-1]
    assert not list(job.place.glob("runs/*/receipts/explain/*"))
    # The same bytes under another name are the same run.
    job.checkpoint = tmp_path / "renamed.pth"
    shutil.copy(original, job.checkpoint)
    code, said = job.run()
    assert code == 0, said
    assert job.result.name.startswith("tiny-")
    check_same(job.result, clean)


def test_a_checkpoint_replaced_while_it_is_read_never_lends_another_its_name(tmp_path: Path) -> None:
    path, known = tmp_path / "c.pth", {}
    for value in (1.0, 2.0):
        write_checkpoint(tmp_path / f"{value}.pth", {"weight": torch.full((100_000,), value)})
        known[read_checkpoint(tmp_path / f"{value}.pth").sha256] = value
    stopped = threading.Event()

    def replace() -> None:
        while not stopped.is_set():
            for value in known.values():
                shutil.copy(tmp_path / f"{value}.pth", tmp_path / "new")
                os.replace(tmp_path / "new", path)

    shutil.copy(tmp_path / "1.0.pth", path)
    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(100):
            checkpoint = read_checkpoint(path)
            assert (checkpoint.state["weight"] == known[checkpoint.sha256]).all()
    finally:
        stopped.set()
        thread.join()
