import pytest

from storage.runs import (
    FinishedRun,
    find_run,
    is_finished,
    list_runs,
    mark_success,
    name_of_run,
    read_run,
    read_summary,
    write_run,
)
from storage.stores.root import Root

DESCRIPTION = {"checkpoint": "c3d", "settings": {"methods": {"deep_taylor": {"alpha": 1.0}}}}


@pytest.fixture
def root(tmp_path):
    return Root(str(tmp_path))


def test_a_run_starts_with_its_description_and_ends_with_its_marker(root):
    run = root.run("c3d-01")
    write_run(root, run, DESCRIPTION)
    assert read_run(root, run) == DESCRIPTION
    assert not is_finished(root, run)
    mark_success(root, run, {"clips": 10})
    assert is_finished(root, run)
    assert read_summary(root, run) == {"clips": 10}


def test_a_finished_run_is_not_changed(root):
    run = root.run("c3d-01")
    write_run(root, run, DESCRIPTION)
    write_run(root, run, DESCRIPTION | {"device": "cpu"})
    mark_success(root, run, {"clips": 10})
    mark_success(root, run, {"clips": 11})
    assert read_summary(root, run) == {"clips": 10}
    write_run(root, run, DESCRIPTION | {"device": "cpu"})
    with pytest.raises(FinishedRun, match="c3d-01 is finished"):
        write_run(root, run, DESCRIPTION)
    assert read_run(root, run) == DESCRIPTION | {"device": "cpu"}


def test_a_marker_needs_a_run(root):
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        mark_success(root, root.run("c3d-01"), {})
    assert list_runs(root) == []


def test_all_runs_are_listed_whatever_their_state(root):
    assert list_runs(root) == []
    for name in ("b", "a", "broken", "list"):
        write_run(root, root.run(name), DESCRIPTION)
    mark_success(root, root.run("b"), {"clips": 10})
    root.write_bytes(root.run("broken").run_json, b"{")
    root.write_bytes(root.run("list").run_json, b"[]")
    root.write_bytes("runs/empty/receipts/x", b"")
    found = list_runs(root)
    assert [run.name for run in found] == ["a", "b", "broken", "empty", "list"]
    assert [run.finished for run in found] == [False, True, False, False, False]
    assert [bool(run.note) for run in found] == [False, False, True, True, True]
    assert [run.ended for run in found] == [False, True, False, False, False]
    assert found[1].description == DESCRIPTION
    assert found[1].summary == {"clips": 10}
    assert found[1].url == root.join("runs/b")


def test_a_stray_name_below_runs_is_listed_with_a_note(root):
    write_run(root, root.run("a"), DESCRIPTION)
    root.write_bytes("runs/not a run/x", b"")
    found = list_runs(root)
    assert [run.name for run in found] == ["a", "not a run"]
    assert "not allowed" in found[1].note


def test_a_changed_marker_is_not_read(root):
    run = root.run("a")
    write_run(root, run, DESCRIPTION)
    mark_success(root, run, {"clips": 10})
    text = root.read_bytes(run.success)
    root.write_bytes(run.success, text.replace(b"10", b"11"))
    with pytest.raises(ValueError, match="was changed"):
        read_summary(root, run)
    (found,) = list_runs(root)
    assert found.ended and not found.finished and "was changed" in found.note


def test_a_run_is_found_by_its_id_and_rather_a_finished_one(root):
    assert name_of_run(root, "0123") is None
    for name in ("a-0123", "b-0123", "c-4567"):
        write_run(root, root.run(name), DESCRIPTION)
    assert name_of_run(root, "0123") == "a-0123"
    mark_success(root, root.run("b-0123"), {})
    assert name_of_run(root, "0123") == "b-0123"
    assert name_of_run(root, "123") is None


def test_a_run_is_found_by_its_place_its_name_and_as_the_latest(root):
    for name, finished in (("c3d-0b", "2026-11-30T10:00"), ("c3d-0a", "2026-11-30T11:00"), ("c3d-0c", None)):
        run = root.run(name)
        write_run(root, run, DESCRIPTION)
        if finished:
            mark_success(root, run, {"finished_at": finished})
    place = root.join("runs/c3d-0c")
    assert find_run(place, None) == place
    assert find_run(place, "s3://elsewhere/root") == place
    assert find_run("c3d-0c", str(root)) == place
    # By the time it finished, not by its name; one that is not finished has none.
    assert find_run("latest", str(root)) == root.join("runs/c3d-0a")


@pytest.mark.parametrize(
    ("run", "given", "said"),
    [
        ("c3d-0a", False, "'c3d-0a' is a name: give --root as well, or <root>/runs/<name>"),
        ("latest", False, "'latest' is a name: give --root as well"),
        ("c3d-0b", True, "there is no run c3d-0b under .*; did you mean c3d-0a"),
        ("c3d", True, "there is no run c3d under .*; did you mean c3d-0a"),
        ("..", True, r"there is no run \.\. under"),
        ("latest", True, "no run under .* is finished; `selrel runs --root"),
    ],
)
def test_a_run_that_can_not_be_found_by_name(root, run, given, said):
    write_run(root, root.run("c3d-0a"), DESCRIPTION)
    with pytest.raises(ValueError, match=said):
        find_run(run, str(root) if given else None)


def test_a_root_that_does_not_exist_is_named(tmp_path):
    for run in ("latest", "c3d-0a"):
        with pytest.raises(ValueError, match="nowhere does not exist; give the --root of `selrel explain`"):
            find_run(run, str(tmp_path / "nowhere"))
