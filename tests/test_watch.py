"""Watching a place: what is explained, what is not, and why, by content alone."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import httpx
import pytest
import torch
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Crashed

from flows.cli import main
from flows.commands.arguments import settings_elsewhere, settings_of
from flows.commands.watch import _here
from flows.exits import BAD_INPUT, FAILED, GATE, INTERRUPTED
from flows.serving.local_server import temporary_server
from flows.serving.outages import Failed
from flows.watch_checkpoints import DEPLOYMENT, go_through, on_server, request_for
from storage.checkpoints.files import write_checkpoint
from storage.checkpoints.ledger import Entry, append, read_ledger
from storage.checkpoints.sources import candidates
from storage.runs import list_runs, mark_success, write_run
from storage.stores.root import Root
from tasks.gate import MotionDropped
from tasks.plan import plan
from tasks.request import Cluster, Request
from tasks.watch import STOPPED, ended, look
from tests.servers import BUCKET, free_port, s3_client, s3_server

SETTINGS = {"subset": "all", "block_clips": 5}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "checkpoints"
    directory.mkdir()
    return directory


@pytest.fixture
def request_of(tiny_ucf101: Path, tmp_path: Path) -> Request:
    return request_for(data=str(tiny_ucf101), root=str(tmp_path / "root"), settings=SETTINGS)


def look_at(place: Path | str, request: Request, *, tries: int = 3, succeed: bool = True) -> list[str]:
    """One look, with runs that are finished (or fail) at once; the lines that are new in the ledger."""
    root = Root(request.root)
    before = len(read_ledger(root, str(place)))

    def explain(due: Entry) -> Iterator[Entry]:
        yield due
        if succeed:
            finish(root, due.run)
        yield ended(due, "finished" if succeed else "failed", "" if succeed else "the disk is full")

    go_through(str(place), request, explain=explain, tries=tries)
    entries = read_ledger(root, str(place))
    return [f"{entry.outcome} {entry.file.rpartition('/')[2]}" for entry in entries[before:]]


def finish(root: Root, run: str) -> None:
    """Leave what tells a finished run; the explanation itself is tested elsewhere."""
    write_run(root, root.run(run), {"dataset_id": "none"})
    mark_success(root, root.run(run), {"motion_share": None})


def other(checkpoint: Path, path: Path) -> Path:
    """Another checkpoint, published with its .sha256."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    write_checkpoint(path, {name: 2 * weight for name, weight in state.items()})
    return path


def published(checkpoint: Path, path: Path) -> None:
    """A copy of a checkpoint with its .sha256 file."""
    shutil.copy(checkpoint, path)
    shutil.copy(f"{checkpoint}.sha256", f"{path}.sha256")


def age(path: Path, seconds: int) -> None:
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - seconds))


def test_the_life_of_a_directory(place: Path, request_of: Request, tiny_checkpoint: Path) -> None:
    assert look_at(place, request_of) == []
    shutil.copy(tiny_checkpoint, place / "a.pth.tar")  # without a .sha256: it may still grow
    assert look_at(place, request_of) == ["waiting a.pth.tar"]
    assert look_at(place, request_of) == ["started a.pth.tar", "finished a.pth.tar"]
    assert look_at(place, request_of) == []

    (place / "a.pth.tar").rename(place / "renamed.pth.tar")
    (place / "deeper").mkdir()
    shutil.copy(place / "renamed.pth.tar", place / "deeper" / "copy.pth")
    os.utime(place / "renamed.pth.tar", (0, 0))  # a clock that was wrong
    assert sorted(look_at(place, request_of)) == ["waiting copy.pth", "waiting renamed.pth.tar"]
    assert sorted(look_at(place, request_of)) == ["finished copy.pth", "finished renamed.pth.tar"]
    assert look_at(place, request_of) == []

    # Overwritten, by a file of the same size and time: another content, another run.
    before = (place / "renamed.pth.tar").stat()
    other(tiny_checkpoint, place / "renamed.pth.tar")
    os.utime(place / "renamed.pth.tar", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (place / "renamed.pth.tar").stat().st_size == before.st_size
    assert look_at(place, request_of) == ["started renamed.pth.tar", "finished renamed.pth.tar"]
    assert len([run for run in list_runs(Root(request_of.root)) if run.finished]) == 2

    # Other settings are other runs of both contents.
    changed = request_for(data=request_of.data, root=request_of.root, settings={**SETTINGS, "tau": 1.0})
    assert [line.split()[0] for line in look_at(place, changed)] == ["started", "finished"] * 2


def test_oldest_first_and_one_of_each_content(
    place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    old, new, copy = (place / f"{name}.pth" for name in ("z-old", "new", "copy"))
    other(tiny_checkpoint, old)
    age(old, 1000)
    for path in (new, copy):
        published(tiny_checkpoint, path)
    age(new, 500)
    seen = look(str(place), request_of, patterns=("*.pth",), tries=3)
    assert [entry.file for entry in seen.due] == [str(old), str(new)]
    (waiting,) = seen.news
    assert (waiting.file, waiting.outcome) == (str(copy), "waiting")
    assert str(new) in waiting.reason


def test_a_file_that_is_still_written_is_left_alone(
    place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    data, path = tiny_checkpoint.read_bytes(), place / "slow.pth"
    for size in (1000, 2000, 3000):
        path.write_bytes(data[:size])
        look_at(place, request_of)
        (entry,) = read_ledger(Root(request_of.root), str(place))
        assert (entry.outcome, entry.size_bytes) == ("waiting", size), "one row, however long it grows"
    # A sidecar that promises more than is there yet.
    digest = hashlib.sha256(data).hexdigest()
    Path(f"{path}.sha256").touch()
    os.truncate(f"{path}.sha256", 10**12)
    assert [one.promised for one in candidates(str(path.parent))] == [""], "and is not read"
    Path(f"{path}.sha256").write_text("")
    assert look_at(place, request_of) == []
    assert (
        read_ledger(Root(request_of.root), str(place))[-1].reason
        == "its .sha256 file holds no sha256, or can't be read"
    )
    Path(f"{path}.sha256").write_text(f"{digest}  slow.pth\n")
    for _ in range(3):
        look_at(place, request_of)
        entry = read_ledger(Root(request_of.root), str(place))[-1]
        assert entry.outcome == "waiting"
        assert digest in entry.reason
    path.write_bytes(data)
    assert look_at(place, request_of) == ["started slow.pth", "finished slow.pth"]


def test_a_bad_file_is_refused_once_with_the_reason(place: Path, request_of: Request) -> None:
    (place / "page.pth").write_text("<!doctype html><title>404</title>")
    (place / "notes.txt").write_text("no checkpoint by its name")
    (place / ".partial.pth").write_text("hidden")
    assert look_at(place, request_of) == ["waiting page.pth"]
    assert look_at(place, request_of) == ["refused page.pth"]
    assert look_at(place, request_of) == []
    (place / "page.pth").rename(place / "again.pth")
    assert look_at(place, request_of) == ["waiting again.pth"]
    assert look_at(place, request_of) == ["refused again.pth"]
    assert "is a web page" in read_ledger(Root(request_of.root), str(place))[-1].reason


def test_a_failing_run_is_tried_again_within_a_bound(
    place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    published(tiny_checkpoint, place / "a.pth")
    failing = ["started a.pth", "failed a.pth"]
    assert look_at(place, request_of, tries=2, succeed=False) == failing
    assert look_at(place, request_of, tries=2, succeed=False) == failing
    assert look_at(place, request_of, tries=2, succeed=False) == ["given up a.pth"]
    assert look_at(place, request_of, tries=2, succeed=False) == []
    last = read_ledger(Root(request_of.root), str(place))[-1]
    assert last.reason == "2 attempts added nothing; the last one: the disk is full"
    # Finished by hand, it counts as finished.
    finish(Root(request_of.root), last.run)
    assert look_at(place, request_of, tries=2) == ["finished a.pth"]


@pytest.mark.parametrize("stage", ["index", "explain"])
def test_attempts_that_get_further_are_not_counted(
    stage: str, place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    published(tiny_checkpoint, place / "a.pth")
    root = Root(request_of.root)
    for block in range(3):
        assert look_at(place, request_of, tries=1, succeed=False) == ["started a.pth", "failed a.pth"]
        run = root.run(read_ledger(root, str(place))[-1].run)
        write_run(root, run, {"dataset_id": "none"})
        paths = root.dataset("none") if stage == "index" else run
        root.write_json(paths.receipts(stage, block), {})
    look_at(place, request_of, tries=1, succeed=False)
    assert look_at(place, request_of, tries=1, succeed=False) == ["given up a.pth"]


@pytest.mark.parametrize(("finished", "then"), [(True, "waiting"), (False, "started")])
def test_a_damaged_run_stops_no_other_checkpoint(
    finished: bool, then: str, place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    published(tiny_checkpoint, place / "a.pth")
    look_at(place, request_of, succeed=finished)
    root = Root(request_of.root)
    run = root.run(read_ledger(root, str(place))[-1].run)
    if finished:
        root.write_bytes(run.success, root.read_bytes(run.success).replace(b"null", b"0.99"))
    else:
        root.write_bytes(run.run_json, b"")
    other(tiny_checkpoint, place / "b.pth")
    lines = look_at(place, request_of)
    assert f"{then} a.pth" in lines and "finished b.pth" in lines
    if finished:
        (entry,) = [one for one in read_ledger(root, str(place)) if one.outcome == "waiting"]
        assert "_SUCCESS.json was changed" in entry.reason
        assert look_at(place, request_of) == []
        Path(root.join(run.success)).unlink()
        assert look_at(place, request_of)[-2:] == ["started a.pth", "finished a.pth"]


@pytest.mark.parametrize("suffix", ["", ".sha256"])
def test_a_file_that_can_not_be_read_stops_no_other(
    suffix: str, place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    published(tiny_checkpoint, place / "a.pth")
    unreadable = Path(f"{place}/a.pth{suffix}")
    unreadable.unlink()
    # The kernel answers reads with EIO: nothing lies at the first addresses of a process.
    unreadable.symlink_to("/proc/self/mem")
    other(tiny_checkpoint, place / "b.pth")
    assert sorted(look_at(place, request_of)) == ["finished b.pth", "started b.pth", "waiting a.pth"]
    (entry,) = [one for one in read_ledger(Root(request_of.root), str(place)) if one.outcome == "waiting"]
    assert "can't be read" in entry.reason


@pytest.mark.slow
def test_a_checkpoint_touched_while_it_is_explained_keeps_its_tries(
    place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    shutil.copy(tiny_checkpoint, place / "a.pth")
    root = Root(request_of.root)
    with temporary_server(), get_client(sync_client=True) as client:
        client.create_deployment(client.create_flow_from_name(DEPLOYMENT.split("/")[0]), "explain-ucf101")

        def outcomes() -> list[str]:
            go_through(str(place), request_of, explain=on_server({"root": request_of.root}), tries=2)
            return [entry.outcome for entry in read_ledger(root, str(place))]

        outcomes()
        assert outcomes() == ["waiting", "started"]
        for _ in range(3):
            os.utime(place / "a.pth")
            outcomes()
            assert outcomes() == ["waiting", "started", "waiting"]
        first = read_ledger(root, str(place))[1]
        # As ledgers of before told it, once a touch.
        append(root, str(place), [first, first])
        client.set_flow_run_state(UUID(first.flow_run), Crashed(message="out of memory"), force=True)
        assert outcomes()[-2:] == ["failed", "started"]
        assert read_ledger(root, str(place))[-1].reason == "attempt 2"


def test_a_start_that_was_interrupted_is_made_again(
    place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    published(tiny_checkpoint, place / "a.pth")
    (due,) = look(str(place), request_of, patterns=("*.pth",), tries=3).due
    append(Root(request_of.root), str(place), [due])
    assert look_at(place, request_of) == ["failed a.pth", "started a.pth", "finished a.pth"]
    assert read_ledger(Root(request_of.root), str(place))[1].reason == "it was interrupted"


def test_what_no_checkpoint_can_mend_refuses_none(
    place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    published(tiny_checkpoint, place / "a.pth")
    root = Root(request_of.root)
    with pytest.raises(ValueError, match="there is no run .*runs/typo"):
        look_at(place, replace(request_of, max_drop=0.05, against=root.join("runs/typo")))
    with pytest.raises(ValueError, match="'no_such_package:make' can't be imported"):
        look_at(place, replace(request_of, model="no_such_package:make"))
    made = plan(replace(request_of, checkpoint=str(place / "a.pth")))
    for name, change in (("settings", {"settings": {}}), ("data", {"dataset_id": "another"}), ("good", {})):
        write_run(root, root.run(name), {**made.description, **change})
        mark_success(root, root.run(name), {"motion_share": None})
    with pytest.raises(ValueError, match="runs/settings can't be the measure"):
        look_at(place, replace(request_of, max_drop=0.05, against=root.join("runs/settings")))
    assert read_ledger(root, str(place)) == []
    # A measure for checkpoints with another profile, perhaps: this one waits for a better.
    assert look_at(place, replace(request_of, max_drop=0.05, against=root.join("runs/data"))) == [
        "waiting a.pth"
    ]
    assert "differ in data set" in read_ledger(root, str(place))[-1].reason
    good = replace(request_of, max_drop=0.05, against=root.join("runs/good"))
    assert look_at(place, good) == ["started a.pth", "finished a.pth"]


@pytest.mark.slow
def test_who_ended_a_start_decides_what_follows(
    place: Path, request_of: Request, tiny_checkpoint: Path
) -> None:
    published(tiny_checkpoint, place / "a.pth")
    root = Root(request_of.root)
    with temporary_server(), get_client(sync_client=True) as client:
        client.create_deployment(client.create_flow_from_name(DEPLOYMENT.split("/")[0]), "explain-ucf101")

        def after(state: State | None) -> list[str]:
            entries = read_ledger(root, str(place))
            if state is not None:
                started = [entry.flow_run for entry in entries if entry.outcome == "started"]
                client.set_flow_run_state(UUID(started[-1]), state, force=True)
            go_through(str(place), request_of, explain=on_server({"root": request_of.root}), tries=1)
            return [entry.outcome for entry in read_ledger(root, str(place))[len(entries) :]]

        assert after(None) == ["started"]
        assert after(None) == []
        for _ in range(2):
            assert after(Crashed(message=STOPPED)) == ["failed", "started"]
        assert after(Cancelled(message="Deployment concurrency limit reached.")) == ["failed", "started"]
        assert after(Cancelled(message="Flow run was cancelled successfully.")) == ["given up"]
        last = read_ledger(root, str(place))[-1]
        assert last.reason.startswith("Cancelled: Flow run was cancelled successfully. (somebody")
        assert after(None) == []
        assert after(Crashed(message="out of memory")) == ["failed", "given up"]


def test_a_place_has_one_ledger_however_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Root("root")
    names = {root.ledger(name) for name in ("checkpoints", "checkpoints/", f"{tmp_path}/checkpoints")}
    assert len(names) == 1
    assert root.ledger("s3://b/checkpoints/") == root.ledger("s3://b/checkpoints") not in names


def test_a_single_look_ends_with_what_became_of_its_runs(
    place: Path, request_of: Request, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    published(tiny_checkpoint, place / "a.pth")
    words = ["watch", str(place), "--data", request_of.data, "--root", request_of.root, "--settings"]
    words += [f"{name}={value}" for name, value in SETTINGS.items()]
    # No try of any checkpoint's is spent on it.
    assert main([*words, "scheduler=tcp://192.0.2.1:8786"]) == BAD_INPUT
    assert read_ledger(Root(request_of.root), str(place)) == []

    def ends(error: Exception) -> None:
        def carry_out(*_: object) -> None:
            raise error

        monkeypatch.setattr("flows.commands.explain.carry_out_here", carry_out)

    ends(Failed("no disk"))
    assert main(words) == FAILED
    assert read_ledger(Root(request_of.root), str(place))[-1].reason == "no disk"
    ends(MotionDropped("it fell"))
    assert main(words) == GATE
    finish(Root(request_of.root), read_ledger(Root(request_of.root), str(place))[-1].run)
    assert main(words) == 0


def test_a_look_that_fails_is_not_the_last(
    request_of: Request, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([0, httpx.ConnectError("no server"), OSError("no disk"), KeyboardInterrupt()])

    def look_once(*_: object, **__: object) -> int:
        answer = next(answers)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr("flows.commands.watch.look_once", look_once)
    words = ["watch", "checkpoints", "--data", request_of.data, "--root", request_of.root, "--every", "0.01"]
    assert main(words) == INTERRUPTED
    said = capsys.readouterr().err
    assert "this look failed, the next is in 0.01 s: Prefect: no server; check" in said and "no disk" in said
    answers = iter([OSError("no such place")])
    assert main(words) == BAD_INPUT


def then_stop(monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Between two looks of `selrel watch`, make a change; after the second, press Ctrl-C."""
    steps = iter([change])

    def sleep(_: float) -> None:
        step = next(steps, None)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr("flows.commands.watch.time", SimpleNamespace(sleep=sleep))


def test_a_store_that_goes_away_ends_no_watch(
    tiny_ucf101: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setattr("storage.stores.patience.PAUSES", ())
    words = ["watch", f"s3://{BUCKET}/c", "--data", str(tiny_ucf101), "--root", str(tmp_path / "root")]
    with s3_server(tmp_path / "s3") as server, s3_client(server, AWS_MAX_ATTEMPTS="1"):
        then_stop(monkeypatch, server.process.kill)
        assert main([*words, "--every", "1"]) == INTERRUPTED
        assert "this look failed, the next is in 1 s" in capsys.readouterr().err
        assert main([*words, "--every", "1"]) == BAD_INPUT
        # The start of a run that ends so is not left open.
        request = request_for(data=str(tiny_ucf101), root=str(tmp_path / "root"), settings=SETTINGS)
        due = Entry("", f"s3://{BUCKET}/c/a.pth", "", 1, "started", sha256="0" * 64, run="a")
        codes = [0]
        entries = list(_here(request, {}, codes, due))
    assert [entry.outcome for entry in entries] == ["started", "failed"] and codes == [0, FAILED]


@pytest.mark.slow
def test_a_run_whose_store_goes_away_has_failed(
    tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.stores.patience.PAUSES", ())
    request = request_for(data=str(tiny_ucf101), root=f"s3://{BUCKET}/r", settings=SETTINGS)
    with s3_server(tmp_path / "s3") as server, s3_client(server, AWS_MAX_ATTEMPTS="1"):
        # The first moment of the run itself.
        monkeypatch.setattr("flows.explain_ucf101.check_cluster", lambda *_, **__: server.process.kill())
        due = Entry("", str(tiny_checkpoint), "", 1, "started", sha256="0" * 64, run="a")
        entries = list(_here(request, Cluster(workers=1), [], due))
    assert [entry.outcome for entry in entries] == ["started", "failed"]
    assert entries[-1].reason.endswith("(start the same command again, it goes on where it stopped)")


def test_a_root_that_can_not_be_written_any_more_ends_no_watch(
    place: Path,
    tiny_ucf101: Path,
    tiny_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    words = ["watch", str(place), "--data", str(tiny_ucf101), "--root", str(tmp_path / "disk/root")]
    words += ["--every", "1", "--settings", "subset=all", "block_clips=5"]

    def take_away() -> None:
        (tmp_path / "disk").write_text("a file where the root's directory was")
        published(tiny_checkpoint, place / "a.pth")

    then_stop(monkeypatch, take_away)
    assert main(words) == INTERRUPTED
    assert "can't be written" in capsys.readouterr().err
    assert main(words) == BAD_INPUT


@pytest.mark.slow
def test_a_server_that_lacks_the_deployment_or_is_away_is_told_in_one_line(
    place: Path,
    request_of: Request,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["watch", str(place), "--data", request_of.data, "--root", request_of.root]
    words += ["--settings", "subset=all", "block_clips=5"]
    with temporary_server() as url:
        monkeypatch.setenv("PREFECT_API_URL", url)
        then_stop(monkeypatch, lambda: published(tiny_checkpoint, place / "a.pth"))
        assert main([*words, "--every", "1"]) == INTERRUPTED
        assert "this look failed, the next is in 1 s: Prefect: the server has no" in capsys.readouterr().err
        assert main(words) == BAD_INPUT
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(f"selrel: Prefect: the server has no deployment {DEPLOYMENT}: `prefect deploy")
    away = f"http://127.0.0.1:{free_port()}/api"
    monkeypatch.setenv("PREFECT_API_URL", away)
    with temporary_settings({PREFECT_API_URL: away}):
        assert main(words) == BAD_INPUT
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("selrel: Prefect: ") and "PREFECT_API_URL" in said


def test_the_run_to_compare_with_is_named_in_full_to_a_worker() -> None:
    assert settings_elsewhere({"videos": 3}) == {"videos": 3}
    assert settings_elsewhere({"against": "r/runs/a"}) == {"against": f"{Path.cwd()}/r/runs/a"}
    assert settings_elsewhere({"against": "s3://b/runs/a"}) == {"against": "s3://b/runs/a"}


@pytest.mark.slow
def test_a_start_on_a_server_is_made_once_a_root_and_again_when_the_root_is_new(tmp_path: Path) -> None:
    due = Entry("", "a.pth", "", 1, "started", "attempt 1", sha256="0" * 64, run="a-0123456789abcdef")
    with temporary_server(), get_client(sync_client=True) as client:
        flow, name = DEPLOYMENT.split("/")
        client.create_deployment(client.create_flow_from_name(flow), name)

        def start(root: str) -> UUID:
            (entry,) = on_server({"root": str(tmp_path / root)})(due)
            return UUID(entry.flow_run)

        first = start("root")
        assert start("root") == first, "the ledger was not written: the same start"
        assert start("other") != first
        assert client.read_flow_run(first).parameters["checkpoint"] == "a.pth"
        # The root was emptied, and the server remembers every start under it.
        known = {first}
        for _ in range(3):
            last = start("root")
            client.set_flow_run_state(last, Completed(), force=True)
            known.add(last)
        last = start("root")
        assert len(known) == 3 and last not in known
        assert start("root") == last


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("videos=10", 10),
        ("videos=null", None),
        ("target=true", "true"),
        ('target="Diving"', "Diving"),
        ("family=3", "3"),
        ("classes=Diving", ["Diving"]),
        ("methods=deep_taylor", ["deep_taylor"]),
        ('methods=["grad_cam", "sensitivity"]', ["grad_cam", "sensitivity"]),
        ("sigmas=2", [2.0]),
        ("insecure=no", False),
        ("scale=2", 2.0),
    ],
)
def test_a_setting_is_read_as_its_type(word: str, value: object) -> None:
    name = word.partition("=")[0]
    read = settings_of([word])[name]
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("videos=ten", "setting videos is 'ten', but takes int | None: Input should be a valid integer"),
        ("videos=3.5", "setting videos is 3.5"),
        ("preset=papr", "setting preset is 'papr', but takes Literal['default', 'paper']"),
        ("max_drop=5%", "setting max_drop is '5%', but takes float | None"),
        ("mean=[1]", "setting mean is [1]"),
        ("edge=up", "setting edge is 'up'"),
        ("workers=x", "setting workers is 'x'"),
        (
            'sigmas=["a"]',
            "setting sigmas is ['a'], but takes Sequence[float] | None: 0: Input should be a valid number",
        ),
        ("against=5", "5, but max drop is not given"),
    ],
)
def test_a_setting_of_another_type_is_one_line(
    word: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--data", str(tmp_path), "--root", str(tmp_path / "root")]
    assert main(["watch", str(tmp_path), *where, "--settings", word]) == BAD_INPUT
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"video": 3}}, "settings name video; allowed are .*videos"),
        ({"settings": {"tau": -1}}, "tau"),
        ({"settings": {"sigmas": 2}}, "setting sigmas is 2, but takes Sequence.float."),
        ({"settings": {"classes": "Diving"}}, "setting classes is 'Diving', but takes Sequence.str. "),
        ({"settings": {"floor": "x"}}, "setting floor is 'x'"),
        ({"settings": {"methods": ["deep_taylor:alpha=one"]}}, "alpha is 'one'; give one like"),
        ({"watch": "nowhere"}, "there is no directory"),
        ({"root": "."}, "lies inside the watched place"),
        ({"tries": 0}, "tries is 0; give 1 or more"),
        ({"at_once": 0}, "at_once is 0; give 1 or more"),
        ({"data": "nowhere"}, "nowhere"),
    ],
)
def test_what_can_not_be_watched_says_why(
    change: dict[str, object], message: str, place: Path, tiny_ucf101: Path, tmp_path: Path
) -> None:
    (place / "a.pth").write_bytes(b"")
    told = {"watch": "", "data": str(tiny_ucf101), "root": str(tmp_path / "root"), "settings": {}} | change
    root = str(place / told["root"]) if told["root"] == "." else told["root"]
    with pytest.raises((ValueError, OSError), match=message):
        request = request_for(data=told["data"], root=root, settings=told["settings"])  # type: ignore[arg-type]
        bounds = {name: told[name] for name in ("tries", "at_once") if name in told}
        go_through(str(place / str(told["watch"])), request, explain=lambda due: iter([due]), **bounds)  # type: ignore[arg-type]


def test_a_place_without_checkpoints_is_no_reason_not_to_look_at_the_data(
    place: Path, tmp_path: Path
) -> None:
    request = request_for(data=str(tmp_path / "nowhere"), root=str(tmp_path / "root"), settings=SETTINGS)
    with pytest.raises((ValueError, OSError), match="nowhere"):
        look_at(place, request)


def test_a_prefix_on_s3(tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    with s3_server(tmp_path / "s3") as server, s3_client(server):
        place = f"s3://{BUCKET}/checkpoints"
        request = request_for(data=str(tiny_ucf101), root=f"s3://{BUCKET}/results", settings=SETTINGS)
        assert look_at(place, request) == []
        source = Root(place)
        source.write_bytes("run/a.pth.tar", tiny_checkpoint.read_bytes())
        source.write_bytes("bad.pth", b"nothing")
        source.write_bytes("bad.pth.sha256", f"{hashlib.sha256(b'nothing').hexdigest()}  bad.pth".encode())
        assert [one.url for one in candidates(place)] == [f"{place}/run/a.pth.tar", f"{place}/bad.pth"]
        assert sorted(look_at(place, request)) == ["refused bad.pth", "waiting a.pth.tar"]
        assert look_at(place, request) == ["started a.pth.tar", "finished a.pth.tar"]
        assert look_at(place, request) == []
        made = plan(replace(request, checkpoint=f"{place}/run/a.pth.tar"))
        assert made.finished
        assert made.description["checkpoint"] == f"{place}/run/a.pth.tar"
        source.write_bytes("b.pth", tiny_checkpoint.read_bytes())
        source.delete("run/a.pth.tar")
        assert look_at(place, request) == ["waiting b.pth"]
        assert look_at(place, request) == ["finished b.pth"]
