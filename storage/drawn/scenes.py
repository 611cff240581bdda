"""Draws the videos of the synthetic action set, and tells the truth about them: arrays only.

A video is a background under a camera, objects without meaning, and one object whose motion is the
class's. Every length is in pixels of a frame 320 wide and shrinks with the frame.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Cue = Literal["background", "object"]

REFERENCE_WIDTH = 320
# As UCF-101's own list does, this order ignores case, so Python's sorted() differs from it (it puts Rolling
# last): a reader that mixes up the two label orders is wrong here too.
CLASSES = ("Approaching", "Bobbing", "Resting", "Rolling", "RollLeft", "RollRight")

_SPRITE = 96
_BADGE = 40
_SHAKE_MEMORY = 0.9
_SHAKE_REACH = 8
# Grey levels where nothing is marked: of a background, and how far objects and discs are from theirs.
_BRIGHTNESS = (90.0, 150.0)
_STEP = (30.0, 70.0)


@dataclass(frozen=True)
class Setting:
    """How the videos of a set are drawn, and what tells their class.

    Attributes
    ----------
    size : (width, height)
        Of a frame, px.
    motion : float
        0 to 1: the share of videos whose object moves as their class says; the others move as any class.
    context : float
        0 to 1: the share of videos that show their class's kind of scene; the others show their group's
        kind, which is the same in every class. At 0 the scene tells nothing.
    cue : "background" or "object"
        What a kind of scene is: the background's colour and grain, or the colour of a badge that never
        moves by itself, on a background of no kind.
    marked : bool
        Whether the object that decides is the brightest thing of the picture, which is quickly learnt. If
        not, the discs are as large, and both are darker or brighter than the background by as much: of its
        looks, the object's outline alone tells it from them.
    distractors : int
        Discs that drift straight on, in any direction and in every class alike.
    pan : float
        px/frame of a camera that pans in any direction, in groups of even number; the others' does not.
    shake : float
        px: how far a hand-held camera moves from frame to frame, by standard deviation.
    noise : float
        Standard deviation of a pixel's noise, 0..255.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    size: tuple[int, int] = (320, 240)
    motion: float = 1.0
    context: float = 0.0
    cue: Cue = "background"
    marked: bool = True
    distractors: int = 2
    pan: float = 0.0
    shake: float = 0.25
    noise: float = 3.0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        object.__setattr__(self, "size", tuple(self.size))
        for name in ("motion", "context"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "0 to 1")
        for name in ("pan", "shake", "noise"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 20, "0 to 20")
        _check("cue", self.cue, self.cue in get_args(Cue), f"one of {', '.join(get_args(Cue))}")
        _check("distractors", self.distractors, 0 <= self.distractors <= 100, "0 to 100")
        # Codecs take even numbers of pixels only.
        even = len(self.size) == 2 and all(32 <= side <= 4096 and side % 2 == 0 for side in self.size)
        _check("size", self.size, even, "an even width and height of 32 px or more")

    @property
    def unit(self) -> float:
        """Pixels of this frame in one pixel of a frame 320 wide."""
        return self.size[0] / REFERENCE_WIDTH


@dataclass(frozen=True)
class Scene:
    """What a group's videos of one kind share: the background, the object that decides, and the badge.

    ``brightness`` is the background's grey level, where the object is not marked.
    """

    background: Image
    texture: Image
    alpha: Floats
    badge: Image
    brightness: float | None


@dataclass(frozen=True)
class Drawn:
    """A video with its truth.

    Attributes
    ----------
    frames : uint8, (time, y, x, 3)
        BGR.
    layers : uint8, (time, y, x)
        What is seen at each pixel: 0 the background, then the layers in the order they are drawn; the last
        is the object that decides.
    poses : float32, (layer, time, 4)
        Where each layer is in the image: x and y of its centre in px, angle in degrees, scale.
    camera : float32, (time, 2)
        How far the camera has shifted everything, (x, y) in px.
    """

    frames: Image
    layers: Image
    poses: Floats
    camera: Floats


def draw_scene(
    setting: Setting, kind: int, n_kinds: int, *, n_frames: int, rng: np.random.Generator
) -> Scene:
    """Draw what a group's videos of one kind share.

    Parameters
    ----------
    setting : Setting
        How videos are drawn.
    kind, n_kinds : int
        Which kind of scene, of how many.
    n_frames : int
        The most frames of a video, for which the background must suffice.
    rng : numpy.random.Generator
        Of the group: the object is the same whatever the kind.
    """
    object_rng, scene_rng = rng.spawn(2)
    sprite = round(_SPRITE * setting.unit)
    brightness = None if setting.marked else float(object_rng.uniform(*_BRIGHTNESS))
    texture = _object_texture(sprite, brightness, object_rng)
    alpha = _outline(sprite, object_rng)
    # So much larger on each side that the camera never sees its edge.
    margin = int(np.ceil(setting.unit * (_SHAKE_REACH + setting.pan * n_frames / 2))) + 2
    shape = (setting.size[1] + 2 * margin, setting.size[0] + 2 * margin)
    told = kind if setting.cue == "background" else None
    badge = max(4, round(_BADGE * setting.unit))
    return Scene(
        _background(shape, told, n_kinds, brightness, scene_rng),
        texture,
        alpha,
        _texture((badge, badge), scene_rng, (2, 4), contrast=10.0, level=_hue(kind, n_kinds, 90.0, 60.0)),
        brightness,
    )


def draw_video(
    setting: Setting, scene: Scene, motion: str, *, n_frames: int, panned: bool, rng: np.random.Generator
) -> Drawn:
    """Draw a video.

    Parameters
    ----------
    setting : Setting
        How videos are drawn.
    scene : Scene
        From `draw_scene`.
    motion : str
        The class whose motion the object makes.
    n_frames : int
        At least 2.
    panned : bool
        Whether the camera pans, if the setting has a pan.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    Drawn
        Frames and truth.
    """
    camera = _camera(setting, n_frames, panned, rng)
    sprites = [(scene.texture, scene.alpha, _PATHS[motion](n_frames, setting, rng))]
    sprites[:0] = [_distractor(scene, n_frames, setting, rng) for _ in range(setting.distractors)]
    if setting.cue == "object":
        path = _still(*_anywhere(setting, 30, rng), n_frames)
        sprites.insert(0, (scene.badge, np.ones(scene.badge.shape[:2], np.float32), path))
    shift = np.concatenate([camera, np.zeros_like(camera)], axis=1)
    poses = np.stack([shift + _still(0, 0, n_frames), *(path + shift for _, _, path in sprites)])
    width, height = setting.size
    frames = np.empty((n_frames, height, width, 3), np.uint8)
    layers = np.zeros((n_frames, height, width), np.uint8)
    grain = rng.normal(0.0, setting.noise, (2 * height, 2 * width, 3)).astype(np.float32)
    gain = float(rng.uniform(0.85, 1.15))
    middle_y, middle_x = (np.array(scene.background.shape[:2]) - 1) / 2
    for t in range(n_frames):
        centre = (float(middle_x - camera[t, 0]), float(middle_y - camera[t, 1]))
        canvas = cv2.getRectSubPix(scene.background, setting.size, centre).astype(np.float32)
        for number, (texture, alpha, _) in enumerate(sprites, start=1):
            layers[t][_draw(canvas, texture, alpha, poses[number, t]) > 0.5] = number
        top, left = int(rng.integers(height)), int(rng.integers(width))
        canvas = canvas * gain + grain[top : top + height, left : left + width]
        frames[t] = np.clip(np.rint(canvas), 0, 255)
    return Drawn(frames, layers, poses.astype(np.float32), camera)


def true_flow(layers: Image, poses: Floats) -> Floats:
    """Compute the flow of every pixel from the poses of what is seen there.

    Parameters
    ----------
    layers : uint8, (time, y, x)
        As `Drawn` holds them.
    poses : float32, (layer, time, 4)
        As `Drawn` holds them.

    Returns
    -------
    float32, (time, y, x, 2)
        ``flow[t]`` is where what is seen in frame t moves to in frame t + 1, (x, y) in px; NaN in the last
        frame, which has no next one.
    """
    flow = np.full((*layers.shape, 2), np.nan, np.float32)
    for t in range(len(layers) - 1):
        for number, pose in enumerate(poses):
            y, x = np.nonzero(layers[t] == number)
            now, then = pose[t], pose[t + 1]
            turn = _matrix(then) @ np.linalg.inv(_matrix(now))
            points = np.stack([x - now[0], y - now[1]])
            flow[t, y, x] = (turn @ points - points).T + (then[:2] - now[:2])
    return flow


def moves_by_itself(poses: Floats, camera: Floats) -> npt.NDArray[np.bool_]:
    """Tell which layers move at any time, apart from the camera's motion: bool, (layer,)."""
    own = poses.copy()
    own[:, :, :2] -= camera
    moves: npt.NDArray[np.bool_] = np.ptp(own, axis=1).max(axis=1) > 1e-3
    return moves


def _check(name: str, value: object, allowed: bool, wanted: str) -> None:
    if not allowed:
        raise ValueError(f"{name} is {value}; give {wanted}")


def _matrix(pose: Floats) -> npt.NDArray[np.float64]:
    """Linear part of OpenCV's rotation matrix: counter-clockwise as seen, y points down."""
    angle, scale = np.deg2rad(float(pose[2])), float(pose[3])
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.array([[cosine, sine], [-sine, cosine]])


def _camera(setting: Setting, n_frames: int, panned: bool, rng: np.random.Generator) -> Floats:
    """Draw the camera's offset, px: a random walk pulled back to the middle, and a pan: ``(time, 2)``."""
    steps = rng.normal(0.0, setting.shake, (n_frames, 2))
    offsets = np.zeros((n_frames, 2))
    for t in range(1, n_frames):
        offsets[t] = np.clip(_SHAKE_MEMORY * offsets[t - 1] + steps[t], -_SHAKE_REACH, _SHAKE_REACH)
    heading = rng.uniform(0, 2 * np.pi)
    along = (np.arange(n_frames) - (n_frames - 1) / 2) * (setting.pan if panned else 0.0)
    offsets += np.outer(along, (np.cos(heading), np.sin(heading)))
    return (offsets * setting.unit).astype(np.float32)


def _draw(canvas: Floats, texture: Image, alpha: Floats, pose: Floats) -> Floats:
    """Blend a sprite into the canvas in place and give back its coverage, ``(y, x)`` in 0..1."""
    x, y, angle, scale = (float(value) for value in pose)
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


def _background(
    shape: tuple[int, int], kind: int | None, n_kinds: int, brightness: float | None, rng: np.random.Generator
) -> Image:
    """Draw a background of a kind, which is its colour and the direction of its grain, or of none."""
    if kind is None:
        level = rng.uniform(40.0, 100.0, 3) if brightness is None else _tinted(brightness, rng)
        return _texture(shape, rng, (4, 9, 24, 60), contrast=14.0, level=level)
    angle = np.pi * kind / n_kinds
    stretch = (1 + 1.5 * abs(np.cos(angle)), 1 + 1.5 * abs(np.sin(angle)))
    middle = 70.0 if brightness is None else brightness
    level = _hue(kind, n_kinds, middle, 20.0) + rng.uniform(-15, 15, 3)
    return _texture(shape, rng, (4, 9, 24, 60), contrast=14.0, level=level, stretch=stretch)


def _object_texture(size: int, brightness: float | None, rng: np.random.Generator) -> Image:
    """Draw an object that is bright, or one that differs from a background's brightness."""
    if brightness is None:
        level = rng.uniform(170, 220, 3)
    else:
        level = _tinted(brightness + rng.choice([-1.0, 1.0]) * rng.uniform(*_STEP), rng)
    return _texture((size, size), rng, (3, 7), contrast=40.0, level=level)


def _tinted(brightness: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    return brightness + rng.uniform(-20.0, 20.0, 3)


def _hue(kind: int, n_kinds: int, middle: float, swing: float) -> npt.NDArray[np.float64]:
    phases = 2 * np.pi * (kind / n_kinds + np.arange(3) / 3)
    return middle + swing * np.cos(phases)


def _texture(
    shape: tuple[int, int],
    rng: np.random.Generator,
    cells: Sequence[int],
    *,
    contrast: float,
    level: npt.NDArray[np.float64],
    stretch: tuple[float, float] = (1.0, 1.0),
) -> Image:
    """Draw coloured noise of several grains around a colour, uint8 BGR ``(y, x, 3)``."""
    image = np.zeros((*shape, 3), dtype=np.float32)
    for n_cells in cells:
        rows = max(2, round(n_cells * shape[0] / shape[1] / stretch[0]))
        grain = rng.normal(0.0, 1.0, (rows, max(2, round(n_cells / stretch[1])), 3)).astype(np.float32)
        # Mostly grey noise with some colour, as in photographs.
        grain = 0.7 * grain[:, :, :1] + 0.5 * grain
        image += cv2.resize(grain, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    image = image / max(float(image.std()), 1e-6) * contrast + level.astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _outline(size: int, rng: np.random.Generator) -> Floats:
    """Draw a random star-like outline as coverage in 0..1, so that turning it can be seen."""
    n_corners = int(rng.integers(3, 7))
    angles = np.arange(2 * n_corners) * np.pi / n_corners + rng.uniform(0, np.pi)
    depth = float(rng.uniform(0.55, 0.85))
    radii = np.where(np.arange(2 * n_corners) % 2 == 0, 0.46, 0.46 * depth) * size
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None] + size / 2
    alpha = np.zeros((size, size), dtype=np.uint8)
    cv2.fillPoly(alpha, [np.rint(corners * 8).astype(np.int32)], (255,), lineType=cv2.LINE_AA, shift=3)
    return alpha.astype(np.float32) / np.float32(255)


def _distractor(
    scene: Scene, n_frames: int, setting: Setting, rng: np.random.Generator
) -> tuple[Image, Floats, Floats]:
    size = max(4, round(int(rng.integers(*((16, 26) if setting.marked else (44, 76)))) * setting.unit))
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    alpha = np.clip(size / 2 - 0.5 - np.hypot(y, x), 0, 1).astype(np.float32)
    heading, speed = rng.uniform(0, 2 * np.pi), rng.uniform(0.0, 3.0)
    path = _still(*_anywhere(setting, 40, rng), n_frames)
    along = (np.arange(n_frames) - n_frames / 2) * speed * setting.unit
    path[:, :2] += np.outer(along, (np.cos(heading), np.sin(heading)))
    if setting.marked:
        texture = _texture((size, size), rng, (2, 4), contrast=20.0, level=rng.uniform(60, 120, 3))
    else:
        texture = _object_texture(size, scene.brightness, rng)
    return texture, alpha, path


def _anywhere(setting: Setting, border: float, rng: np.random.Generator) -> tuple[float, float]:
    width, height = setting.size
    edge = border * setting.unit
    return float(rng.uniform(edge, width - edge)), float(rng.uniform(edge, height - edge))


def _still(x: float, y: float, n_frames: int, *, angle: float = 0.0, scale: float = 1.0) -> Floats:
    return np.tile(np.array([x, y, angle, scale], np.float32), (n_frames, 1))


def _rest(n_frames: int, setting: Setting, rng: np.random.Generator) -> Floats:
    width, height = setting.size
    return _still(
        width * rng.uniform(0.34, 0.66),
        height * rng.uniform(0.38, 0.62),
        n_frames,
        angle=rng.uniform(0, 360),
        scale=rng.uniform(0.7, 1.2),
    )


def _approach(n_frames: int, setting: Setting, rng: np.random.Generator) -> Floats:
    path = _rest(n_frames, setting, rng)
    path[:, 3] = np.geomspace(rng.uniform(0.4, 0.5), rng.uniform(1.6, 1.9), n_frames)
    return path


def _bob(n_frames: int, setting: Setting, rng: np.random.Generator) -> Floats:
    path = _rest(n_frames, setting, rng)
    phase = 2 * np.pi * (np.arange(n_frames) / rng.uniform(18, 26) + rng.uniform())
    path[:, 1] += setting.unit * rng.uniform(24, 36) * np.sin(phase)
    return path


def _turn(n_frames: int, setting: Setting, rng: np.random.Generator) -> Floats:
    path = _rest(n_frames, setting, rng)
    path[:, 2] += rng.uniform(6, 10) * rng.choice([-1.0, 1.0]) * np.arange(n_frames)
    return path


def _cross(n_frames: int, setting: Setting, rng: np.random.Generator, direction: float) -> Floats:
    # The middle of the way is anywhere, so that no single frame tells the direction; on a long way less so,
    # or a model that sees the middle of the frame would miss both its ends.
    path = _rest(n_frames, setting, rng)
    width = setting.size[0]
    speed = setting.unit * rng.uniform(3.4, 4.6)
    room = width / 3 - speed * (n_frames - 1) / 2
    path[:, 0] = width / 2 + (path[:, 0] - width / 2) * np.clip(room / (0.16 * width), 0.2, 1.0)
    path[:, 0] += direction * speed * (np.arange(n_frames) - (n_frames - 1) / 2)
    return path


_PATHS: dict[str, Callable[[int, Setting, np.random.Generator], Floats]] = {
    "Approaching": _approach,
    "Bobbing": _bob,
    "Resting": _rest,
    "Rolling": _turn,
    "RollLeft": partial(_cross, direction=-1.0),
    "RollRight": partial(_cross, direction=1.0),
}
