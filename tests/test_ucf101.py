import collections
import csv
import os
import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from storage.datasets.ucf101 import (
    SUFFIXES,
    Video,
    choose_classes,
    class_label,
    draw_subset,
    label_index,
    read_classes,
    read_dataset,
    video_path,
)
from storage.videos.reader import count_frames

CLASSES = ("Archery", "Hammering", "HammerThrow", "HandstandPushups")


@pytest.fixture
def tree(tmp_path):
    """Four classes, one file each, in the train list; files hold no video, the reader opens none."""
    for name in CLASSES:
        action = "HandStandPushups" if name == "HandstandPushups" else name
        file = tmp_path / "UCF-101" / name / f"v_{action}_g01_c01.avi"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x" * len(name))
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    classes = "".join(f"{label} {name}\r\n" for label, name in enumerate(CLASSES, start=1))
    (lists / "classInd.txt").write_bytes(classes.encode())
    train = "".join(f"{name}/v_{name}_g01_c01.avi {label}\r\n" for label, name in enumerate(CLASSES, start=1))
    (lists / "trainlist01.txt").write_bytes(train.encode())
    (lists / "testlist01.txt").write_bytes(b"Archery/v_Archery_g02_c01.avi\r\n")
    return tmp_path


def add_line(tree, file, line):
    with open(tree / "ucfTrainTestlist" / file, "a", newline="") as list_file:
        list_file.write(f"{line}\r\n")


def test_the_tiny_data_set(tiny_ucf101, tiny_frames):
    dataset = read_dataset(tiny_ucf101)
    assert [video.name for video in dataset.videos] == sorted(tiny_frames)
    assert dataset.classes == CLASSES and dataset.absent == 5
    assert collections.Counter(video.split for video in dataset.videos) == {"train": 4, "test": 4, "none": 1}
    for video in dataset.videos:
        assert video.class_name == CLASSES[video.label] == video.name.partition("/")[0]
        assert (tiny_ucf101 / "UCF-101" / video.name).stat().st_size == video.size_bytes > 0
        assert video.path == str(tiny_ucf101 / "UCF-101" / video.name)


def test_names_match_in_any_capitals(tree):
    video = next(video for video in read_dataset(tree).videos if video.label == 3)
    assert video == Video(
        name="HandstandPushups/v_HandStandPushups_g01_c01.avi",
        class_name="HandstandPushups",
        label=3,
        group="HandstandPushups/g01",
        split="train",
        path=str(tree / "UCF-101" / "HandstandPushups" / "v_HandStandPushups_g01_c01.avi"),
        size_bytes=len("HandstandPushups"),
    )


def test_subsets_read_only_their_list(tree):
    assert len(read_dataset(tree, subset="train").videos) == 4
    (tree / "UCF-101" / "Archery" / "v_Archery_g02_c01.avi").write_bytes(b"x")
    (tree / "UCF-101" / "Archery" / "v_Archery_g03_c01.avi").write_bytes(b"x")
    (tree / "ucfTrainTestlist" / "trainlist01.txt").unlink()
    (only,) = read_dataset(tree, subset="test").videos
    assert only.name == "Archery/v_Archery_g02_c01.avi" and only.split == "test"


def test_what_is_not_a_video_is_passed_over(tree):
    (tree / "UCF-101" / ".DS_Store").write_bytes(b"x")
    (tree / "UCF-101" / "README").write_bytes(b"x")
    (tree / "UCF-101" / "Archery" / "._v_Archery_g01_c01.avi").write_bytes(b"x")
    (tree / "UCF-101" / "Archery" / "notes.txt").write_bytes(b"x")
    assert len(read_dataset(tree).videos) == 4


def test_thirteen_thousand_absent_videos_are_a_count(tree):
    for group in range(2, 100):
        for clip in range(1, 100):
            add_line(tree, "testlist01.txt", f"Archery/v_Archery_g{group:02d}_c{clip:02d}.avi")
    assert read_dataset(tree).absent == 98 * 99


def test_a_byte_order_mark_and_blank_lines_do_not_matter(tree):
    path = tree / "ucfTrainTestlist" / "classInd.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n\r\n")
    assert read_dataset(tree).classes == CLASSES


def test_links_inside_the_tree_are_followed(tree):
    folder = tree / "UCF-101" / "Archery"
    (folder / "v_Archery_g05_c01.avi").symlink_to("v_Archery_g01_c01.avi")
    assert len(read_dataset(tree).videos) == 5


@pytest.mark.parametrize("link", ["file", "folder"])
def test_links_out_of_the_tree_are_refused(tree, tmp_path_factory, link):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "v_Archery_g05_c01.avi").write_bytes(b"secret")
    folder = tree / "UCF-101" / "Archery"
    if link == "file":
        (folder / "v_Archery_g05_c01.avi").symlink_to(outside / "v_Archery_g05_c01.avi")
    else:
        (folder / "v_Archery_g01_c01.avi").unlink()
        folder.rmdir()
        folder.symlink_to(outside)
    with pytest.raises(ValueError, match="is a link to"):
        read_dataset(tree)


@pytest.mark.parametrize(
    ("file", "line", "words"),
    [
        ("classInd.txt", "0 Zumba", r"line 5: label '0' is not in 1\.\.5; labels count from 1"),
        ("classInd.txt", "102 Zumba", r"label '102' is not in 1\.\.5"),
        ("classInd.txt", "one Zumba", "label 'one'"),
        ("classInd.txt", "4 Zumba", "label 4 is already HandstandPushups"),
        ("classInd.txt", "5 archery", "give one line a class"),
        ("classInd.txt", "5", "is not '<label> <class>'"),
        ("classInd.txt", "5 ../etc", "is not '<label> <class>'"),
        ("trainlist01.txt", "Archery/v_Archery_g09_c01.avi 0", r"label '0' is not in 1\.\.4"),
        ("trainlist01.txt", "Archery/v_Archery_g09_c01.avi 102", r"label '102' is not in 1\.\.4"),
        ("trainlist01.txt", "Archery/v_Archery_g09_c01.avi -1", "label '-1'"),
        ("trainlist01.txt", "Archery/v_Archery_g09_c01.avi 2", "Archery has label 2, but 1 in classInd"),
        ("trainlist01.txt", "Archer/v_Archer_g09_c01.avi 1", "no class 'Archer' among.* mean 'Archery'"),
        ("trainlist01.txt", "Archery/v_Archery_g09_c01.avi 1 1", "is no entry"),
        ("testlist01.txt", "archery/v_archery_g01_c01.avi", "is in the train list too"),
        ("testlist01.txt", "../../etc/v_Archery_g01_c01.avi", "is no entry"),
        ("testlist01.txt", "Archery/../v_Archery_g01_c01.avi", "is no entry"),
        ("testlist01.txt", "/Archery/v_Archery_g01_c01.avi", "is no entry"),
        ("testlist01.txt", "http://host/v_Archery_g01_c01.avi", "is no entry"),
        ("testlist01.txt", "Archery\\v_Archery_g01_c01.avi", "is no entry"),
        ("testlist01.txt", "<!DOCTYPE html>", "is no entry"),
    ],
)
def test_bad_lists_give_one_line_with_the_place(tree, file, line, words):
    add_line(tree, file, line)
    with pytest.raises(ValueError, match=words) as error:
        read_dataset(tree)
    assert "\n" not in str(error.value) and file in str(error.value)


def test_missing_pieces_are_named(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        read_dataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no UCF-101/"):
        read_dataset(tree / "UCF-101")
    with pytest.raises(FileNotFoundError, match="trainlist02.txt is missing"):
        read_dataset(tree, split=2)
    (tree / "ucfTrainTestlist" / "classInd.txt").unlink()
    with pytest.raises(FileNotFoundError, match="classInd.txt is missing"):
        read_dataset(tree)


def test_no_video_at_all_is_an_error(tree):
    with pytest.raises(
        FileNotFoundError, match=r"no video of subset 'test' of split 1 \(1 are listed, 4 others"
    ):
        read_dataset(tree, subset="test")


def test_unreadable_and_empty_lists_are_refused(tree):
    path = tree / "ucfTrainTestlist" / "classInd.txt"
    path.write_bytes(b"\xff\xfe1\x00")
    with pytest.raises(ValueError, match="cannot be read as text"):
        read_dataset(tree)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="names 0 classes"):
        read_classes(path)


def test_bad_choices_list_the_allowed_ones(tree):
    with pytest.raises(ValueError, match="split is 4; allowed: 1, 2, 3"):
        read_dataset(tree, split=4)
    with pytest.raises(ValueError, match="subset is 'val'; allowed: all, train, test"):
        read_dataset(tree, subset="val")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Zumba/v_Zumba_g01_c01.avi", "no class 'Zumba'"),
        ("Archery/clip.avi", "is not named v_Archery_gNN_cNN.avi"),
        ("Archery/v_Hammering_g01_c01.avi", "is not named v_Archery_gNN_cNN.avi"),
        ("Archery/V_ARCHERY_G01_C01.AVI", "is there twice"),
    ],
)
def test_bad_folders_give_one_line(tree, name, words):
    file = tree / "UCF-101" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"x")
    with pytest.raises(ValueError, match=words) as error:
        read_dataset(tree)
    assert "\n" not in str(error.value)


def pool(sizes):
    return [
        Video(f"{name}/v_{name}_g{i:02d}_c01.avi", name, label, f"{name}/g{i:02d}", "train", "", 1)
        for label, (name, size) in enumerate(sizes.items())
        for i in range(size)
    ]


@given(
    sizes=st.dictionaries(st.sampled_from("ABCDEFG"), st.integers(1, 9), min_size=1),
    share=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_a_draw_is_as_even_as_the_classes_allow(sizes, share, seed):
    videos = pool(sizes)
    n = max(1, round(share * len(videos)))
    drawn = draw_subset(videos, n, seed=seed)
    assert len(set(drawn)) == n and set(drawn) <= set(videos)
    assert [video.name for video in drawn] == sorted(video.name for video in drawn)
    counts = collections.Counter(video.class_name for video in drawn)
    fullest = max(counts.values())
    assert all(counts[name] >= min(size, fullest - 1) for name, size in sizes.items())
    random.Random(seed).shuffle(videos)
    assert draw_subset(videos, n, seed=seed) == drawn


def test_the_papers_draw_is_ten_a_class():
    drawn = draw_subset(pool({f"C{i:03d}": 100 + i for i in range(101)}), 1010, seed=0)
    assert set(collections.Counter(video.class_name for video in drawn).values()) == {10}


def test_seeds_differ_and_a_seeds_draw_is_pinned():
    videos = pool({"A": 20, "B": 20})
    assert draw_subset(videos, 4, seed=0) != draw_subset(videos, 4, seed=1)
    names = [video.name.partition("/")[2] for video in draw_subset(videos, 4, seed=0)]
    assert names == ["v_A_g11_c01.avi", "v_A_g18_c01.avi", "v_B_g01_c01.avi", "v_B_g02_c01.avi"]


@pytest.mark.parametrize("n", [0, -1, 4])
def test_a_draw_of_more_than_there_are_is_refused(n):
    with pytest.raises(ValueError, match="ask for 1 to 3"):
        draw_subset(pool({"A": 3}), n, seed=0)


def test_sorted_labels_swap_hammering_and_hammer_throw():
    assert label_index(CLASSES, "classInd") == [0, 1, 2, 3]
    assert label_index(CLASSES, "sorted") == [0, 2, 1, 3]
    with pytest.raises(ValueError, match="allowed: classInd, sorted"):
        label_index(CLASSES, "alphabetical")


def test_the_published_lists_swap_exactly_two_pairs(shared_data):
    classes = read_classes(shared_data / "ucf101-mini" / "ucfTrainTestlist" / "classInd.txt")
    swapped = {classes[i] for i, output in enumerate(label_index(classes, "sorted")) if i != output}
    assert len(classes) == 101
    assert swapped == {"Hammering", "HammerThrow", "JumpingJack", "JumpRope"}


@pytest.mark.parametrize("split", [1, 2, 3])
def test_the_real_videos_have_the_splits_of_the_manifest(shared_data, split):
    data = shared_data / "ucf101-mini"
    dataset = read_dataset(data, split=split)
    with open(data / "manifest.csv") as manifest:
        rows = {row["file"].partition("/")[2]: row for row in csv.DictReader(manifest)}
    assert {video.name for video in dataset.videos} == set(rows)
    assert dataset.absent == 13_320 - 124
    for video in dataset.videos:
        row = rows[video.name]
        assert (video.split, video.class_name, video.size_bytes) == (
            row[f"split{split}"],
            row["class"],
            int(row["bytes"]),
        )
        assert video.group == f"{row['class']}/g{int(row['group']):02d}"


NAMES = (
    "Füße",
    "Golf Swing",
    "हिन्दी नृत्य",
    "رقص شرقی",
    "می\u200cخواهم",
    "跳舞",
    "R&B (live)",
    "Rock'n'roll, fast",
)
# What OpenCV writes into a container; mp4v into the others.
CODECS = dict.fromkeys((".mpg", ".mpeg", ".ts", ".mts", ".m2ts"), "MPG1") | {
    ".avi": "MJPG",
    ".mkv": "MJPG",
    ".webm": "VP80",
}


def named_tree(root, names, *, form="NFC", suffix=".avi"):
    """A class each, with one file; names on disk in a Unicode form of their own, lists in NFC."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    for name in names:
        file = root / "UCF-101" / unicodedata.normalize(form, f"{name}/v_{name}_g01_c01{suffix}")
        file.parent.mkdir(parents=True)
        file.write_bytes(b"x")
    labelled = list(enumerate(names, start=1))
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in labelled))
    (lists / "trainlist01.txt").write_text("".join(f"{a}/v_{a}_g01_c01.avi {n}\n" for n, a in labelled))
    (lists / "testlist01.txt").write_text("")
    return root


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_class_names_of_any_script_and_with_spaces(tmp_path, form):
    dataset = read_dataset(named_tree(tmp_path, NAMES, form=form))
    assert dataset.classes == tuple(unicodedata.normalize("NFC", name) for name in NAMES)
    assert {video.class_name for video in dataset.videos} == set(dataset.classes)
    assert {video.split for video in dataset.videos} == {"train"} and dataset.absent == 0
    for video in dataset.videos:
        assert video.class_name == dataset.classes[video.label]
        assert video_path(tmp_path, video.name) == video.path and os.path.isfile(video.path)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_classes_are_chosen_in_any_capitals_and_unicode_form(tmp_path, form):
    dataset = read_dataset(named_tree(tmp_path, NAMES))
    asked = [unicodedata.normalize(form, name) for name in ("füße", "GOLF  SWING", "跳舞")]
    assert choose_classes(dataset, asked).classes == ("Füße", "Golf Swing", "跳舞")
    assert choose_classes(dataset, ["FÜSSE"]).classes == ("Füße",)
    with pytest.raises(ValueError, match="class 'Golf Swign'.*Golf Swing"):
        choose_classes(dataset, ["Golf Swign"])


def test_words_that_differ_are_classes_that_differ(tmp_path):
    """Case folding makes ss of ß, and capitals differ in Turkish."""
    dataset = read_dataset(named_tree(tmp_path, ("Masse", "Maße", "kız", "kiz", "Kaffee")))
    assert len(dataset.classes) == 5 and len(dataset.videos) == 5
    assert [class_label(name, dataset.classes) for name in ("masse", "maße", "MASSE", "MAẞE")] == [0, 1, 0, 1]
    assert [class_label(name, dataset.classes) for name in ("kız", "KIZ", "kaffee")] == [2, 3, 4]
    assert class_label("Kafee", dataset.classes) is None


def test_the_label_is_what_follows_the_last_suffix(tmp_path):
    names = ("Golf", "Golf 2", "The A.avi 1")
    root = named_tree(tmp_path, names)
    dataset = read_dataset(root)
    assert dataset.classes == names and [video.split for video in dataset.videos] == ["train"] * 3
    path = root / "ucfTrainTestlist" / "trainlist01.txt"
    path.write_text(path.read_text().replace(" 2\n", "\t2  \n").replace(" 1\n", "\n"))
    assert [video.split for video in read_dataset(root).videos] == ["train"] * 3
    add_line(root, "trainlist01.txt", "Golf 2/v_Golf 2_g02_c01.avi 1")
    with pytest.raises(ValueError, match="Golf 2 has label 1, but 2 in classInd"):
        read_dataset(root)


def test_tabs_and_spaces_may_stand_between_label_and_class(tmp_path):
    path = tmp_path / "classInd.txt"
    path.write_text("1\tGolf Swing \n2   Füße\n")
    assert read_classes(path) == ("Golf Swing", "Füße")


@pytest.mark.parametrize(
    "name",
    ["a/b", "a\\b", "a<b", "a\x1bb", "a\u202eb", ".hidden", "a\ue000b", "a:b", "a|b", "a\u2028b"],
)
def test_class_names_that_no_folder_should_have_are_refused(tmp_path, name):
    path = tmp_path / "classInd.txt"
    path.write_text(f"1 Archery\n2 {name}\n")
    with pytest.raises(ValueError, match="is not '<label> <class>'") as error:
        read_classes(path)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_a_name_that_is_no_unicode_is_quoted_and_refused(tree):
    os.mkdir(os.fsencode(tree / "UCF-101") + b"/F\xfc\xdfe")
    with pytest.raises(ValueError, match=r"class 'F\\udcfc\\udcdfe'"):
        read_dataset(tree)


def test_files_of_a_class_with_spaces_may_be_named_without(tmp_path):
    root = named_tree(tmp_path, ("Golf Swing",))
    (root / "UCF-101" / "Golf Swing" / "v_GolfSwing_g02_c01.avi").write_bytes(b"x")
    (root / "UCF-101" / "Golf Swing" / "v_golf_swing_g03_c01.avi").write_bytes(b"x")
    add_line(root, "testlist01.txt", "Golf Swing/v_Golf Swing_g02_c01.avi")
    assert [video.split for video in read_dataset(root).videos] == ["train", "test", "none"]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".AVI", ".Mp4"])
def test_every_container_is_listed_and_read_whatever_the_lists_call_it(
    tmp_path, make_avi, make_frames, suffix
):
    root = named_tree(tmp_path, ("Archery",), suffix=suffix)
    (video,) = read_dataset(root).videos
    assert (video.name, video.split) == (f"Archery/v_Archery_g01_c01{suffix}", "train")
    assert video_path(root, video.name) == video.path
    plain, frames = tmp_path / f"written{suffix.lower()}", make_frames(12)
    if suffix == ".gif":
        first, *rest = map(Image.fromarray, frames)
        first.save(plain, save_all=True, append_images=rest, duration=40)
    else:
        make_avi(plain, frames, codec=CODECS.get(suffix.lower(), "mp4v"))
    plain.replace(video.path)
    assert count_frames(video.path).n_frames == 12


def test_one_video_in_two_containers_is_refused(tree):
    (tree / "UCF-101" / "Archery" / "v_Archery_g01_c01.mp4").write_bytes(b"x")
    with pytest.raises(
        ValueError, match=r"_c01\.mp4' is there twice, also as 'Archery/v_Archery_g01_c01\.avi'"
    ):
        read_dataset(tree)


def test_what_is_no_video_in_its_place_is_counted_in_one_line(tree):
    assert read_dataset(tree).passed_over_note == ""
    archery = tree / "UCF-101" / "Archery"
    for name in ("notes.txt", "more.TXT", "clip.wmv", "Thumbs.db", "LICENSE"):
        (archery / name).write_bytes(b"x")
    (archery / "a.\x1b[2J").write_bytes(b"x")
    (archery / "nested").mkdir()
    (tree / "UCF-101" / "v_Archery_g09_c01.avi").write_bytes(b"x")
    # Hidden files are none of a data set: a Mac writes one beside every file of an archive.
    for name in ("._v_Archery_g01_c01.avi", ".DS_Store"):
        (archery / name).write_bytes(b"x")
    dataset = read_dataset(tree)
    assert len(dataset.videos) == 4 and len(dataset.passed_over) == 8
    note = dataset.passed_over_note
    assert "over: 2 .txt, 2 without a suffix, 1 .avi, 1 .db, 1 .wmv, 1 others; such" in note
    assert not {"\n", "\x1b"} & set(note)
    assert "such as 'Archery/LICENSE'" in note and ".mp4" in note


def test_a_large_data_set_is_listed_in_a_moment(tmp_path):
    """As many classes and videos as UCF-101 has: names are not compared one with all."""
    names = [f"Clässe {n:03d}" for n in range(101)]
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{n} {name}\n" for n, name in enumerate(names, start=1)))
    entries = [
        f"{name}/v_{name}_g{g:02d}_c{c:02d}.avi" for name in names for g in range(1, 26) for c in (1, 2, 3)
    ]
    (lists / "trainlist01.txt").write_text("".join(f"{entry}\n" for entry in entries))
    (lists / "testlist01.txt").write_text("")
    (tmp_path / "UCF-101" / names[0]).mkdir(parents=True)
    (tmp_path / "UCF-101" / entries[0]).write_bytes(b"x")
    comparisons = 0
    plain = unicodedata.normalize

    def counted(form, text):
        nonlocal comparisons
        comparisons += 1
        return plain(form, text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storage.datasets.ucf101.unicodedata.normalize", counted)
        assert read_dataset(tmp_path).absent == len(entries) - 1
    assert comparisons < 40 * len(names) ** 2
