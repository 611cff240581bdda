"""Identity is content: what makes another data set or run, what does not, and what is said about it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flows import cli
from flows.explain_ucf101 import explain_ucf101
from flows.serving.cluster import in_process
from flows.watch_checkpoints import request_for
from selrel.models.c3d import C3D, FAMILIES
from selrel.training.fitting import Samples, initialise
from storage.checkpoints.files import write_checkpoint
from storage.datasets import fingerprints as content
from storage.datasets.fingerprints import ChangedVideo, Fingerprint, fingerprints, keep, unchanged
from storage.datasets.ucf101 import video_path
from storage.layout import content_hash
from storage.runs import read_summary
from storage.stores.receipts import write_receipt
from storage.stores.root import Root
from storage.tables import read_table
from tasks.clips import clips_of
from tasks.compare import compare_runs
from tasks.plan import Plan, _some, named, publish
from tasks.request import Request
from tasks.running.stage import Stage, Work, do
from tasks.stages import STAGES
from tasks.stages.index import STAGE as INDEX
from tasks.stages.index import count_block
from tasks.stages.report import report
from tasks.watch import look

Make = Callable[..., Any]

# A name in a script with marks, one with a space, one that has capitals of several letters.
CLASSES = ("Füße", "Golf Swing", "跳舞")
VIDEOS = {
    f"{unicodedata.normalize('NFD', 'Füße')}/{unicodedata.normalize('NFD', 'v_Füße_g01_c01')}.mp4": 20,
    "Golf Swing/v_GolfSwing_g01_c01.mkv": 16,
    "Golf Swing/v_Golf Swing_g02_c01.AVI": 33,
    "跳舞/v_跳舞_g01_c01.mov": 18,
}
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".mkv": "MJPG", ".AVI": "MJPG"}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, make_avi: Make, make_frames: Make) -> Path:
    """A data set of names in several scripts and of several containers; to be copied."""
    data = tmp_path_factory.mktemp("published")
    for seed, (name, n_frames) in enumerate(VIDEOS.items()):
        path = data / "UCF-101" / name
        plain = make_avi(
            data / f"written{path.suffix.lower()}",
            make_frames(n_frames, seed=seed),
            codec=CODECS[path.suffix],
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        plain.rename(path)
    lists = data / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(CLASSES, start=1)))
    # Composed, and with the suffix that they were published with.
    entries = ["Füße/v_Füße_g01_c01.avi", "Golf Swing/v_Golf Swing_g01_c01.avi", "跳舞/v_跳舞_g01_c01.avi"]
    (lists / "testlist01.txt").write_text("".join(f"{entry}\n" for entry in entries))
    (lists / "trainlist01.txt").write_text("Golf Swing/v_Golf Swing_g02_c01.avi 2\n")
    return data


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = C3D((2,) * 8, (2, 2), len(CLASSES))
    samples = Samples(
        lambda sample, shift: np.random.default_rng(sample).integers(
            0, 256, (16, 128, 171, 3), dtype=np.uint8
        ),
        np.zeros(2, np.int64),
    )
    initialise(model, samples, profile=FAMILIES[0].profile, seed=0)
    path = tmp_path_factory.mktemp("checkpoint") / "small.pth"
    write_checkpoint(path, model.state_dict())
    return path


@dataclass
class Place:
    """A data set and a root, to plan in."""

    data: Path
    root: Path
    checkpoint: Path

    def request(self, **choices: Any) -> Request:
        where = {"data": str(self.data), "checkpoint": str(self.checkpoint), "root": str(self.root)}
        return Request(**{**where, "methods": ["grad_cam"], "subset": "all", **choices})

    def plan(self, **choices: Any) -> Plan:
        return named(self.request(**choices))[0]

    def video(self, name: str) -> Path:
        return Path(video_path(self.data, name))


@pytest.fixture
def place(published: Path, checkpoint: Path, tmp_path: Path) -> Place:
    data = Path(shutil.copytree(published, tmp_path / "data"))
    return Place(data, tmp_path / "root", checkpoint)


def replace_bytes(video: Path) -> None:
    """Another video of the same size, name and time."""
    before, changed = video.stat(), bytearray(video.read_bytes())
    changed[len(changed) // 2] ^= 1
    video.write_bytes(changed)
    os.utime(video, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (video.stat().st_size, video.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def age(root: Path, data: Path) -> None:
    """Let what is known of videos be as old as if they had been read long after they were changed."""
    place = Root(str(root))
    known = content._kept(place, str(data))
    later = max(one.changed_ns for one in known.values()) + 3 * content._TICK_NS
    old = {name: replace(one, read_ns=later) for name, one in known.items()}
    keep(place, str(data), content.Fingerprints(of=old, fresh=True))


FIRST, SWING, *_ = VIDEOS


def test_a_video_replaced_by_one_of_the_same_size_and_time_makes_another_data_set(place: Place) -> None:
    first = place.plan()
    publish(first, work={})
    age(place.root, place.data)
    sound = place.video(SWING).read_bytes()
    replace_bytes(place.video(SWING))
    second = place.plan()
    assert second.dataset_id != first.dataset_id and second.run != first.run
    (note,) = [note for note in second.notes if "changed" in note]
    assert note.startswith(f"1 video ({SWING}) has changed since 20")
    assert note.endswith(" UTC, which makes another data set")
    # It is told once, by whichever start goes on with it.
    publish(second, work={})
    assert not any("changed" in note for note in place.plan().notes)
    place.video(SWING).write_bytes(sound)
    assert place.plan().dataset_id == first.dataset_id


def test_a_video_that_was_only_touched_copied_or_moved_is_the_same(place: Place) -> None:
    first = place.plan()
    publish(first, work={})
    age(place.root, place.data)
    os.utime(place.video(FIRST), (0, 0))
    copied = shutil.copy(place.video(SWING), place.data / "copy")
    os.replace(copied, place.video(SWING))
    again = place.plan()
    assert (again.dataset_id, again.run, again.notes) == (first.dataset_id, first.run, first.notes)
    moved = replace_data(place, place.data.rename(place.data.with_name("elsewhere")))
    assert moved.plan().dataset_id == first.dataset_id


def replace_data(place: Place, data: Path) -> Place:
    return replace(place, data=data)


def test_videos_that_went_are_named(place: Place) -> None:
    publish(place.plan(), work={})
    place.video(FIRST).unlink()
    made = place.plan()
    assert any(note.startswith(f"1 file ({FIRST}) has gone since 20") for note in made.notes)
    publish(made, work={})
    assert not any("gone" in note for note in place.plan().notes)


def test_many_changed_videos_are_counted_and_some_are_named() -> None:
    assert _some([f"v{n}" for n in range(7)], "video") == "7 videos (v0, v1, v2, v3, v4, ..) have"


def test_a_plan_leaves_nothing(place: Place) -> None:
    place.plan()
    assert not place.root.exists()


def test_what_the_lists_say_of_videos_is_identity_and_nothing_else_of_them(place: Place) -> None:
    first = place.plan()
    publish(first, work={})
    lists = place.data / "ucfTrainTestlist"
    test = (lists / "testlist01.txt").read_text()
    (lists / "testlist01.txt").write_text(test.replace("\n", "\r\n") + "跳舞/v_跳舞_g07_c01.avi\n")
    again = place.plan()
    assert again.dataset_id == first.dataset_id, "one that is not there"
    (note,) = [note for note in again.notes if "changed" in note]
    assert note.startswith("1 list (ucfTrainTestlist/testlist01.txt) has changed since 20")
    assert note.endswith(" UTC; a video of another class or split makes another data set")
    (lists / "trainlist01.txt").write_text("")
    assert place.plan().dataset_id != first.dataset_id, "a video changed sides"


def planned(place: Place) -> Work:
    """A data set that is published and counted."""
    made = place.plan()
    publish(made, work={})
    root = Root(made.root)
    work = Work(root, made.run, made.data, made.description)
    write_receipt(root, work.dataset, "index", 0, count_block(work, 0))
    return work


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage.of == "dataset"], ids=lambda s: s.name)
@pytest.mark.parametrize("change", ["replaced", "gone"])
def test_a_video_that_changes_during_a_run_stops_it(place: Place, stage: Stage, change: str) -> None:
    work, video = planned(place), place.video(FIRST)
    with in_process():
        do(INDEX, work.place.url, work.run, work.data)
    replace_bytes(video) if change == "replaced" else video.unlink()
    what = "has changed" if change == "replaced" else "is gone"
    with pytest.raises(ChangedVideo) as error:
        stage.block(work, 0)
    assert str(error.value).startswith(f"{video} {what} since this was planned; start the same command again")
    assert "\n" not in str(error.value)


def test_a_video_that_changes_while_it_is_read_is_noticed(place: Place) -> None:
    video = place.video(FIRST)
    (sha256,) = content.sha256_of({"v": str(video)}).values()
    with unchanged(str(video), sha256):
        os.utime(video)
    with pytest.raises(ChangedVideo, match="has changed"), unchanged(str(video), sha256):
        replace_bytes(video)
    with pytest.raises(ChangedVideo, match="has changed"), unchanged(str(video), sha256):
        pytest.fail("it is another one from the start")


def nothing(n_files: int, n_bytes: int) -> Callable[[], object]:
    return lambda: None


def look_up(root: Root, path: Path) -> Fingerprint:
    found = fingerprints(
        root, "/data", {"v": str(path)}, path_of=lambda name: str(path.parent / name), advance=nothing
    )
    return found.of["v"]


def test_only_what_may_have_changed_is_read_again(any_root: Root, tmp_path: Path) -> None:
    path = tmp_path / "video"
    path.write_bytes(b"content")
    found = look_up(any_root, path)
    changed = max(found.modified_ns, found.changed_ns)
    # What nobody would compute tells whether the file was read.
    told = replace(found, sha256="told", read_ns=changed + 2 * content._TICK_NS)

    def known(**facts: int) -> str:
        one = replace(told, **facts)
        keep(any_root, "/data", content.Fingerprints(of={"v": one}, fresh=True))
        return look_up(any_root, path).sha256

    assert known() == "told"
    for fact in ("size_bytes", "inode", "modified_ns", "changed_ns"):
        assert known(**{fact: getattr(told, fact) - 1}) == found.sha256, fact
    assert known(read_ns=changed + 1) == found.sha256, "read within a tick of the clock after the change"
    assert known(read_ns=changed - 10**12) == found.sha256, "changed after it was read, by that clock"


def test_what_is_known_is_no_result_and_its_damage_costs_only_time(
    any_root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "video"
    path.write_bytes(b"content")
    found = look_up(any_root, path)
    for damage in (b"", b"PAR1 no table", b"\0" * 5000, b"\0" * 9000):
        monkeypatch.setattr("storage.tables.MAX_BYTES", 8000)
        any_root.write_bytes(any_root.fingerprints("/data"), damage)
        assert look_up(any_root, path).sha256 == found.sha256
    keep(any_root, "/data", content.Fingerprints(of={"v": found, "w": found}, fresh=True))
    whole = any_root.read_bytes(any_root.fingerprints("/data"))
    for at in range(0, len(whole), 37):
        any_root.write_bytes(
            any_root.fingerprints("/data"), whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :]
        )
        assert look_up(any_root, path).sha256 == found.sha256, at


def test_what_was_kept_by_somebody_else_names_no_file_outside(place: Place) -> None:
    hostile = [
        "../../etc/passwd",
        "ucfTrainTestlist/\x1b[2J",
        "Archery/v_Archery_g01_c01.avi\n",
        "/etc/passwd",
    ]
    one = Fingerprint(1, 2, 3, 4, 5, "0" * 64)
    found = content.Fingerprints(of=dict.fromkeys(hostile, one), fresh=True)
    keep(Root(str(place.root)), str(place.data), found)
    assert not any("gone" in note or "changed" in note for note in place.plan().notes)


def test_a_wrong_hash_that_somebody_else_kept_stops_one_start_and_not_the_next(place: Place) -> None:
    first = place.plan()
    root, data = Root(first.root), str(place.data)
    publish(first, work={})
    kept = fingerprints_of(root, data)
    # Read so long after it was written that the hash counts as settled.
    lie = replace(kept[FIRST], sha256="0" * 64, read_ns=kept[FIRST].read_ns + 10**10)
    keep(root, data, content.Fingerprints(of=kept | {FIRST: lie}, fresh=True))
    wrong = place.plan()
    assert wrong.dataset_id != first.dataset_id
    publish(wrong, work={})
    with pytest.raises(ChangedVideo, match="has changed since this was planned"):
        count_block(Work(root, wrong.run, data, wrong.description), 0)
    assert place.plan().dataset_id == first.dataset_id


def fingerprints_of(root: Root, data: str) -> dict[str, Fingerprint]:
    rows = read_table(root, root.fingerprints(data)).to_pylist()
    return {row.pop("video"): Fingerprint(**row) for row in rows}


def keep_many(url: str, number: int) -> None:
    one = Fingerprint(1, 2, 3, 4, 5, f"{number}")
    for _ in range(20):
        keep(Root(url), "/data", content.Fingerprints(of={f"v{n}": one for n in range(500)}, fresh=True))


def test_processes_that_keep_at_once_leave_one_of_them_whole(tmp_path: Path) -> None:
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(partial(keep_many, str(tmp_path)), range(2)))
    known = content._kept(Root(str(tmp_path)), "/data")
    assert len(known) == 500 and len({one.sha256 for one in known.values()}) == 1


def test_a_pipe_is_not_waited_for_and_is_no_content(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert content.sha256_of({"v": str(tmp_path / "pipe")}) == {"v": ""}


@pytest.mark.parametrize("year", [1600, 2400])
def test_a_file_of_any_year_is_known(any_root: Root, tmp_path: Path, year: int) -> None:
    """Nanoseconds in 64 bits end in 2262."""
    path = tmp_path / "video"
    path.write_bytes(b"content")
    seconds = (year - 1970) * 31_556_952
    try:
        subprocess.run(["touch", "-d", f"@{seconds}", path], check=True)
    except subprocess.CalledProcessError:
        pytest.skip("this file system knows no such year")
    found = look_up(any_root, path)
    keep(any_root, "/data", content.Fingerprints(of={"v": found}, fresh=True))
    assert content._kept(any_root, "/data") == {"v": found}
    assert look_up(any_root, path).sha256 == found.sha256


def test_a_look_reads_no_video(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    request = place.request()
    shutil.copy(place.checkpoint, watched / "a.pth")
    shutil.copy(f"{place.checkpoint}.sha256", watched / "a.pth.sha256")
    (due,) = look(str(watched), request, patterns=("*.pth",), tries=3).due
    # The plan of the next file finds what the first has read.
    age(place.root, place.data)
    state = torch.load(place.checkpoint, weights_only=True)["state_dict"]
    write_checkpoint(watched / "b.pth", {name: 2 * weight for name, weight in state.items()})
    monkeypatch.setattr(content, "_read", lambda path: pytest.fail(f"{path} was read"))
    assert len(look(str(watched), request, patterns=("*.pth",), tries=3).due) == 2


# One meaning, one identity.

PLAIN: dict[str, Any] = {
    "methods": ["deep_taylor:alpha=2", "grad_cam"],
    "sigmas": [1, 2, 3],
    "floor": 0,
    "tau": 1,
    "split": 1,
    "videos": 3,
    "batch_clips": 4,
    "classes": list(CLASSES),
    "target": "true",
}
SPELLINGS: dict[str, dict[str, Any]] = {
    "floats": {
        "methods": ["deep_taylor:alpha=2.0", "grad_cam"], "sigmas": [1.0, 2.0, 3.0],
        "floor": 0.0, "tau": 1.0, "split": 1.0, "videos": 3.0, "batch_clips": 4.0,
    },
    "a negative zero": {"floor": -0.0},
    "numpy's numbers": {
        "methods": {"deep_taylor": {"alpha": np.float32(2)}, "grad_cam": {}}, "sigmas": np.array([1, 2, 3]),
        "floor": np.float64(0), "tau": np.int64(1), "videos": np.int32(3),
    },
    "another order, twice, and without the 2 that is always there": {
        "methods": ("grad_cam", "deep_taylor:alpha=2", "grad_cam"), "sigmas": (3.0, 1, 1.0),
    },
    "tuples": {"methods": ("deep_taylor:alpha=2", "grad_cam"), "sigmas": (1, 2, 3), "classes": CLASSES},
    "defaults spelled out": {
        "methods": ["deep_taylor:start=one,alpha=2", "grad_cam"],
        "floor": 0, "edge": "magnitude", "border": "replicate", "scaling": "none",
        "preset": "default", "motion_rule": "tau",
    },
    "capitals and Unicode's other form": {
        "classes": ["golf swing", "跳舞", unicodedata.normalize("NFD", "füße")],
    },
}  # fmt: skip


def identity(request: Request) -> str:
    return content_hash([request.settings(), request.videos, request.split])


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_meaning_is_one_run(place: Place, spelling: str) -> None:
    first, other = place.plan(**PLAIN), place.plan(**{**PLAIN, **SPELLINGS[spelling]})
    assert (other.run, other.dataset_id) == (first.run, first.dataset_id)
    assert other.description == {**first.description, "drawn": other.description["drawn"]}


def test_another_meaning_is_another_run(place: Place) -> None:
    runs = {place.plan(**{**PLAIN, **other}).run for other in ({}, {"tau": 2}, {"floor": 1e-6})}
    assert len(runs) == 3


def test_every_door_leads_to_one_run(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = place.plan(**PLAIN)
    where = {"data": str(place.data), "checkpoint": str(place.checkpoint), "root": str(place.root)}
    given: dict[str, Any] = {}
    monkeypatch.setattr("flows.commands.explain.run_explain", lambda *own: given.update(request=own[0]) or 0)

    def from_command_line(*words: str) -> Plan:
        given.clear()
        assert cli.main(["explain", *words]) == 0
        return named(given["request"])[0]

    places = [word for name, value in where.items() for word in (f"--{name}", value)]
    flags = [
        "--subset", "all", "--methods", "grad_cam", "deep_taylor:alpha=2.00",
        "--sigmas", "3", "2", "1", "--floor=-0", "--tau", "1.0", "--videos", "3", "--batch-clips", "4",
        "--classes", "GOLF SWING", "跳舞", "füße", "--target", "true",
    ]  # fmt: skip
    found = {"flags": from_command_line(*places, *flags)}
    monkeypatch.chdir(tmp_path)
    Path("selrel.toml").write_text(
        '[explain]\nsubset = "all"\nmethods = ["deep_taylor:alpha=2", "grad_cam"]\nsigmas = [1, 2.0, 3]\n'
        'floor = 0\ntau = 1\nvideos = 3\nbatch_clips = 4\ntarget = "true"\n'
        'classes = ["Füße", "Golf Swing", "跳舞"]\n'
    )
    found["file"] = from_command_line(*places)
    Path("selrel.toml").write_text(
        '[explain]\nsubset = "all"\nmethods = ["deep_taylor:alpha=2.", "grad_cam"]\nsigmas = [1, 2.0, 3]\n'
        'videos = 3\nbatch_clips = 4\nclasses = ["Füße", "Golf Swing", "跳舞"]\n'
    )
    for name, value in {"FLOOR": "0.00", "TAU": "1", "TARGET": "true"}.items():
        monkeypatch.setenv(f"SELREL_{name}", value)
    found["variables"] = from_command_line(*places)
    form = explain_ucf101.validate_parameters({**where, "subset": "all", **PLAIN, "tau": "1"})
    form = {n: v for n, v in form.items() if n not in ("workers", "scheduler", "insecure")}
    found["Prefect's form"] = named(Request(**form))[0]
    watched = request_for(
        data=where["data"], root=where["root"], settings={**PLAIN, "subset": "all", "tau": 1.0}
    )
    found["watching"] = named(replace(watched, checkpoint=where["checkpoint"]))[0]
    assert {door: made.run for door, made in found.items()} == dict.fromkeys(found, expected.run)


def test_a_tau_that_no_rule_reads_makes_no_other_run() -> None:
    def asked(**choices: Any) -> str:
        return identity(Request(data="d", checkpoint="c", root="r", **choices))

    assert asked(motion_rule="frame_std", tau=0.3) == asked(motion_rule="frame_std")
    assert asked(tau=0.3) != asked()


def test_a_target_is_a_class_in_any_capitals(place: Place) -> None:
    runs = {place.plan(target=name).run for name in ("Golf Swing", "golf swing", "GOLF  SWING")}
    assert len(runs) == 1
    assert place.plan(target="FÜSSE").description["settings"]["target"] == "Füße"
    with pytest.raises(ValueError, match="target 'Golf' is unknown"):
        place.plan(target="Golf")


def test_a_root_a_path_and_a_profile_have_one_form_too(place: Place) -> None:
    where: dict[str, Any] = {"data": place.data, "checkpoint": place.checkpoint, "root": f"{place.root}/"}
    assert place.plan(**where).run == place.plan().run
    assert place.plan(**where).url == place.plan().url
    assert Root("s3://bucket/results/").url == Root("s3://bucket/results").url
    profile = FAMILIES[0].profile
    whole: dict[str, Any] = {"crop": (112, 112), "resize": [171, 128], "clip_length": 16, "scale": 1}
    real: dict[str, Any] = {"crop": [112.0, np.int64(112)], "resize": (171, 128.0), "clip_length": 16.0}
    first, second = (
        profile.override(**changes).as_dict()
        for changes in (
            {**whole, "mean": (0, 1, 2)},
            {**real, "scale": np.float32(1), "mean": [-0.0, 1.0, 2]},
        )
    )
    assert content_hash(first) == content_hash(second)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"tau": True}, "tau is True; give one like 0.5"),
        ({"tau": "1"}, "tau is '1'; give one like 0.5"),
        ({"videos": 2.5}, "videos is 2.5; give one like 1"),
        ({"tau": float("nan")}, "tau is nan; give one like 0.5"),
        ({"sigmas": ["2"]}, "sigma is '2'; give one like 2.0"),
        ({"floor": False}, "floor is False; give one like 0.5"),
        ({"methods": ["grad_cam:alpha=1"]}, "grad_cam has no setting 'alpha'; its settings:"),
        ({"methods": "grad_cam"}, "methods is 'grad_cam'; give a list of names"),
        ({"classes": "Archery"}, "classes is 'Archery'; give a list of names"),
        ({"methods": ["deep_taylor:alpha=x"]}, "deep_taylor: alpha is 'x'; give one like 1.0"),
        ({"methods": ["deep_taylor", "deep_taylor:alpha=2"]}, "deep_taylor is given twice"),
        ({"edge": "up"}, "edge is 'up'; give one of magnitude, rising, falling"),
        ({"target": 3}, "target is 3; give one like 'text'"),
    ],
)  # fmt: skip
def test_what_has_no_form_is_refused_in_one_line(choices: dict[str, Any], words: str) -> None:
    where = {"data": "d", "checkpoint": "c", "root": "r", "methods": ["grad_cam"]}
    with pytest.raises(ValueError) as error:
        Request(**{**where, **choices})
    assert str(error.value).startswith(words)


# Real runs.


def carry_out(made: Plan) -> dict[str, Any]:
    """Go through the stages of a plan, in this process."""
    publish(made, work={})
    root = Root(made.root)
    torch.set_num_threads(1)
    with in_process():
        for stage in STAGES:
            do(stage, made.root, made.run, made.data)
        report.fn(made.root, made.run)
    return read_summary(root, root.run(made.run))


@pytest.mark.slow
def test_runs_in_blocks_of_two_sizes_have_one_results_hash_and_stand_on_their_frames(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names in any script and containers of any kind, from the files to the tables and the commands."""
    made = [place.plan(block_clips=n, batch_clips=2, methods=["grad_cam"]) for n in (2, 4)]
    assert made[0].run != made[1].run
    first, second = (carry_out(one) for one in made)
    assert first["results_sha256"] == second["results_sha256"]
    root = Root(made[0].root)
    clips = clips_of(root, made[0].dataset_id).table
    counts = clips.groupby("video").n_frames.first().to_dict()
    assert counts == VIDEOS, "every container is read to its end"
    assert dict(zip(clips.video, clips.split, strict=True)) == {
        name: "train" if "g02" in name else "test" for name in VIDEOS
    }
    assert set(clips["class"]) == set(CLASSES)
    table = read_table(root, root.run(made[0].run).table("table3")).to_pandas()
    assert set(table["class"].dropna()) == set(CLASSES)
    page = root.read_bytes(root.run(made[0].run).report.page).decode()
    assert all(name in page for name in CLASSES[:2])
    rows, _ = compare_runs(made[0].url, made[1].url)
    assert {row["class"] for row in rows} == {None, *CLASSES}

    replace_bytes(place.video(SWING))
    again = place.plan(block_clips=2, batch_clips=2, methods=["grad_cam"])
    assert again.run != made[0].run and not again.finished, "no old number for another video"
    for told in (
        f"Changed or gone since: 1 of its 4 videos in {place.data} ({SWING}). That is no damage: the run "
        "stands on the frames that it stored. The same command now makes another run.",
        f"Its videos are not at {place.data} here, so nothing is said about them.",
    ):
        assert cli.main(["verify", made[0].url]) == 0
        sound, line = capsys.readouterr().out.splitlines()
        assert sound.startswith("Sound: ") and line == told
        shutil.rmtree(place.data, ignore_errors=True)


CHANGED = {
    # What changes another data set, and another run.
    "selrel/clips/flow.py": (True, True),
    "storage/videos/decoder.py": (True, True),
    "tasks/stages/motion.py": (True, True),
    "selrel/explain/grad_cam.py": (False, True),
    "selrel/models/c3d.py": (False, True),
    "selrel/scores/precision.py": (False, True),
    "tasks/stages/score.py": (False, True),
    # None of these computes a result.
    "tasks/checkup.py": (False, False),
    "tasks/page.py": (False, False),
    "storage/report/words.py": (False, False),
    "flows/printing.py": (False, False),
    "selrel/training/recipe.py": (False, False),
}


def test_only_code_that_computes_a_result_is_identity(tmp_path: Path) -> None:
    here = Path(__file__).parent.parent
    for room in ("flows", "selrel", "storage", "tasks"):
        shutil.copytree(here / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    code = f"""
import json
from pathlib import Path
from tasks import identity
found = {{}}
both = (identity.code_of_data_sets, identity.code_of_runs)
before = [hashed() for hashed in both]
for name in {list(CHANGED)}:
    text = Path(name).read_text()
    Path(name).write_text(text + "# another word")
    [hashed.cache_clear() for hashed in both]
    found[name] = [hashed() != was for hashed, was in zip(both, before)]
    Path(name).write_text(text)
print(json.dumps(found))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    assert {name: tuple(changed) for name, changed in json.loads(done.stdout).items()} == CHANGED
