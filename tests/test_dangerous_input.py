"""Input that was made to do harm: refused in one line, and the harm not done."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from numcodecs.zstd import Zstd

from flows.cli import main
from storage.arrays.cubes import create_frames, create_relevance, open_run, read_block, write_block
from storage.arrays.zarr_metadata import UnsafeGroup
from storage.checkpoints.files import UnusableCheckpoint, read_checkpoint
from storage.checkpoints.trainings import DamagedState, read_state
from storage.datasets.ucf101 import read_dataset, video_path
from storage.layout import TrainingPaths
from storage.stores.root import Root
from storage.videos import reader as videos
from storage.videos.reader import UndecodableVideo, count_frames

HTML = "<img src=x onerror=alert(1)>\"'&<script>alert(2)</script>"


class Canary:
    """Pickled code: unpickling it writes a file into the working directory."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('canary', 'w').close()",)


@pytest.fixture(autouse=True)
def cage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of its own, in which no canary may have sung in the end."""
    path = tmp_path / "cage"
    path.mkdir()
    monkeypatch.chdir(path)
    yield path
    assert not (path / "canary").exists()


def saved(content: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def repacked(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A sound checkpoint whose entries are changed."""
    buffer = io.BytesIO()
    whole = io.BytesIO(saved({"w": torch.ones(10)}))
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(buffer, "w", compression) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
    return buffer.getvalue()


def pickled(pickle_bytes: bytes) -> bytes:
    return repacked(lambda name, old: pickle_bytes if name.endswith("data.pkl") else old)


def torchscript() -> bytes:
    buffer = io.BytesIO(repacked(lambda _, old: old))
    with zipfile.ZipFile(buffer, "a") as file:
        file.writestr("archive/constants.pkl", pickle.dumps(Canary()))
        file.writestr("archive/code/__torch__.py", "import os")
    return buffer.getvalue()


def old_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps(Canary())
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            file.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def numpy_file(*, archive: bool) -> bytes:
    buffer = io.BytesIO()
    values = np.array([Canary()], dtype=object)
    if archive:
        np.savez(buffer, w=values)
    else:
        np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


CODE = {
    "zip": lambda: saved({"state_dict": {"w": torch.ones(1)}, "hook": Canary()}),
    "zip, as a key": lambda: pickled(pickle.dumps({"w": Canary()}, 2)),
    "legacy": lambda: saved({"hook": Canary()}, _use_new_zipfile_serialization=False),
    "legacy, magic number": lambda: (
        saved({}, _use_new_zipfile_serialization=False)[:15] + pickle.dumps(Canary())
    ),
    "tar": old_tar,
    "torchscript": torchscript,
    "pickle": lambda: pickle.dumps(Canary()),
    "pickle protocol 0": lambda: pickle.dumps(Canary(), 0),
    "npy": lambda: numpy_file(archive=False),
    "npz": lambda: numpy_file(archive=True),
}


@pytest.mark.parametrize("kind", CODE)
def test_pickled_code_never_runs(tmp_path: Path, kind: str) -> None:
    check_refused(tmp_path, CODE[kind]())


def check_refused(tmp_path: Path, content: bytes, words: str = "c3d.pth") -> None:
    path = tmp_path / "c3d.pth"
    path.write_bytes(content)
    with pytest.raises(UnusableCheckpoint, match=words) as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value) and "\x1b" not in str(error.value)


def test_the_canary_sings_where_nobody_guards_it(tmp_path: Path) -> None:
    (tmp_path / "unguarded.pth").write_bytes(CODE["zip"]())
    torch.load(tmp_path / "unguarded.pth", weights_only=False)
    Path("canary").unlink()


def test_pickled_code_is_bad_input_of_the_command(
    tmp_path: Path, tiny_ucf101: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c3d.pth").write_bytes(CODE["zip"]())
    words = ["--data", str(tiny_ucf101), "--checkpoint", str(tmp_path / "c3d.pth"), "--root", "root"]
    assert main(["explain", *words]) == 2
    assert "holds more than weights" in capsys.readouterr().err
    assert not Path("root").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_is_refused_before_it_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: int
) -> None:
    bomb = repacked(lambda name, old: bytes(2**24) if "/data/" in name else old, compression)
    assert len(bomb) < 2**20

    def expanded(*_: object, **__: object) -> None:
        raise AssertionError("it was read")

    monkeypatch.setattr(torch, "load", expanded)
    monkeypatch.setattr(zipfile.ZipFile, "read", expanded)
    check_refused(tmp_path, bomb, "compressed entries")


def tuples_of_tuples() -> bytes:
    value: tuple[Any, ...] = ()
    for _ in range(60):
        value = (value, value)
    data = io.BytesIO()
    pickler = pickle.Pickler(data, 2)
    # A list of two, since the pickler would not end either if it hashed.
    pickler.dump([value, 1])
    return data.getvalue()


UNFOLDED = {
    "2**60 values": (lambda: pickled(tuples_of_tuples()), "in all where"),
    "100,000 deep": (lambda: pickled(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."), "holds a list"),
    "legacy": (
        lambda: saved({}, _use_new_zipfile_serialization=False).replace(b"}q\x00.", tuples_of_tuples()[2:]),
        "in all where|damaged",
    ),
    "giant, zip": (
        lambda: repacked(
            lambda name, old: (
                old.replace(b"K\n", b"\x8a\x06" + struct.pack("<q", 10**13)[:6])
                if name.endswith("data.pkl")
                else old
            )
        ),
        "damaged",
    ),
    "giant, legacy": (
        lambda: saved({"w": torch.ones(10)}, _use_new_zipfile_serialization=False).replace(
            b"K\nN", b"\x8a\x07" + struct.pack("<q", 10**15)[:7] + b"N"
        ),
        "damaged|memory",
    ),
    "expanded": (lambda: saved({"w": torch.zeros(1).expand(10**12)}), "declares 4,000,000,000,000 bytes"),
    "float8": (lambda: saved({"w": torch.ones(2).to(torch.float8_e4m3fn)}), "float8"),
    "nested": (lambda: saved({"w": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}), "not dense"),
    "complex": (lambda: saved({"w": torch.ones(2, dtype=torch.complex64)}), "complex64"),
    "name": (lambda: saved({"\x1b[2J\n<b>": torch.tensor(float("nan"))}), r"\\x1b\[2J\\n<b>"),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", UNFOLDED)
def test_what_unfolds_without_end_is_refused(tmp_path: Path, kind: str) -> None:
    make, words = UNFOLDED[kind]
    check_refused(tmp_path, make(), words)


def test_the_state_of_a_training_is_checked_as_a_checkpoint_is(tmp_path: Path) -> None:
    root, paths = Root(str(tmp_path)), TrainingPaths("trainings/a")
    bomb = pickled(tuples_of_tuples())
    root.write_bytes(paths.state, hashlib.sha256(bomb).digest() + bomb)
    with pytest.raises(DamagedState, match="in all where.*the same command starts anew"):
        read_state(root, paths)


def tensors(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def one(dtype: str, shape: list[int], end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


LIES = {
    "longer than the file": lambda: struct.pack("<Q", 2**62) + b"{}",
    "deep": lambda: tensors(b'{"a":' * 100_000),
    "past the end": lambda: tensors({"w": one("F32", [10**9], 4 * 10**9)}, bytes(16)),
    "overflow": lambda: tensors({"w": one("F32", [2**62, 8], 16)}, bytes(16)),
    "negative": lambda: tensors({"w": one("F32", [-4], 16)}, bytes(16)),
    "overlap": lambda: tensors({"w": one("F32", [4], 16), "v": one("F32", [4], 16)}, bytes(16)),
    "object dtype": lambda: tensors({"w": one("O", [2], 16)}, bytes(16)),
    "a gap": lambda: tensors({"w": one("F32", [4], 16)}, bytes(1600)),
    "float8": lambda: tensors({"w": one("F8_E4M3", [16], 16)}, bytes(16)),
}


@pytest.mark.parametrize("lie", LIES)
def test_safetensors_may_not_lie(tmp_path: Path, lie: str) -> None:
    check_refused(tmp_path, LIES[lie]())


def test_a_pipe_beside_a_checkpoint_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "c3d.pth").write_bytes(saved({"w": torch.ones(1)}))
    os.mkfifo(tmp_path / "c3d.pth.sha256")
    with pytest.raises(ValueError, match=r"c3d\.pth has sha256 .*says none"):
        read_checkpoint(tmp_path / "c3d.pth")


@pytest.fixture
def data(tiny_ucf101: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_ucf101, tmp_path / "data"))


@pytest.mark.parametrize(
    "entry",
    [
        "../../../etc/v_Archery_g01_c01.avi",
        "Archery/../../v_Archery_g01_c01.avi",
        "/etc/v_Archery_g01_c01.avi",
        "http://127.0.0.1/v_Archery_g01_c01.avi",
        "concat:Archery/v_Archery_g01_c01.avi|/etc/passwd",
        "subfile,,start,0,end,9,,:/etc/passwd",
        "file:///etc/passwd",
        "Archery/v_Archery_g01_c01.avi\0.avi",
        "Archery/v_Archery_g01_c01.avi|Archery/v_Archery_g01_c01.avi",
        f"Archery/{HTML}.avi",
        "Archery/v_Archery_g01_c01.avi\x1b[2J",
    ],
)
def test_a_list_entry_names_a_video_of_the_tree_or_nothing(data: Path, entry: str) -> None:
    with open(data / "ucfTrainTestlist" / "testlist01.txt", "a") as file:
        file.write(f"{entry}\n")
    with pytest.raises(ValueError, match="is no entry of this data set") as error:
        read_dataset(data)
    assert not {"\n", "\0", "\x1b"} & set(str(error.value))
    with pytest.raises(ValueError, match="is no video of a data set"):
        video_path(data, entry)


def test_a_line_break_makes_two_entries(data: Path) -> None:
    with open(data / "ucfTrainTestlist" / "testlist01.txt", "a") as file:
        file.write("Archery/v_Archery_g01\n_c01.avi\n")
    with pytest.raises(ValueError, match="'Archery/v_Archery_g01' is no entry"):
        read_dataset(data)


@pytest.mark.parametrize(
    "name", [f"v_{HTML.replace('/', '')}.avi", "v_Archery_g77_c01.avi\n.avi", "a'\".avi"]
)
def test_a_hostile_file_name_is_quoted_and_refused(data: Path, name: str) -> None:
    (data / "UCF-101" / "Archery" / name).touch()
    with pytest.raises(ValueError, match="is not named v_Archery") as error:
        read_dataset(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", [HTML.replace("/", ""), "two\nlines", "quo'te\""])
def test_a_hostile_class_is_quoted_and_refused(data: Path, name: str) -> None:
    (data / "UCF-101" / name).mkdir()
    with pytest.raises(ValueError, match="no class") as error:
        read_dataset(data)
    assert "\n" not in str(error.value)
    (data / "UCF-101" / name).rmdir()
    with open(data / "ucfTrainTestlist" / "classInd.txt", "a") as file:
        file.write(f"5 {name}\n")
    with pytest.raises(ValueError, match="is not '<label> <class>'|no class") as error:
        read_dataset(data)
    assert "\n" not in str(error.value)


def test_a_list_that_never_ends_is_refused(data: Path) -> None:
    classes = data / "ucfTrainTestlist" / "classInd.txt"
    classes.unlink()
    os.mkfifo(classes)
    with pytest.raises(ValueError, match="not a regular file"):
        read_dataset(data)
    classes.unlink()
    classes.symlink_to("/dev/zero")
    with pytest.raises(ValueError, match="not a regular file"):
        read_dataset(data)


def test_a_video_that_becomes_a_link_out_of_the_tree_is_refused(data: Path, tmp_path: Path) -> None:
    name = read_dataset(data).videos[0].name
    video = Path(video_path(data, name))
    video.rename(tmp_path / "outside.avi")
    video.symlink_to(tmp_path / "outside.avi")
    with pytest.raises(ValueError, match="is a link to"):
        video_path(data, name)


@pytest.fixture
def listener() -> Iterator[tuple[int, list[bytes]]]:
    """A port of this machine, and what anybody has said to it."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(5)
                    heard.append(connection.recv(1000))

        thread = threading.Thread(target=listen, daemon=True)
        thread.start()
        yield server.getsockname()[1], heard
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"


def scripts(port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}/other.avi"
    return {
        "file": "ffconcat version 1.0\nfile other.avi\n",
        "url": f"ffconcat version 1.0\nfile {url}\n",
        "playlist": PLAYLIST.format("other.ts"),
        "playlist url": PLAYLIST.format(url.replace("avi", "ts")),
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
    }


# Python loads this module first.
TELL_NOTHING = """
import sys
if any(word.endswith("decoder.py") for word in sys.orig_argv):
    import av
    opened = av.open
    av.open = lambda *words, container_options, **rest: opened(*words, **rest)
"""


@pytest.fixture(params=["guarded", "whitelists off"])
def walls(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Decoders with everything on, and with FFmpeg told nothing: the limits alone must hold too."""
    if request.param != "guarded":
        (tmp_path / "sitecustomize.py").write_text(TELL_NOTHING)
        before = os.environ.get("PYTHONPATH")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), before])))
    videos._close_server()
    yield request.param
    videos._close_server()


def test_a_script_called_avi_reaches_neither_network_nor_files(
    tmp_path: Path, make_avi: Any, make_frames: Any, listener: Any, walls: str
) -> None:
    port, heard = listener
    make_avi(tmp_path / "other.avi", make_frames(5))
    for kind, script in scripts(port).items():
        path = tmp_path / f"{kind}.avi"
        path.write_text(script)
        with pytest.raises(UndecodableVideo):
            count_frames(path)
    assert heard == []
    assert count_frames(tmp_path / "other.avi").n_frames == 5


def test_the_listener_hears_an_unguarded_ffmpeg(tmp_path: Path, listener: Any) -> None:
    port, heard = listener
    (tmp_path / "url.avi").write_text(scripts(port)["url"])
    options = {"safe": "0", "protocol_whitelist": "file,http,tcp"}
    code = f"import sys, av; av.open(sys.argv[1], container_options={options})"
    subprocess.run([sys.executable, "-c", code, tmp_path / "url.avi"], stderr=subprocess.DEVNULL, timeout=60)
    assert heard and b"other.avi" in heard[0]


@pytest.fixture
def run(tmp_path: Path) -> tuple[Root, str]:
    """A finished run of two clips, and the path of its group."""
    root = Root(str(tmp_path / "root"))
    columns = {"video": np.array(["a", "b"]), "fps": np.array([25.0, 25.0])}
    sizes = {"length": 2, "height": 4, "width": 4, "block_clips": 2}
    paths = root.run("c3d-0")
    create_relevance(root, paths.relevance, columns, methods={"m": {}}, outputs=["x", "y"], **sizes)
    root.write_json(paths.success, {})
    create_frames(root, root.dataset("d").frames, columns, **sizes)
    write_block(root, root.dataset("d").frames, 0, {"frames": np.ones((2, 2, 4, 4, 3), np.uint8)})
    return root, paths.relevance


PICKLE = {"id": "pickle", "protocol": 5}
FORMAT_2 = {
    **{"zarr_format": 2, "node_type": "array", "shape": [2], "chunks": [2], "fill_value": None, "order": "C"},
    **{"dtype": "|O", "filters": [PICKLE], "compressor": None, "attributes": {"_ARRAY_DIMENSIONS": ["clip"]}},
}
ARRAYS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "pickle filter, format 2": lambda array: FORMAT_2,
    "two filters, format 2": lambda array: {**FORMAT_2, "filters": [{"id": "vlen-utf8"}, PICKLE]},
    "pickle compressor, format 2": lambda array: {
        **FORMAT_2,
        "dtype": "<f8",
        "filters": None,
        "compressor": PICKLE,
    },
    "pickle codec": lambda array: {
        **array,
        "codecs": [{"name": "numcodecs.pickle", "configuration": PICKLE}],
    },
    "object dtype": lambda array: {**array, "data_type": "object"},
    "fields of objects": lambda array: {
        **array,
        "data_type": {"name": "struct", "configuration": {"fields": [["a", "O"]]}},
    },
    "giant": lambda array: {**array, "shape": [10**12]},
    "a group": lambda array: {**array, "node_type": "group"},
    "a number": lambda array: 1,  # type: ignore[dict-item,return-value]
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_a_zarr_store_with_foreign_arrays_is_not_opened(run: tuple[Root, str], kind: str) -> None:
    root, relevance = run
    for group in (relevance, root.dataset("d").frames):
        described = root.read_json(f"{group}/zarr.json")
        arrays = described["consolidated_metadata"]["metadata"]
        arrays["fps"] = ARRAYS[kind](arrays["fps"])
        root.write_json(f"{group}/zarr.json", described)
        for chunk in ("c/0", "0"):
            root.write_bytes(f"{group}/fps/{chunk}", pickle.dumps(Canary()))
    for opened in (
        lambda: open_run(root.join("runs/c3d-0")).load(),
        lambda: read_block(root, relevance, 0, 2),
        lambda: read_block(root, root.dataset("d").frames, 0, 2, ["frames"]),
    ):
        with pytest.raises(UnsafeGroup) as error:
            opened()
        assert "\n" not in str(error.value)


def text(n_bytes: int) -> bytes:
    """Two names, as vlen-utf8 has them; the second is long."""
    return struct.pack("<II", 2, 1) + b"a" + struct.pack("<I", n_bytes) + bytes(n_bytes)


def shard(content: bytes) -> bytes:
    """A shard whose two chunks are the same bytes."""
    places = struct.pack("<4Q", *(0, len(content)) * 2)
    return content + places + struct.pack("<I", google_crc32c.value(places))


def streamed(content: bytes) -> bytes:
    """A zstd frame that does not say how large its content is."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return bytes(sink.getvalue())


EXPANDED = 2**26
ZSTD = Zstd(1, True)
BOMBS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "numbers": ("fps/c/0", lambda: ZSTD.encode(bytes(EXPANDED))),
    "text": ("video/c/0", lambda: ZSTD.encode(text(EXPANDED))),
    "a second frame": ("fps/c/0", lambda: ZSTD.encode(np.full(2, 25.0)) + ZSTD.encode(bytes(EXPANDED))),
    "no size": ("fps/c/0", lambda: streamed(bytes(EXPANDED))),
    "a cube": ("", lambda: shard(ZSTD.encode(bytes(EXPANDED)))),
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_zarr_chunk_is_not_expanded_beyond_its_size(run: tuple[Root, str], kind: str) -> None:
    root, relevance = run
    frames = root.dataset("d").frames
    place, bomb = BOMBS[kind]
    assert len(bomb()) < 2**16
    for group in (relevance, frames):
        root.write_bytes(f"{group}/{place or 'frames/c/0/0/0/0/0'}", bomb())
    opened: list[Callable[[], object]] = [
        lambda: read_block(root, frames, 0, 2, [place.partition("/")[0] or "frames"])
    ]
    opened += [lambda: open_run(root.join("runs/c3d-0"))] if place else []
    for attempt in opened:
        tracemalloc.start()
        with pytest.raises(ValueError, match="zstd chunk|too small|buffer") as error:
            attempt()
        assert tracemalloc.get_traced_memory()[1] < EXPANDED / 2, "it was expanded"
        tracemalloc.stop()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"[1]", b"{}", b"\xff", b'{"consolidated_metadata": 3}'])
def test_a_zarr_group_that_is_none_is_refused_in_one_line(run: tuple[Root, str], content: bytes) -> None:
    root, relevance = run
    root.write_bytes(f"{relevance}/zarr.json", content)
    for opened in (lambda: open_run(root.join("runs/c3d-0")), lambda: read_block(root, relevance, 0, 2)):
        with pytest.raises((ValueError, FileNotFoundError)) as error:
            opened()
        assert "\n" not in str(error.value)


class Tags(HTMLParser):
    """The tags of a page and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.slow
def test_hostile_names_go_through_a_whole_job_as_text(
    tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    name = HTML.replace("/", "") + "\n'; touch canary; '"
    data = Path(shutil.copytree(tiny_ucf101, tmp_path / name / "data"))
    checkpoint = Path(shutil.copy(tiny_checkpoint, tmp_path / name / f"{name}.pth"))
    words = ["--data", str(data), "--checkpoint", str(checkpoint), "--root", str(tmp_path / name / "root")]
    options = ["--subset", "all", "--methods", "deep_taylor", "--workers", "1"]
    assert main(["explain", *words, *options]) == 0
    (made,) = (tmp_path / name / "root" / "runs").iterdir()
    assert "<" not in made.name and "\n" not in made.name
    page = Tags()
    page.feed((made / "report" / "index.html").read_text("utf-8"))
    assert "onerror=alert(1)" in page.text, "shown as text"
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert not [name for name in attributes if name.startswith("on")]
    assert not [tag for tag, attrs in page.tags if "alert" in (attrs.get("src") or "")]
    for table in (made / "tables").glob("*.parquet"):
        assert len(pd.read_parquet(table))
