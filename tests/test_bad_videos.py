"""Damaged, odd and mutated videos: each is decoded alike every time, or excluded with a reason."""

from __future__ import annotations

import hashlib
import random
import re
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import torch

from flows.cli import main
from selrel.models.c3d import C3D
from storage.datasets.fingerprints import sha256_of
from storage.datasets.ucf101 import read_dataset
from storage.stores.receipts import write_receipt
from storage.stores.root import Root
from storage.tables import read_table
from storage.videos.reader import UndecodableVideo, count_frames, read_frames
from tasks.running.stage import Work
from tasks.stages import index

Make = Callable[..., Any]

# Frames that decode, frames that the header claims, width and height.
EDGE_VIDEOS = {
    "animated.gif": (4, 4, 64, 48),
    "av1_video.mkv": (125, 125, 640, 360),
    "carphone_distorted.mp4": (120, 120, 176, 144),
    "corrupted.mp4": (28, 50, 1280, 720),
    "discard_first_keyframe.mp4": (25, 30, 64, 64),
    "h264_10bits.mp4": (30, 30, 200, 200),
    "nasa_13013_rotated.mp4": (17, 17, 270, 480),
    "part_0.mp4": (32, 32, 340, 256),
    "scene_cuts.mp4": (250, 250, 1280, 272),
    "sine_stereo_mp2.mpg": (100, 100, 128, 128),
    "testsrc2_mpeg4.avi": (30, 30, 1280, 720),
    "video_0.mov": (3, 3, 568, 320),
    "video_90.mov": (3, 3, 320, 568),
}


def outcome(path: Path) -> tuple[Any, ...]:
    """What is known of a video and a hash of its frames, or why there is none."""
    try:
        facts = count_frames(path)
    except UndecodableVideo as error:
        assert error.reason and "\n" not in error.reason
        return ("excluded", error.reason)
    digest = hashlib.sha256()
    n_frames = 0
    for frame in read_frames(path, stop=facts.n_frames):
        digest.update(f"{frame.shape}".encode() + frame.tobytes())
        n_frames += 1
    assert n_frames == facts.n_frames
    return (facts, digest.hexdigest())


@pytest.mark.parametrize("name", EDGE_VIDEOS)
def test_edge_videos_are_as_expected(shared_data: Path, name: str) -> None:
    expected = EDGE_VIDEOS[name]
    found = outcome(shared_data / "edge-videos" / name)
    facts = found[0]
    assert (facts.n_frames, facts.header_frames, facts.width, facts.height) == expected
    lies = expected[0] != expected[1]
    assert facts.note == (f"header says {expected[1]} frames, {expected[0]} decode" if lies else "")


def test_there_is_an_expectation_of_every_edge_video(shared_data: Path) -> None:
    assert sorted(path.name for path in (shared_data / "edge-videos").iterdir()) == list(EDGE_VIDEOS)


@pytest.fixture(scope="module", params=["MJPG", "XVID"])
def sound(request: Any, tmp_path_factory: Any, make_avi: Make, make_frames: Make) -> Path:
    """A sound tiny AVI of 20 frames, without and with motion compensation."""
    path = tmp_path_factory.mktemp("sound") / "sound.avi"
    return Path(make_avi(path, make_frames(20), codec=request.param))


def test_cut_at_50_places(sound: Path, tmp_path: Path) -> None:
    whole = sound.read_bytes()
    path, counts = tmp_path / "cut.avi", []
    for place in range(50):
        path.write_bytes(whole[: place * len(whole) // 50])
        found = outcome(path)
        counts.append(0 if found[0] == "excluded" else found[0].n_frames)
        if 0 < counts[-1] < 20:
            assert found[0].note.startswith(f"header says 20 frames, {counts[-1]} decode")
    assert counts[0] == 0 and counts == sorted(counts) and counts[-1] >= 15


def test_a_bit_flipped_at_50_places(sound: Path, tmp_path: Path) -> None:
    whole, rng = sound.read_bytes(), random.Random(0)
    first, again = tmp_path / "first.avi", tmp_path / "again.avi"
    decoded = 0
    for place in range(50):
        data = bytearray(whole)
        data[place * len(whole) // 50] ^= 1 << rng.randrange(8)
        first.write_bytes(data)
        again.write_bytes(data)
        found = outcome(first)
        assert found == outcome(again)
        decoded += found[0] != "excluded"
    assert decoded > 40, "a flipped bit seldom costs the video"


def short(n_frames: int) -> Callable[[Path, Make, Make], None]:
    def write(path: Path, make_avi: Make, make_frames: Make) -> None:
        make_avi(path, make_frames(n_frames))

    return write


def with_header(frame_us: int, rate: int, scale: int) -> Callable[[Path, Make, Make], None]:
    def write(path: Path, make_avi: Make, make_frames: Make) -> None:
        make_avi(path, make_frames(20))
        data = bytearray(path.read_bytes())
        main, stream = data.index(b"avih") + 8, data.index(b"strh") + 8
        data[main : main + 4] = struct.pack("<I", frame_us)
        data[stream + 20 : stream + 28] = struct.pack("<II", scale, rate)
        path.write_bytes(data)

    return write


def header_only(path: Path, make_avi: Make, make_frames: Make) -> None:
    make_avi(path, make_frames(20))
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"movi") + 4])


def holding(content: bytes) -> Callable[[Path, Make, Make], None]:
    return lambda path, make_avi, make_frames: path.write_bytes(content) and None


def giant(path: Path, make_avi: Make, make_frames: Make) -> None:
    """A header that claims frames of 12,000 x 12,000, in a codec that believes it."""
    make_avi(path, make_frames(20), codec="HFYU")
    data = bytearray(path.read_bytes())
    at = data.index(b"strf") + 12
    data[at : at + 8] = struct.pack("<ii", 12_000, 12_000)
    path.write_bytes(data)


CASES: dict[str, tuple[Callable[[Path, Make, Make], None], str, str]] = {
    "zero bytes": (holding(b""), "excluded", "is empty"),
    "text": (holding(b"Not a video.\n" * 100), "excluded", "is not a readable video"),
    "header only": (header_only, "excluded", "no frame decodes|is not a readable"),
    "giant": (giant, "excluded", "claims frames of 12000x12000"),
    "five frames": (short(5), "flagged", r"^shorter than a clip: 5 of 16 frames$"),
    "one frame": (short(1), "flagged", r"^one frame only, nothing can move; shorter than a clip: 1 of 16"),
    "0 fps": (with_header(0, 0, 0), "flagged", "^no frame rate in the header, 25 assumed$"),
    "1e9 fps": (with_header(1, 10**9, 1), "flagged", r"a frame rate of 1e\+09 in the header, 25 assumed"),
}


def test_each_has_its_reason_in_the_exclusions(tmp_path: Path, make_avi: Make, make_frames: Make) -> None:
    data, root = tmp_path / "data", Root(str(tmp_path / "root"))
    names = {f"Archery/v_Archery_g{i:02d}_c01.avi": case for i, case in enumerate(CASES, start=1)}
    for name, case in names.items():
        path = data / "UCF-101" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        CASES[case][0](path, make_avi, make_frames)
    make_avi(data / "UCF-101" / "Archery/v_Archery_g25_c01.avi", make_frames(33))
    table = counted(root, data, 16)
    reasons = {names[row["video"]]: row for row in table.to_dict("records")}
    assert reasons.keys() == CASES.keys(), "the sound video has none"
    for case, (_, kind, reason) in CASES.items():
        assert reasons[case]["kind"] == kind, case
        assert re.search(reason, reasons[case]["reason"]), (case, reasons[case])
    clips = read_table(root, root.dataset("d").index).to_pandas()
    assert set(clips.video) == {f"Archery/v_Archery_g{i:02d}_c01.avi" for i in (5, 6, 7, 8, 25)}
    assert np.isfinite(clips.fps).all() and clips.fps.between(0.1, 1000).all()


def counted(root: Root, data: Path, clip_length: int) -> pd.DataFrame:
    """The exclusions of a data set, indexed without a cluster."""
    (data / "ucfTrainTestlist").mkdir(exist_ok=True)
    (data / "ucfTrainTestlist" / "classInd.txt").write_text("1 Archery\n")
    for name in ("trainlist01.txt", "testlist01.txt"):
        (data / "ucfTrainTestlist" / name).touch()
    found = read_dataset(data).videos
    content = sha256_of({v.name: v.path for v in found})
    videos = [[v.name, v.class_name, v.label, v.group, v.split, v.size_bytes, content[v.name]] for v in found]
    paths = root.dataset("d")
    about = {"videos": videos, "classes": ["Archery"], "view": {"clip_length": clip_length}}
    root.write_json(paths.description, about)
    work = Work(root, "", str(data), {"dataset_id": "d"})
    for block in range(-(-len(videos) // index._VIDEOS_A_BLOCK)):
        write_receipt(root, paths, "index", block, index.count_block(work, block))
    index.list_clips(work)
    table: pd.DataFrame = read_table(root, paths.exclusions).to_pandas()
    return table


def test_a_rotated_video_comes_upright(tmp_path: Path, make_frames: Make) -> None:
    upright = tmp_path / "upright.mp4"
    writer = cv2.VideoWriter(str(upright), cv2.VideoWriter.fourcc(*"mp4v"), 25, (64, 48))
    for frame in make_frames(5):
        writer.write(frame)
    writer.release()
    data = bytearray(upright.read_bytes())
    # The track's display matrix, 16.16 fixed point: a quarter turn.
    at = data.index(b"tkhd") + 44
    assert struct.unpack(">9i", data[at : at + 36])[0] == 65536
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, 48 << 16, 0, 1 << 30)
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data)
    assert (count_frames(turned).width, count_frames(turned).height) == (48, 64)
    for lying, standing in zip(read_frames(upright), read_frames(turned), strict=True):
        assert np.array_equal(np.rot90(lying, -1), standing)


def mutated(whole: bytes, rng: random.Random) -> bytes:
    """A damaged copy of a file: a few of flipped bits, cuts, repeats, foreign lengths and noise."""
    data = bytearray(whole)
    for _ in range(rng.randint(1, 4)):
        # Headers are where most of the decoder's decisions are.
        at = rng.randrange(min(len(data), 400) if rng.random() < 0.5 else len(data))
        match rng.randrange(6):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at : at + 4] = struct.pack("<I", rng.choice([0, 1, 255, 2**16, 2**31 - 1, 2**32 - 1]))
            case 2:
                del data[at : at + rng.randint(1, 300)]
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 300)]
            case 4:
                data[at : at + 20] = rng.randbytes(20)
            case 5:
                del data[max(at, 200) :]
    return bytes(data)


def fuzzed(sources: list[bytes], directory: Path, n_files: int, *, seed: int) -> Iterator[Path]:
    for number in range(n_files):
        rng = random.Random(seed * 1_000_000 + number)
        path = directory / f"{number:04d}.avi"
        path.write_bytes(mutated(rng.choice(sources), rng))
        yield path


@pytest.fixture(scope="module")
def sources(tmp_path_factory: Any, make_avi: Make, make_frames: Make) -> list[bytes]:
    directory = tmp_path_factory.mktemp("sources")
    codecs = ("MJPG", "XVID", "mp4v", "FFV1", "HFYU", "FMP4")
    return [make_avi(directory / f"{c}.avi", make_frames(12), codec=c).read_bytes() for c in codecs]


def check_fuzzed(sources: list[bytes], directory: Path, n_files: int, *, seed: int) -> None:
    found = []
    for path in fuzzed(sources, directory, n_files, seed=seed):
        found.append(outcome(path))
        assert outcome(path) == found[-1], path
    excluded = [reason for kind, reason in found if kind == "excluded"]
    assert 0 < len(excluded) < 0.8 * n_files


def test_mutated_videos_are_decoded_alike_or_excluded(sources: list[bytes], tmp_path: Path) -> None:
    check_fuzzed(sources, tmp_path, 40, seed=0)


@pytest.mark.slow
def test_many_mutated_videos_are_decoded_alike_or_excluded(sources: list[bytes], tmp_path: Path) -> None:
    check_fuzzed(sources, tmp_path, 600, seed=1)


@pytest.mark.slow
def test_a_job_over_mutated_videos_ends_alike_twice(
    sources: list[bytes], tmp_path: Path, make_avi: Make, make_frames: Make
) -> None:
    data = tmp_path / "data"
    videos = data / "UCF-101" / "Archery"
    videos.mkdir(parents=True)
    for path in fuzzed(sources, tmp_path, 48, seed=2):
        shutil.move(path, videos / f"v_Archery_g{int(path.stem):02d}_c01.avi")
    make_avi(videos / "v_Archery_g99_c01.avi", make_frames(20))
    lists = data / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 Hammering\n")
    for name in ("trainlist01.txt", "testlist01.txt"):
        (lists / name).touch()
    checkpoint = tmp_path / "c3d.pth"
    torch.manual_seed(0)
    torch.save({"state_dict": C3D((2,) * 8, (4, 4), 2).state_dict()}, checkpoint)
    results = []
    for root in (tmp_path / "first", tmp_path / "second"):
        words = ["--data", str(data), "--checkpoint", str(checkpoint), "--root", str(root)]
        assert main(["explain", *words, "--subset", "all", "--methods", "grad_cam", "--workers", "2"]) == 0
        (dataset,), (run,) = (root / "datasets").iterdir(), (root / "runs").iterdir()
        results.append(
            [
                pd.read_parquet(dataset / "exclusions.parquet").to_dict("records"),
                Root(str(root)).read_json(f"runs/{run.name}/_SUCCESS.json")["results_sha256"],
            ]
        )
    assert results[0] == results[1]
    assert any(row["kind"] == "excluded" for row in results[0][0])
