"""`selrel serve`: one command, loopback only, nothing left behind, and nobody needed while it runs."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest
import torch

from flows.cli import main
from flows.exits import BAD_INPUT
from storage.checkpoints.files import write_checkpoint
from storage.checkpoints.ledger import read_ledger
from storage.runs import list_runs
from storage.stores.root import Root
from tests.processes import family, is_loopback, listening_addresses, wait_until_gone

CANARIES = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws-5f0c1d",
    "PREFECT_API_KEY": "pnu_canary7a61e2",
    "SELREL_X": "canary-own-93b8f4",
}


@dataclass
class Serving:
    process: subprocess.Popen[str]
    url: str
    state: Path
    watch: Path
    root: Root

    def processes(self) -> list[psutil.Process]:
        """Everything that was started, also what has lost its parent."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("PREFECT_HOME") == str(self.state):
                    found.append(process)
        return [*family(self.process.pid), *found] if self.process.poll() is None else found

    def finished(self) -> list[str]:
        return [run.name for run in list_runs(self.root) if run.finished]

    def outcomes(self) -> list[str]:
        return [entry.outcome for entry in read_ledger(self.root, str(self.watch))]

    def named(self, *words: str) -> list[psutil.Process]:
        """The processes whose command line holds all of some words."""
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                if all(word in process.cmdline() for word in words):
                    found.append(process)
        return found

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-4000:] for path in self.state.glob("*.log"))


def wait_for(what: Callable[[], object], serving: Serving, *, timeout: float = 400) -> None:
    """Wait until something is so; fail with the logs if it never is."""
    deadline = time.monotonic() + timeout
    while not what():
        assert serving.process.poll() is None, serving.logs()
        assert time.monotonic() < deadline, f"{serving.outcomes()}\n{serving.logs()}"
        time.sleep(0.5)


@contextmanager
def serve(directory: Path, data: Path, *options: str) -> Iterator[Serving]:
    """Start the command as a user does, with canaries in its environment."""
    state, watch = directory / "state", directory / "watched"
    watch.mkdir(exist_ok=True)
    where = ("--watch", str(watch), "--data", str(data), "--root", str(directory / "root"))
    settings = ("--settings", "subset=all", "block_clips=5", "workers=1")
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "serve", *where, "--state", str(state), "--port", "0", *options]
        + list(settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **CANARIES},
        start_new_session=True,
    )
    serving = Serving(process, "", state, watch, Root(str(directory / "root")))
    try:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", said)):
            line = process.stdout.readline()
            assert line, f"{said}\n{serving.logs()}"
            said += line
        serving.url = found[0]
        yield serving
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def publish(source: Path, target: Path, factor: float = 1.0) -> None:
    """Write a checkpoint as a training does; another factor makes another one."""
    state = torch.load(source, weights_only=True)["state_dict"]
    write_checkpoint(target, {name: factor * weight for name, weight in state.items()})


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_machine_that_runs_by_itself(tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    sockets: list[str] = []
    with serve(tmp_path, tiny_ucf101, "--every", "15") as serving:
        assert httpx.post(f"{serving.url}/api/flow_runs/filter", json={}).status_code == 401
        publish(tiny_checkpoint, serving.watch / "first.pth.tar")
        while not serving.finished():
            wait_for(lambda: True, serving)
            sockets += listening_addresses(serving.processes())
            time.sleep(1)
        # The worker and all that it started are killed together. A run that had begun stays RUNNING until its
        # heartbeat is missed, and is then tried again; one that had not must not keep the only slot there is.
        publish(tiny_checkpoint, serving.watch / "second.pth.tar", 2.0)
        wait_for(lambda: len(list_runs(serving.root)) == 2, serving)
        for process in [*serving.named("worker", "start"), *serving.named("prefect.engine")]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        wait_for(lambda: len(serving.finished()) == 2, serving)
        wait_for(lambda: serving.outcomes()[-1] == "finished", serving)
        assert serving.outcomes().count("failed") == 1

        # Killed while it works, it leaves nothing.
        publish(tiny_checkpoint, serving.watch / "third.pth.tar", 3.0)
        wait_for(lambda: len(list_runs(serving.root)) == 3, serving)
        started = serving.processes()
        assert len(started) > 4
        serving.process.kill()
        assert wait_until_gone(started, timeout=20) == []
        assert serving.processes() == []

    # Started again on the same state, it goes on, and stops in order when it is asked to.
    with serve(tmp_path, tiny_ucf101, "--every", "15") as serving:
        wait_for(lambda: len(serving.finished()) == 3, serving)
        started = serving.processes()
        serving.process.send_signal(signal.SIGTERM)
        said = serving.process.communicate(timeout=60)[0]
        assert serving.process.returncode == 0, said
        assert wait_until_gone(started, timeout=5) == []
        assert serving.processes() == []
    assert sockets
    assert all(map(is_loopback, sockets))
    assert "decode: 14 of 14 clips done" in logged(serving.state / "prefect.db"), (
        "our lines are in the flow runs' logs"
    )
    assert_no_canary(tmp_path)


def logged(database: Path) -> str:
    with closing(sqlite3.connect(database)) as connection:
        return "\n".join(message for (message,) in connection.execute("SELECT message FROM log"))


def assert_no_canary(directory: Path) -> None:
    """No secret of the environment is in any file: database, logs, run.json, report, zarr."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert {"prefect.db", "worker.log", "run.json", "index.html", "zarr.json"} <= {f.name for f in files}
    secrets = [value.encode() for value in CANARIES.values()]
    found = [path for path in files for secret in secrets if secret in path.read_bytes()]
    assert found == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "nowhere"], "nowhere is not a directory"),
        (["--root", "watched/root"], "lies inside the watched place"),
        (["--root", "file/root"], "can't be written"),
        (["--watch", "nowhere"], "there is no directory"),
        (["--tries", "0"], "tries is 0; give 1 or more"),
        (["--every", "inf"], "every is inf; give 1 second or more"),
        (["--port", "70000"], "port is 70000; give 1 to 65535"),
        (["--port", "-1"], "port is -1; give 1 to 65535"),
        (["--settings", "max_drop=0.1", "against=root/runs/typo"], "root/runs/typo"),
        (["--settings", "model=no_such_package:make"], "no_such_package"),
        (["--settings", "scheduler=tcp://10.0.0.1:8786"], "neither encrypted nor on this machine"),
        (["--settings", "workers=0"], "workers is 0: give 1 or more"),
    ],
)
def test_what_no_look_could_use_is_refused_before_anything_starts(
    options: list[str],
    message: str,
    tiny_ucf101: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "watched").mkdir()
    (tmp_path / "file").touch()
    given = {"--watch": ["watched"], "--data": [str(tiny_ucf101)], "--root": ["root"], "--state": ["state"]}
    given[options[0]] = options[1:]
    assert main(["serve", *(word for name, words in given.items() for word in (name, *words))]) == BAD_INPUT
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
    assert not (tmp_path / "state" / "prefect.db").exists()
    assert not (tmp_path / "root").exists()
