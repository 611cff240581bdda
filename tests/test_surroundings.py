"""Runs in surroundings made for other programs: the same results, or a line that says what to do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flows.cli import main
from flows.exits import BAD_INPUT
from flows.serving import scratch
from flows.serving.scratch import scratch_directory
from storage.runs import read_summary
from storage.stores.root import run_at
from tests.hostile import hostile_directory, hostile_variables
from tests.processes import family, wait_until_gone

REPOSITORY = Path(__file__).parent.parent
OPTIONS = ["--subset", "all", "--block-clips", "3", "--batch-clips", "2", "--workers", "2", "--sigmas", "2"]


def selrel(*words: str, timeout: float = 300, **how: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "selrel", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        **how,  # type: ignore[call-overload]
    )


@pytest.mark.slow
def test_a_run_in_hostile_surroundings_is_the_same_run(
    tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    home = hostile_directory(tmp_path / "theirs")
    where = ["--data", str(tiny_ucf101), "--checkpoint", str(tiny_checkpoint)]
    variables = hostile_variables(home) | {"PYTHONPATH": str(REPOSITORY)}
    hostile = {"env": variables, "cwd": tmp_path / "theirs"}
    plain = selrel("explain", *where, "--root", str(tmp_path / "plain"), *OPTIONS)
    assert plain.returncode == 0, plain.stderr
    found = selrel("explain", *where, "--root", str(tmp_path / "found"), *OPTIONS, **hostile)
    assert found.returncode == 0, found.stderr
    # Progress, and not one warning of a library.
    progress = re.compile(r"\w+: \d+ of \d+ (clips|videos) done")
    assert [line for line in found.stderr.splitlines() if not progress.fullmatch(line)] == []
    (one,), (other,) = ((tmp_path / root / "runs").iterdir() for root in ("plain", "found"))
    assert one.name == other.name
    sums = [read_summary(*run_at(str(run)))["results_sha256"] for run in (one, other)]
    assert sums[0] == sums[1]
    assert not (tmp_path / "theirs/theirs.db").exists()

    drawn = [tmp_path / "drawn-plain", tmp_path / "drawn-found"]
    figures = ["export", str(one), "--format", "svg", "--figures"]
    assert selrel(*figures, str(drawn[0])).returncode == 0
    done = selrel(*figures, str(drawn[1]), **hostile)
    assert done.returncode == 0, done.stderr
    for file in drawn[0].iterdir():
        assert file.read_bytes() == (drawn[1] / file.name).read_bytes()

    done = selrel("doctor", **hostile)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_training_in_hostile_surroundings_publishes_its_checkpoint_and_curve(
    tiny_ucf101: Path, tmp_path: Path
) -> None:
    home = hostile_directory(tmp_path / "theirs")
    model = ["--widths", *"44444444", "--hidden", "8", "8", "--epochs", "1"]
    done = selrel(
        *("train", "--data", str(tiny_ucf101), "--checkpoint", str(tmp_path / "c3d.pth.tar"), *model),
        env=hostile_variables(home) | {"PYTHONPATH": str(REPOSITORY)},
        cwd=tmp_path / "theirs",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c3d.pth.tar").is_file()
    assert (tmp_path / "c3d.pth.tar.training/curve.png").is_file()


@pytest.fixture
def nobody() -> list[str]:
    """Makes a command that of a user who is in no list, where the system lets one."""
    become = ["unshare", "--user", "--map-user=54321"]
    try:
        done = subprocess.run([*become, "id", "-u"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no unshare here")
    if done.stdout.strip() != "54321":
        pytest.skip(f"this user may not become another: {done.stderr.strip()}")
    return become


@pytest.mark.slow
def test_a_user_without_a_home_or_a_name(nobody: list[str], tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [*nobody, sys.executable, "-m", "selrel", "doctor"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "a private server starts" in " ".join(done.stdout.split())
    assert list(tmp_path.iterdir()) == []


def test_the_first_command_of_an_account_says_nothing_of_prefect(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY)}
    # As every command of a run does.
    code = """
        import flows.cli

        def application():
            import prefect.context
            return lambda *_, **__: 0

        flows.cli.application = application
        raise SystemExit(flows.cli.main([]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / ".cache/selrel/prefect").is_dir()


@pytest.mark.parametrize("made", [None, "file"])
def test_an_unusable_tmpdir_is_named(
    made: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if made:
        (tmp_path / "place").write_text("")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "place"))
    said = f"^TMPDIR is {tmp_path}/place, where .* can't write: set it"
    with pytest.raises(ValueError, match=said), scratch_directory("test"):
        pass


def test_an_empty_tmpdir_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "")
    with scratch_directory("test") as directory:
        assert directory.is_dir()


def test_a_full_tmpdir_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(scratch.tempfile, "tempdir", None)
    monkeypatch.setattr(scratch, "_LEAST_FREE_BYTES", 10**18)
    said = f"^{tmp_path}, for temporary files, has .* free.* set TMPDIR"
    with pytest.raises(ValueError, match=said), scratch_directory("test"):
        pass
    assert list(tmp_path.iterdir()) == []


UNGUARDED = """
    {first}
    from flows.explain_ucf101 import explain_ucf101

    explain_ucf101(data={data!r}, checkpoint={checkpoint!r}, root={root!r}, subset="all", workers=2)
"""


@pytest.mark.parametrize(
    "first",
    [
        "",
        # It names __name__, so that only its workers can tell.
        pytest.param("import logging; log = logging.getLogger(__name__)", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_a_script_without_the_guard_is_told_so(
    first: str, tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    names = {"data": str(tiny_ucf101), "checkpoint": str(tiny_checkpoint), "root": str(tmp_path / "root")}
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(UNGUARDED.format(first=first, **names)))
    done = subprocess.run(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert 'put the call below the line `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
    assert not (tmp_path / "root").exists() or first


LEFT = """
    import multiprocessing, os, sys, time
    from flows.serving.scratch import scratch_directory, semaphores_of

    if __name__ == "__main__":
        with scratch_directory("test") as directory, semaphores_of(directory):
            context = multiprocessing.get_context("spawn")
            queue = context.Queue()
            print(directory.name, flush=True)
            time.sleep(60)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="semaphores lie elsewhere")
def test_semaphores_of_a_killed_group_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(scratch.tempfile, "tempdir", None)
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(LEFT)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    name = process.stdout.readline().strip()
    started = family(process.pid)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert wait_until_gone(started, timeout=10) == []
    left = f"sem.{name}-*"
    assert list(Path("/dev/shm").glob(left)), "the process made none"
    with scratch_directory("test"):
        assert list(Path("/dev/shm").glob(left)) == []


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o701])
def test_an_open_state_directory_is_refused(
    mode: int, tmp_path: Path, tiny_ucf101: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(mode)
    where = [
        "--watch",
        str(tmp_path / "watched"),
        "--data",
        str(tiny_ucf101),
        "--root",
        str(tmp_path / "root"),
    ]
    assert main(["serve", *where, "--state", str(tmp_path / "state"), "--port", "0"]) == BAD_INPUT
    assert f"`chmod 700 {tmp_path}/state`, or give another --state" in capsys.readouterr().err
    assert list((tmp_path / "state").iterdir()) == []


@pytest.mark.slow
def test_a_job_in_the_background_of_a_script_says_what_stops_it(
    tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    where = ["--data", str(tiny_ucf101), "--checkpoint", str(tiny_checkpoint), "--root", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "selrel", "explain", *where, *OPTIONS],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        assert process.stderr is not None
        while not (said := process.stderr.readline()).startswith("Ctrl-C is ignored"):
            assert said, "it ended without a word"
        assert f"`kill {process.pid}` stops this" in said
        deadline = time.monotonic() + 200
        while not list(tmp_path.glob("datasets/*/receipts/decode/*.json")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        started = family(process.pid)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGTERM)
        _, left = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert left.splitlines()[-1] == "selrel: interrupted; the same command goes on where it stopped"
    assert process.returncode == 130
    assert wait_until_gone(started, timeout=30) == []
