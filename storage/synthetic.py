"""A small action set in UCF-101's layout, whose classes differ by motion only, with the truth beside it.

Every group number shows the same scene (background and object) in every class, so neither tells the
class: what tells it is how the object moves. The truth lies outside the ``UCF-101`` tree, so a reader of
UCF-101 never meets it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

WIDTH, HEIGHT, FPS = 320, 240, 25.0
CODEC = "XVID"
N_SPLITS = 3
# Frames are drawn this much larger than they are shown, so that a shaking camera never sees an edge.
_MARGIN = 16
_SPRITE = 96
_NOISE_SIGMA = 3.0
_SHAKE_STEP, _SHAKE_MEMORY = 0.25, 0.9


@dataclass(frozen=True)
class Scene:
    """What a group's videos share: the background and the object whose motion decides."""

    background: Image
    texture: Image
    alpha: Floats


@dataclass(frozen=True)
class Path2D:
    """Where the object is in each frame: centre in pixels, angle in degrees, scale; each ``(time,)``."""

    x: Floats
    y: Floats
    angle: Floats
    scale: Floats


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
    """

    videos_per_class: int
    groups: int
    seed: int
    frames: tuple[int, int]
    classes: tuple[str, ...]
    n_videos: int


def make_dataset(
    directory: str | os.PathLike[str],
    *,
    videos_per_class: int = 8,
    groups: int = 4,
    frames: tuple[int, int] = (40, 80),
    seed: int = 0,
) -> Manifest:
    """Write the synthetic action set, lists and truth included; find it if it is there already.

    Writes ``UCF-101/<Class>/v_<Class>_gNN_cNN.avi`` (320x240, 25 fps, Xvid),
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

    Returns
    -------
    Manifest
        What was made, or found.

    Raises
    ------
    ValueError
        A number out of range.
    FileExistsError
        The directory holds something else.
    """
    _check(videos_per_class=videos_per_class, groups=groups, frames=frames, seed=seed)
    target = Path(directory)
    manifest = Manifest(
        videos_per_class, groups, seed, frames, tuple(CLASSES), videos_per_class * len(CLASSES)
    )
    if target.exists():
        return _found(target, manifest)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _write_videos(partial, manifest)
    _write_lists(partial / "ucfTrainTestlist", manifest)
    (partial / "truth" / "manifest.json").write_text(json.dumps(asdict(manifest)), encoding="utf-8")
    partial.rename(target)
    return manifest


def read_truth(directory: str | os.PathLike[str], name: str) -> dict[str, npt.NDArray[np.bool_]]:
    """Read what is true of one video of the set.

    Parameters
    ----------
    directory : path
        As given to `make_dataset`.
    name : str
        ``<Class>/v_<Class>_gNN_cNN.avi``.

    Returns
    -------
    dict of ndarray
        ``mask`` bool ``(time, 240, 320)``, where the object that decides is seen, and ``moves`` bool ``()``,
        whether that object moves by itself (camera shake apart).
    """
    with np.load(_truth_path(Path(directory), name), allow_pickle=False) as stored:
        return {"mask": stored["mask"], "moves": stored["moves"]}


def _check(*, videos_per_class: int, groups: int, frames: tuple[int, int], seed: int) -> None:
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


def _found(target: Path, wanted: Manifest) -> Manifest:
    record = target / "truth" / "manifest.json"
    stored: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if stored != json.loads(json.dumps(asdict(wanted))):
        raise FileExistsError(
            f"{target} exists and is not this synthetic data set; choose another directory or remove it"
        )
    return wanted


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
    numbers = range(1, manifest.groups + 1)
    scenes = [_scene(np.random.default_rng((manifest.seed, group))) for group in numbers]

    def write(which: tuple[str, int, int]) -> None:
        class_name, group, clip = which
        label = manifest.classes.index(class_name)
        rng = np.random.default_rng((manifest.seed, group, label, clip))
        n_frames = int(rng.integers(manifest.frames[0], manifest.frames[1] + 1))
        path = CLASSES[class_name](n_frames, rng)
        name = _video_name(*which)
        mask = _encode(directory / "UCF-101" / name, _frames(scenes[group - 1], path, rng), n_frames)
        truth = _truth_path(directory, name)
        truth.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(truth, mask=mask, moves=np.array(_moves(path)))

    # OpenCV and zlib leave Python's lock, so threads do help; each video has its own generator.
    with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(write, list(_clips(manifest))):
            pass


def _moves(path: Path2D) -> bool:
    return any(float(np.ptp(values)) > 0 for values in (path.x, path.y, path.angle, path.scale))


def _encode(path: Path, frames: Iterator[tuple[Image, Mask]], n_frames: int) -> Mask:
    """Write the frames (BGR) as a video and give back the object's mask in each, ``(time, y, x)``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODEC), FPS, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise OSError(f"OpenCV can't write {CODEC} to {path}; check the disk and OpenCV's FFmpeg")
    masks = np.empty((n_frames, HEIGHT, WIDTH), dtype=np.bool_)
    try:
        for index, (frame, mask) in enumerate(frames):
            writer.write(frame)
            masks[index] = mask
    finally:
        writer.release()
    return masks


def _frames(scene: Scene, path: Path2D, rng: np.random.Generator) -> Iterator[tuple[Image, Mask]]:
    """Draw a video: background, distractors, object, camera shake, brightness, noise."""
    n_frames = len(path.x)
    shake = _shake(n_frames, rng)
    distractors = [_distractor(n_frames, rng) for _ in range(2)]
    gain = float(rng.uniform(0.85, 1.15))
    noise = rng.normal(0.0, _NOISE_SIGMA, (2 * HEIGHT, 2 * WIDTH, 3)).astype(np.float32)
    for t in range(n_frames):
        dx, dy = float(shake[t, 0]), float(shake[t, 1])
        centre = ((WIDTH - 1) / 2 + _MARGIN - dx, (HEIGHT - 1) / 2 + _MARGIN - dy)
        canvas = cv2.getRectSubPix(scene.background, (WIDTH, HEIGHT), centre).astype(np.float32)
        for texture, alpha, wander in distractors:
            _draw(canvas, texture, alpha, x=wander.x[t] + dx, y=wander.y[t] + dy, angle=0.0, scale=1.0)
        seen = _draw(
            canvas, scene.texture, scene.alpha,
            x=path.x[t] + dx, y=path.y[t] + dy, angle=path.angle[t], scale=path.scale[t],
        )  # fmt: skip
        top, left = int(rng.integers(HEIGHT)), int(rng.integers(WIDTH))
        canvas = canvas * gain + noise[top : top + HEIGHT, left : left + WIDTH]
        yield np.clip(np.rint(canvas), 0, 255).astype(np.uint8), seen > 0.5


def _draw(
    canvas: Floats, texture: Image, alpha: Floats, *, x: float, y: float, angle: float, scale: float
) -> Floats:
    """Blend a sprite into the canvas in place and give back its coverage, ``(y, x)`` in 0..1."""
    size = alpha.shape[0]
    matrix = cv2.getRotationMatrix2D(((size - 1) / 2, (size - 1) / 2), angle, scale)
    reach = int(np.ceil(size * scale * 0.75)) + 2
    left, top = max(0, int(x) - reach), max(0, int(y) - reach)
    right, bottom = min(canvas.shape[1], int(x) + reach), min(canvas.shape[0], int(y) + reach)
    coverage = np.zeros(canvas.shape[:2], dtype=np.float32)
    if left >= right or top >= bottom:
        return coverage
    matrix[:, 2] += (x - (size - 1) / 2 - left, y - (size - 1) / 2 - top)
    window = (right - left, bottom - top)
    colour = cv2.warpAffine(texture, matrix, window, borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
    share = cv2.warpAffine(alpha, matrix, window).astype(np.float32)
    region = canvas[top:bottom, left:right]
    region += share[:, :, None] * (colour - region)
    coverage[top:bottom, left:right] = share
    return coverage


def _shake(n_frames: int, rng: np.random.Generator) -> Floats:
    """Draw a hand-held camera's offset, px: a random walk pulled back to the middle, ``(time, 2)``."""
    steps = rng.normal(0.0, _SHAKE_STEP, (n_frames, 2))
    offsets = np.zeros((n_frames, 2), dtype=np.float32)
    for t in range(1, n_frames):
        offsets[t] = np.clip(_SHAKE_MEMORY * offsets[t - 1] + steps[t], -_MARGIN / 2, _MARGIN / 2)
    return offsets


def _scene(rng: np.random.Generator) -> Scene:
    shape = (HEIGHT + 2 * _MARGIN, WIDTH + 2 * _MARGIN)
    background = _texture(shape, rng, cells=(4, 9, 24, 60), contrast=14.0, level=(40.0, 100.0))
    texture = _texture((_SPRITE, _SPRITE), rng, cells=(3, 7), contrast=40.0, level=(170.0, 220.0))
    return Scene(background, texture, _outline(rng))


def _texture(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    cells: tuple[int, ...],
    contrast: float,
    level: tuple[float, float],
) -> Image:
    """Draw coloured noise of several grains around a random colour, uint8 BGR ``(y, x, 3)``."""
    image = np.zeros((*shape, 3), dtype=np.float32)
    for n_cells in cells:
        rows = max(2, round(n_cells * shape[0] / shape[1]))
        grain = rng.normal(0.0, 1.0, (rows, n_cells, 3)).astype(np.float32)
        # Mostly grey noise with some colour, as in photographs.
        grain = 0.7 * grain[:, :, :1] + 0.5 * grain
        image += cv2.resize(grain, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    colour = rng.uniform(*level, 3).astype(np.float32)
    image = image / max(float(image.std()), 1e-6) * contrast + colour
    return np.clip(image, 0, 255).astype(np.uint8)


def _outline(rng: np.random.Generator) -> Floats:
    """Draw a random star-like outline as coverage in 0..1, so that turning it can be seen."""
    n_corners = int(rng.integers(3, 7))
    angles = np.arange(2 * n_corners) * np.pi / n_corners + rng.uniform(0, np.pi)
    depth = float(rng.uniform(0.55, 0.85))
    radii = np.where(np.arange(2 * n_corners) % 2 == 0, 0.46, 0.46 * depth) * _SPRITE
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + _SPRITE / 2
    alpha = np.zeros((_SPRITE, _SPRITE), dtype=np.uint8)
    cv2.fillPoly(alpha, [np.rint(corners * 8).astype(np.int32)], (255,), lineType=cv2.LINE_AA, shift=3)
    return alpha.astype(np.float32) / np.float32(255)


def _distractor(n_frames: int, rng: np.random.Generator) -> tuple[Image, Floats, Path2D]:
    """Make a small disc that drifts straight on, in any direction and in every class alike."""
    size = int(rng.integers(16, 26))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    alpha = np.clip(size / 2 - 0.5 - np.hypot(y, x), 0, 1).astype(np.float32)
    heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 1.0)
    steps = (np.arange(n_frames) - n_frames / 2) * speed
    path = Path2D(
        x=_constant(rng.uniform(40, WIDTH - 40), n_frames) + (np.cos(heading) * steps).astype(np.float32),
        y=_constant(rng.uniform(40, HEIGHT - 40), n_frames) + (np.sin(heading) * steps).astype(np.float32),
        angle=_constant(0, n_frames),
        scale=_constant(1, n_frames),
    )
    return _texture((size, size), rng, cells=(2, 4), contrast=20.0, level=(60.0, 120.0)), alpha, path


def _constant(value: float, n_frames: int) -> Floats:
    return np.full(n_frames, value, dtype=np.float32)


def _rest(n_frames: int, rng: np.random.Generator) -> Path2D:
    return Path2D(
        x=_constant(rng.uniform(110, 210), n_frames),
        y=_constant(rng.uniform(90, 150), n_frames),
        angle=_constant(rng.uniform(0, 360), n_frames),
        scale=_constant(rng.uniform(0.7, 1.2), n_frames),
    )


def _approach(n_frames: int, rng: np.random.Generator) -> Path2D:
    still = _rest(n_frames, rng)
    growth = np.geomspace(rng.uniform(0.4, 0.5), rng.uniform(1.6, 1.9), n_frames).astype(np.float32)
    return Path2D(still.x, still.y, still.angle, growth)


def _bob(n_frames: int, rng: np.random.Generator) -> Path2D:
    still = _rest(n_frames, rng)
    phase = 2 * np.pi * (np.arange(n_frames) / rng.uniform(18, 26) + rng.uniform())
    return Path2D(
        still.x, still.y + (rng.uniform(24, 36) * np.sin(phase)).astype(np.float32), still.angle, still.scale
    )


def _turn(n_frames: int, rng: np.random.Generator) -> Path2D:
    still = _rest(n_frames, rng)
    rate = rng.uniform(6, 10) * rng.choice([-1.0, 1.0])
    return Path2D(
        still.x, still.y, still.angle + (rate * np.arange(n_frames)).astype(np.float32), still.scale
    )


def _cross(n_frames: int, rng: np.random.Generator, direction: float) -> Path2D:
    still = _rest(n_frames, rng)
    half = rng.uniform(75, 105)
    x = direction * np.linspace(-half, half, n_frames) + WIDTH / 2 + rng.uniform(-10, 10)
    return Path2D(x.astype(np.float32), still.y, still.angle, still.scale)


def _cross_left(n_frames: int, rng: np.random.Generator) -> Path2D:
    return _cross(n_frames, rng, -1.0)


def _cross_right(n_frames: int, rng: np.random.Generator) -> Path2D:
    return _cross(n_frames, rng, 1.0)


# As UCF-101's own list does, this order ignores case, so Python's sorted() differs from it (it puts Rolling
# last): a reader that mixes up the two label orders is wrong here too.
CLASSES: dict[str, Callable[[int, np.random.Generator], Path2D]] = {
    "Approaching": _approach,
    "Bobbing": _bob,
    "Resting": _rest,
    "Rolling": _turn,
    "RollLeft": _cross_left,
    "RollRight": _cross_right,
}
