import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings

from selrel.models.c3d import C3D
from storage.checkpoints.files import write_checkpoint
from storage.stores.root import Root
from tests.servers import BUCKET, S3Server, s3_client, s3_server

TINY_CLASSES = ("Archery", "Hammering", "HammerThrow", "HandstandPushups")
TINY_SIZE = (64, 48)

# name: (frames, entry in split 1's lists). The folder and the files of HandstandPushups differ in
# capitals, as published; Archery's third video is in no list.
TINY_VIDEOS = {
    "Archery/v_Archery_g01_c01.avi": (20, "test"),
    "Archery/v_Archery_g08_c01.avi": (16, "train"),
    "Archery/v_Archery_g09_c01.avi": (3, None),
    "Hammering/v_Hammering_g01_c01.avi": (17, "test"),
    "Hammering/v_Hammering_g08_c01.avi": (9, "train"),
    "HammerThrow/v_HammerThrow_g01_c01.avi": (33, "test"),
    "HammerThrow/v_HammerThrow_g08_c01.avi": (16, "train"),
    "HandstandPushups/v_HandStandPushups_g01_c01.avi": (18, "test"),
    "HandstandPushups/v_HandStandPushups_g08_c01.avi": (12, "train"),
}
TINY_ABSENT = 5


if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Tests that run side by side share the cores; two threads each would wait for each other.
    torch.set_num_threads(1)
    # And Prefect's database, unless each has its own.
    if home := os.environ.get("PREFECT_HOME"):
        os.environ["PREFECT_HOME"] = f"{home}/{worker}"
        Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script's shell has background jobs ignore Ctrl-C; what the tests start would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that does other work as well may be slow at any moment.
settings.register_profile("selrel", deadline=None)
settings.load_profile("selrel")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Directory with real videos and checkpoints, which are not part of the project."""
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    path = Path(os.environ.get("SELREL_TEST_DATA", default))
    if not path.is_dir():
        pytest.skip(f"no trial data at {path}; set SELREL_TEST_DATA to a directory that holds them")
    return path


@pytest.fixture(scope="session")
def tiny_ucf101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of nine short real AVIs in UCF-101's layout; to be read only."""
    root = tmp_path_factory.mktemp("tiny-ucf101")
    for seed, (name, (n_frames, _)) in enumerate(TINY_VIDEOS.items()):
        write_avi(root / "UCF-101" / name, moving_square(n_frames, seed=seed))
    write_lists(root)
    return root


@pytest.fixture(scope="session")
def tiny_frames() -> dict[str, int]:
    """Number of frames of every video of `tiny_ucf101`, by name."""
    return {name: n_frames for name, (n_frames, _) in TINY_VIDEOS.items()}


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow C3D with random weights and four outputs, for `tiny_ucf101`."""
    torch.manual_seed(5)
    model = C3D((4, 4, 8, 8, 8, 8, 8, 8), (16, 16), len(TINY_CLASSES))
    for module in model.modules():
        # PyTorch's default shrinks the signal of eight layers to nothing.
        if isinstance(module, torch.nn.Conv3d | torch.nn.Linear):
            torch.nn.init.kaiming_normal_(module.weight)
            # No unit is driven by its bias alone, so no relevance is lost where W+ a is 0.
            torch.nn.init.zeros_(module.bias)
    path = tmp_path_factory.mktemp("checkpoints") / "tiny.pth.tar"
    write_checkpoint(path, model.state_dict())
    return path


@pytest.fixture(scope="session")
def make_avi() -> Callable[..., Path]:
    """`make_avi(path, frames, codec="MJPG", fps=25.0)` writes RGB frames as a real AVI."""
    return write_avi


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., np.ndarray]:
    """`make_frames(n_frames, seed=0, size=(64, 48))` draws a square that moves over a texture."""
    return moving_square


def write_lists(root: Path) -> None:
    """Write the lists of split 1 with CRLF ends, as published; TINY_ABSENT videos exist in them alone."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True, exist_ok=True)
    train = [f"{n} {_label(n)}" for n, (_, kind) in TINY_VIDEOS.items() if kind == "train"]
    test = [name for name, (_, kind) in TINY_VIDEOS.items() if kind == "test"]
    train += [f"Archery/v_Archery_g20_c{i:02d}.avi 1" for i in range(TINY_ABSENT)]
    for file, lines in {
        "classInd.txt": [f"{label} {name}" for label, name in enumerate(TINY_CLASSES, start=1)],
        "trainlist01.txt": train,
        "testlist01.txt": test,
    }.items():
        (lists / file).write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def write_avi(path: Path, frames: np.ndarray, *, codec: str = "MJPG", fps: float = 25.0) -> Path:
    """Write RGB frames (time, y, x, 3) as a real, lossy video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, which serves the tests of one file."""
    with s3_server(tmp_path_factory.mktemp("s3") / "served") as running:
        yield running


@pytest.fixture(params=["directory", "s3"])
def any_root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Root]:
    """A root in a directory, and one on S3."""
    if request.param == "directory":
        yield Root(str(tmp_path))
        return
    with s3_client(request.getfixturevalue("server")):
        yield Root(f"s3://{BUCKET}/{tmp_path.name}")


def moving_square(n_frames: int, *, seed: int = 0, size: tuple[int, int] = TINY_SIZE) -> np.ndarray:
    """Draw RGB frames (time, y, x, 3): a bright square moves right over a fixed texture."""
    width, height = size
    rng = np.random.default_rng(seed)
    coarse = rng.integers(40, 120, (6, 8, 3), dtype=np.uint8)
    background = cv2.resize(coarse, size, interpolation=cv2.INTER_LINEAR)
    frames = np.repeat(background[None], n_frames, axis=0)
    for index, frame in enumerate(frames):
        left = (seed + 2 * index) % (width - 12)
        frame[height // 3 : height // 3 + 12, left : left + 12] = (230, 200, 60)
    return frames


def _label(name: str) -> int:
    return TINY_CLASSES.index(name.partition("/")[0]) + 1
