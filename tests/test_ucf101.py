import collections
import csv
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.ucf101 import Video, draw_subset, label_index, read_classes, read_dataset

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
