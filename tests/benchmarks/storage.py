"""What a cube costs on the store, by codec and dtype: `python -m tests.benchmarks.storage`.

Explains clips, stores the cubes of each method one clip a chunk, and prints bytes a cube, write and read
rate (of float32 values, one thread), how many of 40 flipped bits a reader notices, what rounding to float16
changes in the tables, and how many requests it takes to open one cube of a finished run on S3.

By default the clips are those of a small synthetic data set and the model is a narrow random C3D.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore

from selrel.clips.flow import farneback, grey
from selrel.clips.profiles import crop, resize_frame
from selrel.explainer import Explainer
from selrel.models import Recognised, recognise
from selrel.models.c3d import C3D
from storage.arrays.cubes import decode, encode
from storage.checkpoints.files import read_checkpoint, write_checkpoint
from storage.datasets.ucf101 import read_dataset
from storage.drawn.synthetic import make_dataset
from storage.videos.reader import read_frames
from tests.rounding import changes, rounded, tables_of

METHODS = ("deep_taylor", "grad_cam", "guided_backprop", "guided_grad_cam")
FLIPS = 40


@dataclass(frozen=True)
class Choice:
    """A way to store a cube."""

    name: str
    dtype: str
    compressors: tuple[Any, ...]


def blosc(inner: str, shuffle: str) -> tuple[Any, ...]:
    # Blosc has no checksum of its own.
    return (BloscCodec(cname=inner, clevel=1, shuffle=shuffle), Crc32cCodec())


def zstd(level: int) -> tuple[Any, ...]:
    return (ZstdCodec(level=level, checksum=True),)


CHOICES = (
    Choice("float32, raw", "float32", ()),
    Choice("float32, zstd 1 + checksum", "float32", zstd(1)),
    Choice("float32, blosc zstd 1 shuffle + crc32c", "float32", blosc("zstd", "shuffle")),
    Choice("float16, raw", "float16", ()),
    Choice("float16, zstd 1, no checksum", "float16", (ZstdCodec(level=1),)),
    Choice("float16, zstd 1 + checksum", "float16", zstd(1)),
    Choice("float16, zstd 3 + checksum", "float16", zstd(3)),
    Choice("float16, zstd 9 + checksum", "float16", zstd(9)),
    Choice("float16, blosc zstd 1 shuffle + crc32c", "float16", blosc("zstd", "shuffle")),
    Choice("float16, blosc zstd 1 bitshuffle + crc32c", "float16", blosc("zstd", "bitshuffle")),
    Choice("float16, blosc lz4 shuffle + crc32c", "float16", blosc("lz4", "shuffle")),
)


def main() -> None:
    """Explain, store, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", help="directory in UCF-101's layout")
    parser.add_argument("--checkpoint")
    parser.add_argument("--clips", type=int, default=16)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        data, checkpoint = options.data or synthetic(scratch), options.checkpoint or narrow(scratch)
        cubes, flow = explained(data, recognise(read_checkpoint(checkpoint).state), options.clips)
    print(f"{len(flow)} clips of {Path(data).name}; kB a cube, MB/s of float32, flipped bits noticed")
    print(f"{'':42}" + "".join(f"{name:>16}" for name in METHODS) + f"{'write':>8}{'read':>8}{'flips':>8}")
    for choice in CHOICES:
        print_choice(choice, cubes)
    before, after = tables_of(cubes, flow), tables_of(rounded(cubes), flow)
    found = sorted(changes(before, after), key=lambda change: -change[1])
    print(f"\nRounding to float16 changes {len(found)} table entries by at most (points):")
    for where, change in found[:5]:
        print(f"  {change:.5f}  {where}")


def print_choice(choice: Choice, cubes: dict[str, np.ndarray]) -> None:
    sizes, writing, reading, volume = [], 0.0, 0.0, 0
    for cube in cubes.values():
        objects, wrote = timed(lambda cube=cube: stored(choice, cube))
        _, read = timed(lambda objects=objects, cube=cube: loaded(choice, objects, cube))
        sizes.append(sum(len(o.to_bytes()) for key, o in objects.items() if "c/" in key) / len(cube))
        writing, reading, volume = writing + wrote, reading + read, volume + cube.nbytes
    noticed = sum(flips_noticed(choice, next(iter(cubes.values()))[:1]))
    figures = "".join(f"{size / 1e3:16.1f}" for size in sizes)
    rates = f"{volume / writing / 1e6:8.0f}{volume / reading / 1e6:8.0f}"
    print(f"{choice.name:42}{figures}{rates}{noticed:5}/{FLIPS}", flush=True)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the least seconds of three."""
    best = np.inf
    for _ in range(3):
        began = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - began)
    return result, best


def stored(choice: Choice, cube: np.ndarray) -> dict[str, Any]:
    """The objects of a store that holds the cubes, one clip a chunk."""
    objects: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(objects), shape=cube.shape, dtype=choice.dtype, chunks=(1, *cube.shape[1:]),
        compressors=choice.compressors or None, config={"write_empty_chunks": True},
    )  # fmt: skip
    array[:] = encode(cube)[0] if choice.dtype == "float16" else cube
    return objects


def loaded(choice: Choice, objects: dict[str, Any], cube: np.ndarray) -> np.ndarray:
    values = np.asarray(zarr.open_array(MemoryStore(objects), mode="r")[:])
    return decode(values, np.ones(len(cube), np.float32)) if choice.dtype == "float16" else values


def flips_noticed(choice: Choice, cube: np.ndarray) -> Iterator[bool]:
    """For single flipped bits, spread over the object: whether reading fails."""
    objects = stored(choice, cube)
    (key,) = (key for key in objects if "c/" in key)
    sound = objects[key]
    data = sound.to_bytes()
    for bit in np.linspace(0, 8 * len(data) - 1, FLIPS).astype(int):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        objects[key] = type(sound).from_bytes(bytes(damaged))
        try:
            loaded(choice, objects, cube)
        except Exception:
            yield True
        else:
            yield False


def explained(data: str, recognised: Recognised, n_clips: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The cubes (clip, time, y, x) of the first clip of several videos, by method, and their flow."""
    profile, view = recognised.profile, recognised.profile.view
    explainer = Explainer(recognised.model, profile)
    videos = read_dataset(data).videos
    cubes: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    flows = []
    for video in videos[:: max(1, len(videos) // n_clips)][:n_clips]:
        frames = [resize_frame(f, view) for f in read_frames(video.path, stop=view.clip_length + 1)]
        if len(frames) <= view.clip_length:
            continue
        flows.append(np.stack([crop(pair, view) for pair in farneback(grey(np.stack(frames)))]))
        clip = np.stack([crop(frame, view) for frame in frames[: view.clip_length]])
        found = explainer.explain(clip[None], {m: {} for m in METHODS})
        for name, cube in found.cubes.items():
            cubes[name].append(cube[0].numpy())
    return {name: np.stack(found) for name, found in cubes.items()}, np.stack(flows).astype(np.float16)


def synthetic(scratch: str) -> str:
    directory = Path(scratch) / "data"
    make_dataset(directory, videos_per_class=3, groups=3, frames=(20, 24))
    return str(directory)


def narrow(scratch: str) -> str:
    torch.manual_seed(0)
    model = C3D((8, 16, 16, 16, 32, 32, 32, 32), (32, 32), 6)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv3d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
            torch.nn.init.zeros_(module.bias)
    path = Path(scratch) / "narrow.pth"
    write_checkpoint(path, model.state_dict())
    return str(path)


if __name__ == "__main__":
    main()
