"""How well the camera's motion is found and taken off: `python -m tests.benchmarks.camera`.

Videos of the synthetic set, decoded and resized as a model sees them; cameras that stand, shake and pan.
The error is the mean distance, px/frame, of the fitted camera flow from the true one. Precision and
recall are of the voxels that move, with and without the camera, against those that truly move by themselves
faster than tau.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from selrel.clips.camera import camera_flow, camera_motion, object_flow
from selrel.clips.flow import farneback, grey, moving
from selrel.clips.profiles import resize_frame
from selrel.models import families
from storage.drawn.scenes import Setting
from storage.drawn.synthetic import Truth, make_dataset, read_truth
from storage.videos.reader import read_frames

VIEW = families()["c3d-jfzhang"][0].profile.view
TAU = 0.5
CAMERAS = {
    "stands": Setting(shake=0.0),
    "shakes, 0.5 px": Setting(shake=0.5),
    "shakes, 2 px": Setting(shake=2.0),
    "pans, 2 px": Setting(pan=2.0),
    "pans, 4 px": Setting(pan=4.0),
}
Floats = npt.NDArray[np.floating]


def main() -> None:
    """Print a line for each kind of camera."""
    heading = "precision: raw, objects   recall: raw, objects"
    print(f"{'camera (px/frame of 320)':24} {'median':>7} {'90 %':>6}   {heading}")
    for name, setting in CAMERAS.items():
        with tempfile.TemporaryDirectory() as place:
            data = Path(place) / "data"
            made = make_dataset(data, videos_per_class=4, groups=4, frames=(18, 18), seed=3, setting=setting)
            found = [measured(data, f"{c}/v_{c}_g{g:02d}_c01.avi") for c in made.classes for g in (2, 4)]
        errors = np.concatenate([errors for errors, _ in found])
        counts = np.sum([counts for _, counts in found], axis=0)
        raw, objects, true, hit_raw, hit_objects = counts.tolist()
        print(
            f"{name:24} {np.median(errors):7.3f} {np.quantile(errors, 0.9):6.3f}   "
            f"{100 * hit_raw / raw:7.1f} %   {100 * hit_objects / objects:7.1f} % "
            f"{100 * hit_raw / true:10.1f} %   {100 * hit_objects / true:7.1f} %",
            flush=True,
        )


def measured(data: Path, name: str) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Error of each frame pair, and counts of voxels: found raw, found, true, and right of each."""
    frames = np.stack([resize_frame(f, VIEW) for f in read_frames(str(data / "UCF-101" / name))])
    truth = read_truth(data, name)
    flow = farneback(grey(frames))
    camera = camera_motion(flow)
    height, width = flow.shape[1:3]
    scale = np.array([width / truth.layers.shape[2], height / truth.layers.shape[1]])
    steps = np.diff(truth.camera, axis=0) * scale
    errors = np.linalg.norm(camera_flow(camera, height, width) - steps[:, None, None], axis=-1)
    moves = np.stack(list(resized(truth, steps, scale, (width, height))))
    raw, left = moving(flow, tau=TAU), moving(object_flow(flow, camera), tau=TAU)
    counts = [raw.sum(), left.sum(), moves.sum(), (raw & moves).sum(), (left & moves).sum()]
    return errors.mean(axis=(1, 2)), np.array(counts)


def resized(
    truth: Truth, steps: Floats, scale: Floats, size: tuple[int, int]
) -> Iterator[npt.NDArray[np.bool_]]:
    """Where each frame truly moves without the camera, faster than tau at the model's size."""
    for pair, step in zip(truth.flow, steps, strict=False):
        speed = np.linalg.norm(pair * scale - step, axis=-1).astype(np.float32)
        yield cv2.resize((speed > TAU).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5


if __name__ == "__main__":
    main()
