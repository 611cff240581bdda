"""Videos in which nothing moves: found by the flow, whatever a codec has done to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from selrel.clips.flow import STILL_SHARE, farneback, grey, moved
from selrel.clips.profiles import View
from storage.arrays.cubes import create_motion, read_block
from storage.datasets.fingerprints import sha256_of
from storage.datasets.ucf101 import read_dataset
from storage.stores.receipts import write_receipt
from storage.stores.root import Root, run_at
from storage.tables import read_table
from storage.videos.reader import read_frames
from tasks.clips import clips_of
from tasks.exclusions import NOTHING_MOVES
from tasks.running.stage import Work
from tasks.stages.decode import resized_frames
from tasks.stages.index import count_block, list_clips
from tasks.stages.motion import motion_block
from tasks.stages.report import report_elsewhere
from tests.made_run import make_run

SIZE = (320, 240)
N_FRAMES = 33
# Codec, container, options, bit rate: from nearly lossless to what can hardly be looked at.
CODECS = {
    "MPEG-4, low": ("mpeg4", "avi", {}, 150_000),
    "MPEG-4, high": ("mpeg4", "avi", {}, 4_000_000),
    "Motion JPEG, low": ("mjpeg", "avi", {"qmin": "25", "qmax": "31"}, None),
    "H.264, low": ("libx264", "mp4", {"preset": "veryfast"}, 80_000),
    "VP9, low": ("libvpx-vp9", "webm", {"deadline": "realtime", "cpu-used": "8"}, 60_000),
}


def photo(seed: int) -> np.ndarray:
    """Noise with the spectrum of photographs."""
    height, width = SIZE[::-1]
    spectrum = np.fft.fft2(np.random.default_rng(seed).normal(size=(height, width, 3)), axes=(0, 1))
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) * n for n in (height, width)), indexing="ij"))
    frequency[0, 0] = 1
    picture = np.fft.ifft2(spectrum / frequency[..., None] ** 1.5, axes=(0, 1)).real
    return np.uint8(255 * (picture - picture.min()) / np.ptp(picture))


def text() -> np.ndarray:
    page = np.full((*SIZE[::-1], 3), 255, np.uint8)
    for line in range(15, SIZE[1], 18):
        cv2.putText(
            page, "The quick brown fox jumps over 0123", (3, line), cv2.FONT_HERSHEY_SIMPLEX, 0.5, 0, 1
        )
    return page


def gradient() -> np.ndarray:
    return np.uint8(np.broadcast_to(np.linspace(0, 255, SIZE[0])[None, :, None], (*SIZE[::-1], 3)))


def noise() -> np.ndarray:
    fine = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    return cv2.GaussianBlur(fine, (0, 0), 1.5)


PICTURES = {"photo": lambda: photo(1), "text": text, "gradient": gradient, "noise": noise}


def encode(path: Path, frames: Iterator[np.ndarray], codec: str) -> Path:
    name, container, options, bit_rate = CODECS[codec]
    path = path.with_suffix(f".{container}")
    with av.open(str(path), "w") as file:
        stream = file.add_stream(name, rate=25, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuvj420p" if name == "mjpeg" else "yuv420p"
        if bit_rate:
            stream.bit_rate = bit_rate
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode())
    return path


def panned(picture: np.ndarray, speed: float) -> Iterator[np.ndarray]:
    """The picture, shifted by so many pixels a frame."""
    wide = cv2.copyMakeBorder(picture, 0, 0, 0, 40, cv2.BORDER_REFLECT)
    for time in range(N_FRAMES):
        shift = np.float32([[1, 0, -speed * time], [0, 1, 0]])
        yield cv2.warpAffine(wide, shift, SIZE, flags=cv2.INTER_CUBIC)


def most_moved(path: Path) -> float:
    """`moved` of the liveliest clip, as the motion stage sees it."""
    view = View(resize=(171, 128), crop=(112, 112), clip_length=16)
    flow = farneback(grey(np.stack(list(resized_frames(str(path), view, 0, N_FRAMES)))))[:, 8:120, 30:142]
    return max(moved(flow[start : start + 16].astype(np.float16)) for start in range(0, N_FRAMES - 1, 16))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("picture", PICTURES)
def test_a_still_picture_is_still_in_every_codec(picture: str, codec: str, tmp_path: Path) -> None:
    video = encode(tmp_path / "still", iter([PICTURES[picture]()] * N_FRAMES), codec)
    assert most_moved(video) < 0.6 * STILL_SHARE
    if (picture, codec) == ("photo", "MPEG-4, low"):
        first, *others = read_frames(video)
        changes = max(int(np.abs(other.astype(int) - first).max()) for other in others)
        assert changes > 20, "grey levels would not have told"


@pytest.mark.parametrize("codec", [name for name in CODECS if name.endswith("low")])
@pytest.mark.parametrize(("picture", "speed"), [("photo", 0.4), ("text", 0.2), ("noise", 0.4)])
def test_slow_motion_is_motion(picture: str, speed: float, codec: str, tmp_path: Path) -> None:
    # At the model's resolution 0.1 or 0.2 px a frame: far below the 0.5 from which on a voxel moves.
    video = encode(tmp_path / "slow", panned(PICTURES[picture](), speed), codec)
    assert most_moved(video) > 5 * STILL_SHARE


def test_what_moves_is_restated() -> None:
    flow = np.zeros((16, 2, 4, 2), np.float16)
    flow[:, 0, 0, 0] = 0.1  # adds up to 1.6 px
    flow[:, 0, 1, 1] = 0.05  # 0.8 px
    flow[::2, 0, 2], flow[1::2, 0, 2] = (0.6, 0), (-0.6, 0)  # back and forth
    flow[3:5, 0, 3, 0] = (0.9, -0.9)  # a codec's jump, and back
    flow[7, 1, 0] = (0.9, 0.9)  # 1.3 px at once
    assert moved(flow) == 3 / 8
    flow[7] = np.nan
    assert moved(flow) == 2 / 8
    assert np.isnan(moved(np.full((2, 2, 2, 2), np.nan)))


def test_a_small_ball_is_motion(tmp_path: Path) -> None:
    """Of 8 pixels, a thousandth of the picture, over a background that the codec keeps changing."""
    frames = [
        cv2.circle(photo(1).copy(), (80 + time, 120), 4, (250, 220, 60), -1, cv2.LINE_AA)
        for time in range(N_FRAMES)
    ]
    assert most_moved(encode(tmp_path / "ball", iter(frames), "MPEG-4, low")) > 2 * STILL_SHARE


def test_the_video_with_the_least_real_motion_moves(shared_data: Path) -> None:
    video = shared_data / "ucf101-mini/UCF-101/Basketball/v_Basketball_g01_c01.avi"
    assert most_moved(video) > 2 * STILL_SHARE


def test_the_motion_stage_stores_how_much_moves(
    tmp_path: Path, make_frames: Callable[..., np.ndarray]
) -> None:
    folder, root = tmp_path / "UCF-101/Archery", Root(str(tmp_path / "root"))
    folder.mkdir(parents=True)
    encode(folder / "v_Archery_g01_c01", iter([photo(1)] * N_FRAMES), "MPEG-4, low")
    encode(folder / "v_Archery_g02_c01", iter(make_frames(N_FRAMES, seed=100, size=SIZE)), "MPEG-4, low")
    (tmp_path / "ucfTrainTestlist").mkdir()
    for name, content in {"classInd": "1 Archery\n", "trainlist01": "", "testlist01": ""}.items():
        (tmp_path / f"ucfTrainTestlist/{name}.txt").write_text(content)
    paths = root.dataset("d")
    view = View(resize=(171, 128), crop=(112, 112), clip_length=16).as_dict()
    found = read_dataset(tmp_path).videos
    content = sha256_of({v.name: v.path for v in found})
    videos = [[v.name, v.class_name, v.label, v.group, v.split, v.size_bytes, content[v.name]] for v in found]
    about = {"classes": ["Archery"], "videos": videos, "view": view, "block_clips": 64}
    root.write_json(paths.description, about)
    work = Work(root, "", str(tmp_path), {"dataset_id": "d"})
    write_receipt(root, paths, "index", 0, count_block(work, 0))
    list_clips(work)
    # The index knows no flow: it says nothing of what moves.
    assert read_table(root, paths.exclusions).num_rows == 0
    clips = clips_of(root, "d")
    create_motion(root, paths.motion, clips.columns(), **clips.sizes())
    motion_block(work, 0)
    shares = read_block(root, paths.motion, 0, 6, ["moved"])["moved"]
    assert (shares[:2] < STILL_SHARE).all() and np.isnan(shares[2]), "the last clip is one frame"
    assert (shares[3:5] > STILL_SHARE).all()


@pytest.mark.slow
def test_a_still_video_is_kept_and_flagged_once(tmp_path: Path) -> None:
    still = ["v_0001_g02.avi", "v_0001_g03.avi"]
    place, paths = run_at(make_run(tmp_path / "root", n_clips=8, still=still).url)
    table = read_table(place, paths.exclusions).to_pandas().set_index("video")
    assert table[table.reason == NOTHING_MOVES].index.tolist() == still
    assert set(table.loc[still].kind) == {"flagged"}
    assert table.loc["broken.avi"].kind == "excluded"
    clips = read_table(place, paths.table("clips")).to_pandas()
    assert set(clips.video) > set(still)
    assert not table.index.duplicated().any()
    of_dataset = read_table(place, place.dataset("made-dataset").exclusions).to_pandas()
    assert of_dataset.video.tolist() == ["broken.avi"], "a data set is never changed"
    page = Path(report_elsewhere(place.join(paths.directory), str(tmp_path / "page"))).read_text()
    assert page.count(NOTHING_MOVES) == 2
