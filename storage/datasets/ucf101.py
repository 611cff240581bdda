"""Reads UCF-101 as it is published: class folders of videos, and the lists of three splits.

Soomro et al. 2012, *UCF101: a dataset of 101 human actions classes from videos in the wild*. The
lists are only ever compared with what the folders hold: no path is built from a list entry. Class names may
be of any script and have spaces; they are compared in any capitals and in any Unicode form, since archives
made on a Mac hold decomposed names (NFD) where lists hold composed ones (NFC). A list's entry names a video
whatever its container: what was published as an AVI may lie there as an MP4.
"""

import difflib
import hashlib
import os
import re
import stat
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from typing import Literal

Split = Literal["train", "test", "none"]
Subset = Literal["all", "train", "test"]
LabelOrder = Literal["classInd", "sorted"]

VIDEOS = "UCF-101"
LISTS = "ucfTrainTestlist"
SPLITS = (1, 2, 3)
SUBSETS = ("all", "train", "test")
MAX_LIST_BYTES = 2**26
LABEL_ORDERS = ("classInd", "sorted")

# Of the containers that `storage.videos.reader` opens.
SUFFIXES = (
    ".3gp", ".avi", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm",
)  # fmt: skip

_SUFFIX = "|".join(suffix[1:] for suffix in SUFFIXES)
_FILE_NAME = re.compile(
    rf"v_(?P<action>.+)_g(?P<group>[0-9]+)_c(?P<clip>[0-9]+)\.(?:{_SUFFIX})", re.IGNORECASE
)
# The label comes after the last suffix: folder and file may have spaces.
_ENTRY = re.compile(rf"(?P<folder>[^/]+)/(?P<file>[^/]+\.(?:{_SUFFIX}))(?:\s+(?P<label>\S+))?", re.IGNORECASE)
# What a class can't be called: paths, what Windows has no files of, and what no reader would see: control
# characters and directions (but the joiners, which some scripts need), what is unassigned or not Unicode.
_NO_NAME = re.compile(r'[<>:"/\\|?*]')
_UNSEEN = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class Video:
    """One video on disk.

    Attributes
    ----------
    name : str
        Folder and file as on disk, such as ``ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi``.
    class_name : str
        As in classInd.txt, in Unicode's composed form (NFC).
    label : int
        From 0, in classInd.txt's order.
    group : str
        Videos cut from the same footage share it, such as ``ApplyEyeMakeup/g01``.
    split : "train", "test" or "none"
        The list that names the video; "none" when neither does.
    path : str
        The file.
    size_bytes : int
        Its size.
    """

    name: str
    class_name: str
    label: int
    group: str
    split: Split
    path: str
    size_bytes: int


@dataclass(frozen=True)
class Dataset:
    """The videos of a data set that are on disk.

    Attributes
    ----------
    videos : tuple of Video
        Sorted by name.
    classes : tuple of str
        In classInd.txt's order.
    absent : int
        Entries of the lists read that are not on disk.
    passed_over : tuple of str
        What lies in the folders and is no video in its place, by name; hidden files are left out.
    """

    videos: tuple[Video, ...]
    classes: tuple[str, ...]
    absent: int
    passed_over: tuple[str, ...] = ()

    @property
    def passed_over_note(self) -> str:
        """One line about what was passed over: how many of each kind, and one of them; empty if nothing."""
        if not self.passed_over:
            return ""
        kinds = Counter(_kind(name) for name in self.passed_over)
        counts = ", ".join(
            f"{n:,} {kind}" for kind, n in sorted(kinds.items(), key=lambda one: (-one[1], one[0]))
        )
        return (
            f"{VIDEOS}/ also holds what is no video in a class folder, and is passed over: {counts}; such as "
            f"{self.passed_over[0]!r} (videos end in {', '.join(SUFFIXES)})"
        )


def read_dataset(data_dir: str | os.PathLike[str], *, split: int = 1, subset: str = "all") -> Dataset:
    """Read which videos of UCF-101 there are, and the class and split of each.

    Parameters
    ----------
    data_dir : path
        The directory that holds ``UCF-101/`` and ``ucfTrainTestlist/``.
    split : {1, 2, 3}
        Which of the three pairs of lists.
    subset : {"all", "train", "test"}
        "all" also keeps videos that neither list names.

    Returns
    -------
    Dataset
        The videos on disk; the absent ones are only counted.

    Raises
    ------
    FileNotFoundError
        If the directory, its folders, a list, or every video is missing.
    ValueError
        If a list or a folder does not have UCF-101's form: an unknown class, a label outside
        1..n, an entry or a link that leads out of the tree, one video in both lists.
    """
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed: {', '.join(map(str, SPLITS))}")
    if subset not in SUBSETS:
        raise ValueError(f"subset is {subset!r}; allowed: {', '.join(SUBSETS)}")
    root = os.path.abspath(os.fspath(data_dir))
    lists, folder = _directories(root)
    classes = read_classes(os.path.join(lists, "classInd.txt"))
    splits = _read_splits(lists, split, subset, classes)
    passed_over: list[str] = []
    on_disk = _videos(folder, classes, splits, passed_over)
    kept = [video for video in on_disk.values() if subset in ("all", video.split)]
    absent = len(splits.keys() - on_disk.keys())
    if not kept:
        raise FileNotFoundError(
            f"{folder} has no video of subset {subset!r} of split {split} ({absent} are listed, "
            f"{len(on_disk)} others are there); check --data, --split and --subset"
        )
    videos = tuple(sorted(kept, key=lambda video: video.name))
    return Dataset(videos, classes, absent, tuple(passed_over))


def list_files(data_dir: str | os.PathLike[str], *, split: int, subset: str) -> dict[str, str]:
    """Files of the lists that `read_dataset` reads, by name, such as ``ucfTrainTestlist/classInd.txt``."""
    kinds = [kind for kind in ("train", "test") if subset in ("all", kind)]
    names = ["classInd.txt", *(f"{kind}list{split:02d}.txt" for kind in kinds)]
    lists = os.path.join(os.path.abspath(os.fspath(data_dir)), LISTS)
    return {f"{LISTS}/{name}": os.path.join(lists, name) for name in names}


def file_path(data_dir: str | os.PathLike[str], name: str) -> str:
    """Path of a video or list of a data set by its name; errors as `video_path`."""
    for split in SPLITS:
        lists = list_files(data_dir, split=split, subset="all")
        if name in lists:
            return lists[name]
    return video_path(data_dir, name)


def video_path(data_dir: str | os.PathLike[str], name: str) -> str:
    """Path of a video of a data set by its name, `Video.name`.

    Raises
    ------
    ValueError
        If it is no such name, or has become a link that leads out of the tree: names come from a store,
        where others may write.
    """
    folder = _directories(os.path.abspath(os.fspath(data_dir)))[1]
    class_name, _, file = name.partition("/")
    if not (_is_name(class_name) and _is_name(file) and _FILE_NAME.fullmatch(file)):
        raise ValueError(f"{name!r} is no video of a data set; allowed is '<class>/v_<class>_gNN_cNN.avi'")
    path = os.path.join(folder, name)
    _check_inside(path, folder)
    return path


def read_classes(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read classInd.txt: the class names in label order.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is not ``<label> <class>``, or the labels are not 1..n, each once.
    """
    names: dict[int, str] = {}
    lines = list(_lines(os.fspath(path)))
    for where, line in lines:
        label, *rest = line.split(maxsplit=1)
        name = unicodedata.normalize("NFC", "".join(rest))
        if not _is_name(name):
            raise ValueError(f"{where}: {line[:80]!r} is not '<label> <class>', such as '1 ApplyEyeMakeup'")
        if names.setdefault(_checked_label(label, len(lines), where), name) != name:
            raise ValueError(
                f"{where}: label {label} is already {names[int(label)]}; give each class its own"
            )
    if len({_folded(name) for name in names.values()}) != len(lines) or not names:
        raise ValueError(f"{path}: names {len(names)} classes in {len(lines)} lines; give one line a class")
    return tuple(names[label] for label in sorted(names))


def draw_subset(videos: Sequence[Video], n: int, *, seed: int) -> tuple[Video, ...]:
    """Draw videos at random, as evenly over the classes as they allow.

    Parameters
    ----------
    videos : sequence of Video
        What to draw from.
    n : int
        How many; 1,010 gives 10 a class on the whole of UCF-101, as many as the paper drew.
    seed : int
        Another seed, another draw. The draw depends on nothing else: not on the order of `videos`,
        the machine or a library's version.

    Returns
    -------
    tuple of Video
        Sorted by name. The classes take turns; one that has run out is passed over.

    Raises
    ------
    ValueError
        If `n` is not in 1..len(videos).
    """
    if not 1 <= n <= len(videos):
        raise ValueError(f"cannot draw {n} of {len(videos)} videos; ask for 1 to {len(videos)}")
    by_class: dict[str, list[Video]] = defaultdict(list)
    for video in sorted(videos, key=lambda video: _lot(seed, video.name)):
        by_class[video.class_name].append(video)
    turns = sorted(by_class, key=lambda class_name: _lot(seed, class_name))
    rounds = zip_longest(*(by_class[class_name] for class_name in turns))
    drawn = [video for turn in rounds for video in turn if video is not None][:n]
    return tuple(sorted(drawn, key=lambda video: video.name))


def only_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Keep the videos of some classes; the others stay classes of the data set, and labels stay as they are.

    Parameters and errors as `choose_classes`.
    """
    kept = _labels_of(dataset, names)
    videos = tuple(video for video in dataset.videos if video.label in kept)
    if not videos:
        raise ValueError(f"none of the videos found is of {', '.join(names)}; choose other classes or lists")
    return replace(dataset, videos=videos)


def choose_classes(dataset: Dataset, names: Sequence[str]) -> Dataset:
    """Keep the videos of some classes, as if the data set had no others.

    Parameters
    ----------
    dataset : Dataset
        What to choose from.
    names : sequence of str
        Classes of classInd.txt, in any order and in capitals or not.

    Returns
    -------
    Dataset
        The classes still in classInd.txt's order, their labels 0, 1, 2, .. in it.

    Raises
    ------
    ValueError
        If a name is unknown or given twice, or none of the classes has a video here.
    """
    kept = _labels_of(dataset, names)
    labels = {label: place for place, label in enumerate(kept)}
    videos = tuple(replace(v, label=labels[v.label]) for v in only_classes(dataset, names).videos)
    return replace(dataset, videos=videos, classes=tuple(dataset.classes[label] for label in kept))


def _labels_of(dataset: Dataset, names: Sequence[str]) -> list[int]:
    kept = sorted({_checked_class(name, "--classes", dataset.classes) for name in names})
    if len(kept) != len(names):
        raise ValueError(f"--classes names one of {', '.join(names)} twice; give each class once")
    return kept


def unknown_class(name: str, classes: Sequence[str]) -> str:
    """Say that there is no class of a name, and which is nearest."""
    by_lower = {known.lower(): known for known in classes}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1)
    like = f"did you mean {by_lower[near[0]]!r}?" if near else f"one of them is {classes[0]!r}"
    return f"no class {name!r} among the {len(classes)}; {like}"


def hold_out(
    videos: Sequence[Video], groups: int, *, seed: int
) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """Divide videos into those to learn from and those to be judged on, by group, never by clip.

    Parameters
    ----------
    videos : sequence of Video
        What to divide.
    groups : int
        Groups of each class to hold out; a class keeps one to learn from, whatever is asked for.
    seed : int
        Another seed, other groups. The choice depends on nothing else.

    Returns
    -------
    learn, held_out : tuples of Video
        In the order given; no group is in both.

    Raises
    ------
    ValueError
        If there is nothing to hold out: no class has a second group.
    """
    by_class: dict[str, set[str]] = defaultdict(set)
    for video in videos:
        by_class[video.class_name].add(video.group)
    held: set[str] = set()
    for own in by_class.values():
        drawn = sorted(own, key=lambda group: _lot(seed, group))
        held.update(drawn[: min(groups, len(drawn) - 1)])
    if not held:
        raise ValueError(
            "no class has a second group, so none can be held out; choose other classes, lists or subset"
        )
    learn = tuple(video for video in videos if video.group not in held)
    return learn, tuple(video for video in videos if video.group in held)


def label_index(classes: Sequence[str], order: str) -> list[int]:
    """Map labels to the outputs of a model.

    Parameters
    ----------
    classes : sequence of str
        In classInd.txt's order.
    order : "classInd" or "sorted"
        The order that the model was trained on. Python's `sorted` puts HammerThrow before Hammering
        and JumpRope before JumpingJack, classInd.txt after.

    Returns
    -------
    list of int
        Entry k is the model's output for label k.

    Raises
    ------
    ValueError
        If the order is unknown.
    """
    if order not in LABEL_ORDERS:
        raise ValueError(f"label order is {order!r}; allowed: {', '.join(LABEL_ORDERS)}")
    outputs = {name: output for output, name in enumerate(sorted(classes) if order == "sorted" else classes)}
    return [outputs[name] for name in classes]


def _directories(root: str) -> tuple[str, str]:
    if not os.path.isdir(root):
        raise FileNotFoundError(f"{root} is not a directory; give the one that holds {VIDEOS}/ and {LISTS}/")
    lists, folder = os.path.join(root, LISTS), os.path.join(root, VIDEOS)
    for path in (folder, lists):
        if not os.path.isdir(path):
            raise FileNotFoundError(
                f"{root} holds no {os.path.basename(path)}/; "
                f"give the directory that holds {VIDEOS}/ and {LISTS}/"
            )
    return lists, folder


# A video's label, group and clip, which tell it apart whatever the spelling and the container.
_Key = tuple[int, str, str]


def _read_splits(lists: str, split: int, subset: str, classes: Sequence[str]) -> dict[_Key, Split]:
    """Read the split of every entry of the lists that matter."""
    wanted: tuple[Split, ...] = ("train", "test")
    splits: dict[_Key, Split] = {}
    for kind in wanted:
        if subset in ("all", kind):
            path = os.path.join(lists, f"{kind}list{split:02d}.txt")
            for where, line in _lines(path):
                # Check a list entry, ``<class>/<file> [<label>]``.
                entry = _ENTRY.fullmatch(line)
                file = (
                    entry
                    and _is_name(entry["folder"])
                    and _is_name(entry["file"])
                    and _FILE_NAME.fullmatch(entry["file"])
                )
                if not entry or not file:
                    raise ValueError(
                        f"{where}: {line[:80]!r} is no entry of this data set; allowed is "
                        "'<class>/v_<class>_gNN_cNN.avi <label>' inside the tree"
                    )
                label = _checked_class(entry["folder"], where, classes)
                if entry["label"] and _checked_label(entry["label"], len(classes), where) != label + 1:
                    raise ValueError(
                        f"{where}: {entry['folder']} has label {entry['label']}, but {label + 1} in "
                        "classInd.txt; correct one"
                    )
                key = label, file["group"], file["clip"]
                if splits.setdefault(key, kind) != kind:
                    raise ValueError(
                        f"{where}: {line[:80]} is in the train list too; a video belongs to one of them"
                    )
    return splits


def _checked_class(name: str, where: str, classes: Sequence[str]) -> int:
    """Find the label, from 0, of a class folder."""
    label = class_label(name, tuple(classes))
    if label is None:
        raise ValueError(f"{where}: {unknown_class(name, classes)}")
    return label


@lru_cache(maxsize=4096)
def class_label(name: str, classes: tuple[str, ...]) -> int | None:
    """Find the label, from 0, of a class by its name, in any capitals and Unicode form; None if it has none.

    Capitals are those of Unicode: FÜSSE is Füße, unless another class is called Füsse.
    """
    for form in (_composed, _folded, _caseless):
        found = [label for label, known in enumerate(classes) if form(known) == form(name)]
        if len(found) == 1:
            return found[0]
    return None


def _composed(name: str) -> str:
    return " ".join(unicodedata.normalize("NFC", name).split())


def _folded(name: str) -> str:
    """A name without its capitals; ß and ss stay apart, since they make different words."""
    return unicodedata.normalize("NFC", _composed(name).lower())


def _caseless(name: str) -> str:
    """A name as Unicode compares it regardless of case (definition D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", _composed(name)).casefold())


def _is_name(name: str) -> bool:
    """Whether a class folder or a file may be called so."""
    if name.isascii():
        seen = [name.isprintable()]
    else:
        seen = [char in _JOINERS or unicodedata.category(char) not in _UNSEEN for char in name]
    return bool(name.strip()) and not name.startswith(".") and not _NO_NAME.search(name) and all(seen)


def _checked_label(text: str, n_classes: int, where: str) -> int:
    """Check a label of a list, which counts from 1."""
    if not re.fullmatch(r"[0-9]{1,6}", text) or not 1 <= int(text) <= n_classes:
        raise ValueError(f"{where}: label {text[:20]!r} is not in 1..{n_classes}; labels count from 1")
    return int(text)


def _lines(path: str) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of the lines that are not blank."""
    try:
        # A pipe would be waited for, and a device never ends.
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_LIST_BYTES:
            raise OSError(f"not a regular file of up to {MAX_LIST_BYTES:,} bytes")
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if text := line.strip():
                    yield f"{path}, line {number}", text
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is missing; it belongs to UCF-101's published lists") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} cannot be read as text ({error}); restore UCF-101's published list"
        ) from error


def _videos(
    folder: str, classes: Sequence[str], splits: Mapping[_Key, Split], passed_over: list[str]
) -> dict[_Key, Video]:
    """Find every video on disk; folders and files with a leading dot are not part of the data set."""
    found: dict[_Key, Video] = {}
    for directory in _visible(folder):
        if not directory.is_dir():
            passed_over.append(directory.name)
            continue
        label = _checked_class(directory.name, folder, classes)
        for file in _visible(directory.path):
            name = f"{directory.name}/{file.name}"
            if not file.name.lower().endswith(SUFFIXES):
                passed_over.append(name)
                continue
            if file.is_symlink() or directory.is_symlink():
                _check_inside(file.path, folder)
            match = _FILE_NAME.fullmatch(file.name) if _is_name(file.name) else None
            # Of a class whose name has spaces, files are often named without.
            if match is None or _unspaced(match["action"]) != _unspaced(classes[label]):
                raise ValueError(
                    f"{file.path!r} is not named v_{classes[label]}_gNN_cNN{os.path.splitext(file.name)[1]}; "
                    "rename it, or move it away"
                )
            key = label, match["group"], match["clip"]
            if key in found:
                raise ValueError(
                    f"{folder}: {name!r} is there twice, also as {found[key].name!r}; delete one"
                )
            try:
                size_bytes = file.stat().st_size
            except OSError as error:
                raise FileNotFoundError(
                    f"{file.path!r} cannot be read ({error.strerror}); restore or delete it"
                ) from error
            group = f"{classes[label]}/g{int(key[1]):02d}"
            split = splits.get(key, "none")
            found[key] = Video(name, classes[label], label, group, split, file.path, size_bytes)
    return found


def _kind(name: str) -> str:
    """What kind of file a name is of, for counting; a suffix may be anything, so only plain ones are told."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if re.fullmatch(r"\.[a-z0-9]{1,8}", suffix) else "others" if suffix else "without a suffix"


def _visible(directory: str) -> list["os.DirEntry[str]"]:
    with os.scandir(directory) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda entry: entry.name)


def _check_inside(path: str, folder: str) -> None:
    """Refuse a path that leads out of the videos' folder by a link."""
    target, tree = os.path.realpath(path), os.path.realpath(folder)
    if os.path.commonpath((target, tree)) != tree:
        raise ValueError(f"{path!r} is a link to {target!r}, outside {tree}; copy the video there")


def _unspaced(name: str) -> str:
    return re.sub(r"[\s_]+", "", _caseless(name))


def _lot(seed: int, name: str) -> bytes:
    # A hash, since random generators do not promise the same draw in their next version.
    return hashlib.sha256(f"{seed} {name}".encode()).digest()
