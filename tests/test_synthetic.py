import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from storage.synthetic import CLASSES, make_dataset, read_truth
from storage.ucf101 import read_dataset
from storage.videos import count_frames, read_frames

SMALL = {"videos_per_class": 4, "groups": 4, "frames": (12, 20), "seed": 7}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    directory = tmp_path_factory.mktemp("synthetic") / "set"
    make_dataset(directory, **SMALL)
    return directory


def names(directory):
    return sorted(path.relative_to(directory / "UCF-101").as_posix() for path in directory.rglob("*.avi"))


def hashes(directory):
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return {
        path.relative_to(directory).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def frames_of(directory, name):
    return np.stack(list(read_frames(directory / "UCF-101" / name)))


def test_layout_is_that_of_ucf101(made):
    assert len(names(made)) == 4 * len(CLASSES)
    found = read_dataset(made, split=1)
    assert found.classes == tuple(CLASSES)
    assert (len(found.videos), found.absent) == (4 * len(CLASSES), 0)
    for video in found.videos:
        facts = count_frames(video.path)
        assert (facts.width, facts.height, facts.fps) == (320, 240, 25.0)
        assert 12 <= facts.n_frames == facts.header_frames <= 20
        assert not facts.note


def test_lists_end_lines_as_published(made):
    for path in (made / "ucfTrainTestlist").iterdir():
        text = path.read_bytes()
        assert text.count(b"\r\n") == text.count(b"\n") > 0
        assert text.endswith(b"\r\n")
    assert len(list((made / "ucfTrainTestlist").iterdir())) == 7


def test_no_group_is_on_both_sides_of_a_split(made):
    tested = set()
    for split in (1, 2, 3):
        sides = {side: read_dataset(made, split=split, subset=side).videos for side in ("train", "test")}
        train, test = ({video.group for video in sides[side]} for side in ("train", "test"))
        assert not train & test
        assert len(sides["train"]) + len(sides["test"]) == len(names(made))
        # Every class is tested and trained.
        assert (
            {v.label for v in sides["train"]} == {v.label for v in sides["test"]} == set(range(len(CLASSES)))
        )
        assert not tested & test
        tested |= test


def test_label_orders_differ_as_in_ucf101():
    assert list(CLASSES) != sorted(CLASSES)
    assert list(CLASSES) == sorted(CLASSES, key=str.lower)


def test_same_seed_same_bytes(made, tmp_path):
    again = tmp_path / "again"
    make_dataset(again, **SMALL)
    assert hashes(again) == hashes(made)


def test_another_seed_gives_other_videos(made, tmp_path):
    other = tmp_path / "other"
    make_dataset(other, **{**SMALL, "seed": 8})
    ours, theirs = hashes(made), hashes(other)
    avis = [f"UCF-101/{name}" for name in names(made)]
    assert all(ours[name] != theirs[name] for name in avis)


def test_complete_set_is_found_and_not_written_again(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    make_dataset(made, **SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}


def test_left_overs_of_a_killed_run_do_no_harm(made, tmp_path):
    target = tmp_path / "set"
    stale = tmp_path / "set.partial" / "UCF-101" / "Resting"
    stale.mkdir(parents=True)
    (stale / "v_Resting_g09_c01.avi").write_bytes(b"half")
    make_dataset(target, **SMALL)
    assert hashes(target) == hashes(made)
    assert not (tmp_path / "set.partial").exists()


def test_other_directory_is_left_alone(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not this synthetic data set"):
        make_dataset(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_other_parameters_are_another_set(made):
    with pytest.raises(FileExistsError, match="choose another directory"):
        make_dataset(made, **{**SMALL, "seed": 8})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 2}, "groups is 2"),
        ({"videos_per_class": 3}, "videos_per_class is 3"),
        ({"frames": (1, 5)}, "frames is"),
        ({"frames": (9, 5)}, "frames is"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(tmp_path / "set", **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_truth_has_a_mask_for_every_frame(made):
    for name in names(made):
        truth = read_truth(made, name)
        assert truth["mask"].shape == (len(frames_of(made, name)), 240, 320)
        assert truth["mask"].dtype == np.bool_
        assert truth["mask"].any(axis=(1, 2)).all()
        assert bool(truth["moves"]) == (not name.startswith("Resting/"))


def centres(mask):
    return np.array([np.argwhere(frame).mean(axis=0) for frame in mask])


def test_object_moves_as_its_class_says(made):
    for name in names(made):
        mask = read_truth(made, name)["mask"]
        (dy, dx), areas = np.ptp(centres(mask), axis=0), mask.sum(axis=(1, 2))
        class_name = name.partition("/")[0]
        across = centres(mask)[-1, 1] - centres(mask)[0, 1]
        # A hand-held camera adds a few pixels to each.
        if class_name == "RollLeft":
            assert across < -100
        elif class_name == "RollRight":
            assert across > 100
        elif class_name == "Bobbing":
            assert dy > 20 > dx
        elif class_name == "Approaching":
            assert areas[-1] > 5 * areas[0]
        else:
            assert max(dx, dy) < 10
            assert areas.max() < 1.2 * areas.min()


def test_mask_is_where_the_object_is_seen(made):
    # The object is much brighter than its background, in what the codec left too.
    for name in names(made):
        frames, mask = frames_of(made, name).mean(axis=-1), read_truth(made, name)["mask"]
        kernel = np.ones((15, 15), np.uint8)
        for frame, seen in zip(frames[::4], mask[::4], strict=True):
            ring = (cv2.dilate(seen.astype(np.uint8), kernel) > 0) & ~seen
            assert frame[seen].mean() > frame[ring].mean() + 40


def test_only_motion_tells_the_class(made):
    # The same group shows one scene in all classes: backgrounds differ by codec, noise and light only.
    def background(class_name, group):
        name = f"{class_name}/v_{class_name}_g{group:02d}_c01.avi"
        frames = frames_of(made, name).astype(float)
        corner = frames[:, :40, :60].mean(axis=0)
        return (corner - corner.mean()).ravel() / corner.std()

    def likeness(a, b):
        return float(np.mean(a * b))

    same = [likeness(background("Resting", g), background(c, g)) for c in CLASSES for g in (1, 2)]
    other = [likeness(background("Resting", 1), background(c, 2)) for c in CLASSES]
    assert min(same) > max(other) + 0.2


def test_manifest_tells_how_the_set_was_made(made):
    manifest = json.loads((made / "truth" / "manifest.json").read_text())
    assert manifest["seed"] == SMALL["seed"]
    assert manifest["classes"] == list(CLASSES)
    assert manifest["n_videos"] == len(names(made))


def test_a_reader_of_ucf101_meets_videos_only(made):
    assert {path.suffix for path in Path(made / "UCF-101").rglob("*") if path.is_file()} == {".avi"}
