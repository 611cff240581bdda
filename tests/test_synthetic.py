import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from selrel.clips.flow import farneback, grey
from storage.datasets.ucf101 import read_dataset
from storage.drawn.scenes import CLASSES, Setting, draw_scene, draw_video, true_flow
from storage.drawn.synthetic import make_dataset, read_truth
from storage.videos.reader import count_frames, read_frames

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
        (
            {"classes": ("Rolling", "Hopping")},
            "classes are Rolling, Hopping; give two or more of Approaching",
        ),
        ({"classes": ("Rolling",)}, "classes are Rolling"),
    ],
)
def test_numbers_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        make_dataset(tmp_path / "set", **{**SMALL, **change})
    assert not list(tmp_path.iterdir())


def test_truth_has_a_mask_for_every_frame(made):
    for name in names(made):
        truth = read_truth(made, name)
        assert truth.mask.shape == (len(frames_of(made, name)), 240, 320)
        assert truth.mask.dtype == np.bool_
        assert truth.mask.any(axis=(1, 2)).all()
        assert truth.moves == (not name.startswith("Resting/"))
        assert name.startswith(f"{truth.motion}/")
        assert not truth.moves or (truth.moving | ~truth.mask).all()


def centres(mask):
    return np.array([np.argwhere(frame).mean(axis=0) for frame in mask])


def test_object_moves_as_its_class_says(made):
    for name in names(made):
        mask = read_truth(made, name).mask
        (dy, dx), areas = np.ptp(centres(mask), axis=0), mask.sum(axis=(1, 2))
        class_name = name.partition("/")[0]
        across = centres(mask)[-1, 1] - centres(mask)[0, 1]
        # A hand-held camera adds a few pixels to each.
        if class_name == "RollLeft":
            assert across < -30
        elif class_name == "RollRight":
            assert across > 30
        elif class_name == "Bobbing":
            assert dy > 20 > dx
        elif class_name == "Approaching":
            assert areas[-1] > 5 * areas[0]
        else:
            assert max(dx, dy) < 10
            assert areas.max() < 1.2 * areas.min()


def steps(frames, layers, layer, every=4):
    """How much brighter than its surroundings a layer is in each frame, in what the codec left."""
    kernel, found = np.ones((9, 9), np.uint8), []
    for frame, seen in zip(frames.mean(axis=-1)[::every], layers[::every], strict=True):
        own = seen == layer
        ring = (cv2.dilate(own.astype(np.uint8), kernel) > 0) & (seen == 0)
        found.append(frame[own].mean() - frame[ring].mean())
    return np.array(found)


def test_mask_is_where_the_object_is_seen(made):
    # The object is much brighter than its background, in what the codec left too.
    for name in names(made):
        found = steps(frames_of(made, name), read_truth(made, name).layers, 3)
        assert len(found) >= 3 and found.min() > 40


def test_an_unmarked_object_is_drawn_as_the_discs_are(tmp_path):
    directory = tmp_path / "set"
    truths = small_set(directory, videos_per_class=48, groups=48, classes=FOUR[:2], marked=False)
    objects, discs, areas = [], [], []
    for name, truth in truths.items():
        frames, layers = frames_of(directory, name)[:1], truth.layers[:1]
        sizes = {layer: int((layers == layer).sum()) for layer in (1, 2, 3)}
        areas.append((max(sizes[1], sizes[2]), sizes[3]))
        objects.append(steps(frames, layers, 3)[0])
        discs += [steps(frames, layers, layer)[0] for layer in (1, 2) if sizes[layer] > 150]
    assert len(objects) == 96 and len(discs) > 120
    # Darker as often as brighter, by as much, and of about one size.
    for found in (np.array(objects), np.array(discs)):
        assert 0.3 < (found > 0).mean() < 0.7
    assert abs(np.abs(objects).mean() - np.abs(discs).mean()) < 10
    larger_disc, object_ = np.mean(areas, axis=0)
    assert 0.5 < larger_disc / object_ < 1.5


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"context": 1.5}, "context is 1.5; give 0 to 1"),
        ({"motion": -0.1}, "motion is -0.1"),
        ({"cue": "sound"}, "cue is sound; give one of background, object"),
        ({"size": (129, 96)}, "an even width and height"),
        ({"pan": 21}, "pan is 21"),
        ({"distractors": -1}, "distractors is -1"),
    ],
)
def test_settings_out_of_range_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Setting(**change)


FOUR = ("Bobbing", "Rolling", "RollLeft", "RollRight")


def small_set(directory, *, videos_per_class=24, groups=8, classes=FOUR, **setting):
    make_dataset(
        directory,
        videos_per_class=videos_per_class,
        groups=groups,
        frames=(16, 16),
        seed=1,
        classes=classes,
        setting=Setting(**{"size": (128, 96), **setting}),
    )
    return {name: read_truth(directory, name) for name in names(directory)}


def share_told(truths):
    """Share of videos whose scene, and whose motion, is their class's own."""
    own = [
        (FOUR.index(name.split("/")[0]) == t.kind, name.split("/")[0] == t.motion)
        for name, t in truths.items()
    ]
    return np.mean(own, axis=0)


def test_settings_say_what_tells_the_class(tmp_path):
    # 96 videos; of those that are not told to, a quarter have their class's own by chance.
    assert share_told(small_set(tmp_path / "motion")).tolist() == [0.25, 1.0]
    assert share_told(small_set(tmp_path / "both", context=1.0)).tolist() == [1.0, 1.0]
    scene, motion = share_told(small_set(tmp_path / "context", context=1.0, motion=0.0))
    assert scene == 1.0
    assert motion < 0.45
    scene, motion = share_told(small_set(tmp_path / "half", context=0.5))
    assert 0.45 < scene < 0.8
    assert motion == 1.0


def test_scene_of_a_kind_is_told_by_its_colour(tmp_path):
    truths = small_set(tmp_path / "set", videos_per_class=8, context=1.0)
    colours = {}
    for name, truth in truths.items():
        outside = frames_of(tmp_path / "set", name)[0][truth.layers[0] == 0].mean(axis=0)
        colours.setdefault(truth.kind, []).append(outside / outside.sum())
    middles = {kind: np.mean(of_kind, axis=0) for kind, of_kind in colours.items()}
    for kind, of_kind in colours.items():
        for colour in of_kind:
            assert min(middles, key=lambda k: np.abs(middles[k] - colour).sum()) == kind


def test_badge_tells_the_kind_and_stays_where_it_is(tmp_path):
    truths = small_set(tmp_path / "set", videos_per_class=8, context=1.0, cue="object", distractors=0)
    hues = {}
    for name, truth in truths.items():
        assert not (truth.moving & (truth.layers == 1)).any()
        badge = frames_of(tmp_path / "set", name)[truth.layers == 1].mean(axis=0)
        hues.setdefault(truth.kind, []).append((badge - badge.mean()) / np.ptp(badge))
    for kind, of_kind in hues.items():
        others = [hue for other, several in hues.items() if other != kind for hue in several]
        assert max(np.abs(a - b).max() for a in of_kind for b in of_kind) < min(
            np.abs(a - b).max() for a in of_kind for b in others
        )


def test_pan_moves_everything_in_groups_of_even_number(tmp_path):
    for name, truth in small_set(tmp_path / "set", videos_per_class=8, pan=2.0, shake=0.0).items():
        panned = "_g02_" in name or "_g04_" in name or "_g06_" in name or "_g08_" in name
        speed = np.linalg.norm(np.diff(truth.camera, axis=0), axis=1)
        assert np.allclose(speed, 2.0 * 128 / 320 if panned else 0.0, atol=1e-4)
        still = truth.flow[:-1][truth.layers[:-1] == 0]
        assert np.allclose(still, np.diff(truth.camera, axis=0)[0], atol=1e-3)


def test_true_flow_leads_each_pixel_to_its_own_in_the_next_frame():
    # A layer turned, scaled and shifted by hand: 90 degrees counter-clockwise as seen, twice the size.
    layers = np.zeros((2, 40, 40), np.uint8)
    layers[0, 20, 20:24] = 1
    poses = np.zeros((2, 2, 4), np.float32)
    poses[:, :, 3] = 1
    poses[1, 0] = (20, 20, 0, 1)
    poses[1, 1] = (21, 19, 90, 2)
    flow = true_flow(layers, poses)
    for distance in range(4):
        # What was to the right is now above, twice as far.
        assert flow[0, 20, 20 + distance] == pytest.approx((1 - distance, -1 - 2 * distance), abs=1e-5)
    assert (flow[0][layers[0] == 0] == 0).all()
    assert np.isnan(flow[1]).all()


@pytest.mark.parametrize("motion", ["RollLeft", "Bobbing", "Rolling", "Approaching"])
def test_true_flow_leads_to_the_same_picture(motion):
    setting = Setting(noise=0.0, distractors=1, pan=1.0)
    rng = np.random.default_rng(3)
    scene = draw_scene(setting, 0, 2, n_frames=12, rng=rng)
    drawn = draw_video(setting, scene, motion, n_frames=12, panned=True, rng=rng)
    flow = true_flow(drawn.layers, drawn.poses)
    y, x = np.mgrid[:240, :320].astype(np.float32)
    for t in (0, 5, 10):
        now, then = (drawn.frames[k].astype(np.float32) for k in (t, t + 1))
        found = cv2.remap(then, x + flow[t, ..., 0], y + flow[t, ..., 1], cv2.INTER_LINEAR)
        inside = cv2.erode((drawn.layers[t] == 2).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        assert inside.sum() > 100
        assert np.abs(found - now)[inside].mean() < 0.5 * np.abs(then - now)[inside].mean()


@pytest.mark.parametrize(("motion", "tolerance"), [("RollLeft", 0.25), ("Bobbing", 0.25), ("Rolling", 0.5)])
def test_true_flow_is_near_an_estimate_from_the_decoded_video(tmp_path, motion, tolerance):
    # Large, so that Farneback's window of 15 px lies within the object; it is no truth itself, turning least.
    truths = small_set(tmp_path / "set", videos_per_class=8, classes=(motion, "Resting"), size=(320, 240))
    errors, lengths = [], []
    for name, truth in truths.items():
        if name.startswith(motion):
            found = farneback(grey(frames_of(tmp_path / "set", name)[3:5]))[0]
            inside = cv2.erode(truth.mask[3].astype(np.uint8), np.ones((15, 15), np.uint8)) > 0
            errors.append(np.linalg.norm(found - truth.flow[3], axis=-1)[inside])
            lengths.append(np.linalg.norm(truth.flow[3], axis=-1)[inside])
    assert np.median(np.concatenate(errors)) < tolerance * np.median(np.concatenate(lengths))
