"""A small action set in UCF-101's layout, of which the truth is known: what tells the class, what moves.

Unless asked otherwise, the classes differ by motion only: every group number shows the same scene
(background and object) in every class. The truth lies outside the ``UCF-101`` tree, so a reader of UCF-101
never meets it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from storage.drawn.scenes import (
    CLASSES,
    Drawn,
    Scene,
    Setting,
    draw_scene,
    draw_video,
    moves_by_itself,
    true_flow,
)

FPS = 25.0
CODEC = "XVID"
N_SPLITS = 3


@dataclass(frozen=True)
class Manifest:
    """What a data set was made from; equal manifests make equal data sets.

    Attributes
    ----------
    videos_per_class, groups, seed : int
        As given to `make_dataset`.
    frames : tuple of int
        Fewest and most frames a video can have.
    classes : tuple of str
        In the order of ``classInd.txt``.
    n_videos : int
        Videos in all.
    setting : Setting
        How they are drawn.
    """

    videos_per_class: int
    groups: int
    seed: int
    frames: tuple[int, int]
    classes: tuple[str, ...]
    n_videos: int
    setting: Setting


@dataclass(frozen=True)
class Truth:
    """What is true of one video, at the size it was drawn.

    Attributes
    ----------
    motion : str
        The class whose motion the object makes.
    kind : int
        The kind of scene: the label, from 0, of the class that has it as its own.
    moves : bool
        Whether the object that decides moves by itself (camera apart).
    camera : float32, (time, 2)
        How far the camera has shifted everything, (x, y) in px.
    layers : uint8, (time, y, x)
        What is seen at each pixel: 0 the background, the last layer the object that decides.
    poses : float32, (layer, time, 4)
        Where each layer is: x, y, angle in degrees, scale.
    """

    motion: str
    kind: int
    moves: bool
    camera: npt.NDArray[np.float32]
    layers: npt.NDArray[np.uint8]
    poses: npt.NDArray[np.float32]

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Where the object that decides is seen, ``(time, y, x)``."""
        seen: npt.NDArray[np.bool_] = self.layers == len(self.poses) - 1
        return seen

    @property
    def moving(self) -> npt.NDArray[np.bool_]:
        """Where anything is seen that moves by itself, ``(time, y, x)``."""
        moves: npt.NDArray[np.bool_] = moves_by_itself(self.poses, self.camera)[self.layers]
        return moves

    @property
    def flow(self) -> npt.NDArray[np.float32]:
        """The exact flow, px/frame: ``(time, y, x, 2)``, to the next frame; NaN in the last."""
        return true_flow(self.layers, self.poses)


def make_dataset(
    directory: str | os.PathLike[str],
    *,
    videos_per_class: int = 8,
    groups: int = 4,
    frames: tuple[int, int] = (40, 80),
    seed: int = 0,
    classes: Sequence[str] = CLASSES,
    setting: Setting | None = None,
) -> Manifest:
    """Write the synthetic action set, lists and truth included; find it if it is there already.

    Writes ``UCF-101/<Class>/v_<Class>_gNN_cNN.avi`` (25 fps, Xvid),
    ``ucfTrainTestlist/{classInd,trainlist0N,testlist0N}.txt`` (CRLF) and, for each video,
    ``truth/<Class>/v_<Class>_gNN_cNN.npz`` (see `read_truth`). Group k, k + 4, k + 8, .. are the test part
    of split k. The directory appears when it is complete, never half-written.

    Parameters
    ----------
    directory : path
        Must not exist, or hold the same data set already.
    videos_per_class : int
        At least `groups`; dealt to the groups in turn.
    groups : int
        3 to 99: each split needs a test group.
    frames : tuple of int
        Fewest (at least 2) and most frames of a video.
    seed : int
        Not negative. Same arguments, same videos.
    classes : sequence of str
        Two or more of `storage.drawn.scenes.CLASSES`.
    setting : Setting, optional
        What tells the class, and all else about the drawing; by default motion alone.

    Returns
    -------
    Manifest
        What was made, or found.

    Raises
    ------
    ValueError
        A number out of range, or an unknown class.
    FileExistsError
        The directory holds something else.
    """
    _check(videos_per_class=videos_per_class, groups=groups, frames=frames, seed=seed, classes=classes)
    target = Path(directory)
    manifest = Manifest(
        videos_per_class,
        groups,
        seed,
        frames,
        tuple(classes),
        videos_per_class * len(classes),
        setting or Setting(),
    )
    if target.exists():
        record = target / "truth" / "manifest.json"
        stored: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        if stored != json.loads(json.dumps(asdict(manifest))):
            raise FileExistsError(
                f"{target} exists and is not this synthetic data set; choose another directory or remove it"
            )
        return manifest
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write_videos(partial, manifest)
    _write_lists(partial / "ucfTrainTestlist", manifest)
    (partial / "truth" / "manifest.json").write_text(json.dumps(asdict(manifest)), encoding="utf-8")
    partial.rename(target)
    return manifest


def read_truth(directory: str | os.PathLike[str], name: str) -> Truth:
    """Read what is true of one video of the set.

    Parameters
    ----------
    directory : path
        As given to `make_dataset`.
    name : str
        ``<Class>/v_<Class>_gNN_cNN.avi``.

    Raises
    ------
    FileNotFoundError
        If the set has no such video.
    """
    with np.load(_truth_path(Path(directory), name), allow_pickle=False) as stored:
        return Truth(
            motion=str(stored["motion"]),
            kind=int(stored["kind"]),
            moves=bool(moves_by_itself(stored["poses"], stored["camera"])[-1]),
            camera=stored["camera"],
            layers=stored["layers"],
            poses=stored["poses"],
        )


def _check(
    *, videos_per_class: int, groups: int, frames: tuple[int, int], seed: int, classes: Sequence[str]
) -> None:
    if not 3 <= groups <= 99:
        raise ValueError(f"groups is {groups}; allowed are 3 to 99: each of the 3 splits needs a test group")
    if not groups <= videos_per_class <= 99 * groups:
        raise ValueError(
            f"videos_per_class is {videos_per_class}; give {groups} (one a group) to {99 * groups}"
        )
    if not 2 <= frames[0] <= frames[1]:
        raise ValueError(f"frames is {frames}; give the fewest (at least 2) and the most frames of a video")
    if seed < 0:
        raise ValueError(f"seed is {seed}; give 0 or more")
    if len(set(classes)) != len(classes) or len(classes) < 2 or not set(classes) <= set(CLASSES):
        raise ValueError(f"classes are {', '.join(classes)}; give two or more of {', '.join(CLASSES)}")


def _truth_path(directory: Path, name: str) -> Path:
    return directory / "truth" / Path(name).with_suffix(".npz")


def _clips(manifest: Manifest) -> Iterator[tuple[str, int, int]]:
    """List the class, group and clip number of every video."""
    for class_name in manifest.classes:
        for index in range(manifest.videos_per_class):
            yield class_name, index % manifest.groups + 1, index // manifest.groups + 1


def _video_name(class_name: str, group: int, clip: int) -> str:
    return f"{class_name}/v_{class_name}_g{group:02d}_c{clip:02d}.avi"


def _write_lists(directory: Path, manifest: Manifest) -> None:
    directory.mkdir()
    labels = {name: label for label, name in enumerate(manifest.classes, start=1)}
    _write_lines(directory / "classInd.txt", [f"{label} {name}" for name, label in labels.items()])
    for split in range(1, N_SPLITS + 1):
        train, test = [], []
        for class_name, group, clip in sorted(_clips(manifest), key=lambda c: (labels[c[0]], c[1:])):
            name = _video_name(class_name, group, clip)
            if (group - split) % 4 == 0:
                test.append(name)
            else:
                train.append(f"{name} {labels[class_name]}")
        _write_lines(directory / f"trainlist0{split}.txt", train)
        _write_lines(directory / f"testlist0{split}.txt", test)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode("ascii"))


def _write_videos(directory: Path, manifest: Manifest) -> None:
    scenes = _scenes(manifest)

    def write(which: tuple[str, int, int]) -> None:
        class_name, group, clip = which
        label = manifest.classes.index(class_name)
        rng = np.random.default_rng((manifest.seed, group, label, clip))
        kind, motion = _meaning(manifest, label, group, rng)
        n_frames = int(rng.integers(manifest.frames[0], manifest.frames[1] + 1))
        drawn = draw_video(
            manifest.setting,
            scenes[group, kind],
            motion,
            n_frames=n_frames,
            panned=group % 2 == 0,
            rng=rng,
        )
        name = _video_name(*which)
        _encode(directory / "UCF-101" / name, drawn)
        path = _truth_path(directory, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path,
            layers=drawn.layers,
            poses=drawn.poses,
            camera=drawn.camera,
            kind=np.array(kind),
            motion=np.array(motion),
        )

    # OpenCV and zlib leave Python's lock, so threads do help; each video has its own generator.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(write, list(_clips(manifest))):
            pass


def _scenes(manifest: Manifest) -> dict[tuple[int, int], Scene]:
    """Draw the scenes that the videos may show, by group and kind."""
    kinds = len(manifest.classes)
    return {
        (group, kind): draw_scene(
            manifest.setting,
            kind,
            kinds,
            n_frames=manifest.frames[1],
            rng=np.random.default_rng((manifest.seed, group)),
        )
        for group in range(1, manifest.groups + 1)
        for kind in (range(kinds) if manifest.setting.context else [_kind_of_group(group, kinds)])
    }


def _meaning(manifest: Manifest, label: int, group: int, rng: np.random.Generator) -> tuple[int, str]:
    """Draw a video's kind of scene and its object's motion."""
    chance_of_context, chance_of_motion = rng.random(2)
    told = chance_of_context < manifest.setting.context
    kind = label if told else _kind_of_group(group, len(manifest.classes))
    any_motion = manifest.classes[int(rng.integers(len(manifest.classes)))]
    return kind, manifest.classes[label] if chance_of_motion < manifest.setting.motion else any_motion


def _kind_of_group(group: int, n_kinds: int) -> int:
    # Groups of even number pan: two kinds in turn would tie the kind to the camera.
    return (group - 1) // 2 % n_kinds


def _encode(path: Path, drawn: Drawn) -> None:
    """Write a video's frames with a real codec, which loses something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = (drawn.frames.shape[2], drawn.frames.shape[1])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODEC), FPS, size)
    if not writer.isOpened():
        raise OSError(f"OpenCV can't write {CODEC} to {path}; check the disk and OpenCV's FFmpeg")
    try:
        for frame in drawn.frames:
            writer.write(frame)
    finally:
        writer.release()
