import io
import json

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from flows import cli
from selrel.selective import SelectiveParameters, selective_mask
from storage.report.exports import gif, mp4, npz, webm
from tasks.export import export_clip, read_clip
from tests.made_run import METHODS, make_run
from tests.servers import BUCKET, s3_client, s3_server

SHORT = 2  # a clip of 8 valid frames


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def frames():
    """A square that moves over grey, (time, y, x, 3)."""
    drawn = np.full((6, 48, 64, 3), 128, np.uint8)
    for t, frame in enumerate(drawn):
        frame[16:32, 8 * t : 8 * t + 16] = (178, 24, 43)
    return drawn


def played(data, kind, tmp_path):
    """The frames of a video and their rate."""
    path = tmp_path / f"clip.{kind}"
    path.write_bytes(data)
    video, found = cv2.VideoCapture(str(path)), []
    while (got := video.read())[0]:
        found.append(got[1][..., ::-1])
    return np.array(found), video.get(cv2.CAP_PROP_FPS)


@pytest.mark.parametrize(("kind", "encode"), [("webm", webm), ("mp4", mp4)])
def test_a_video_holds_its_frames_in_order(kind, encode, frames, tmp_path):
    found, fps = played(encode(frames, fps=5), kind, tmp_path)
    assert found.shape == frames.shape
    assert fps == pytest.approx(5)
    for t, frame in enumerate(found):
        differences = [np.abs(frame.astype(int) - other).mean() for other in frames]
        assert np.argmin(differences) == t
        assert differences[t] < 6


def test_writing_webm_says_nothing(frames, capfd):
    webm(frames, fps=5)
    assert capfd.readouterr() == ("", "")


def test_a_gif_repeats_and_keeps_its_colours(frames):
    picture = Image.open(io.BytesIO(gif(frames, fps=5)))
    assert picture.n_frames == len(frames)
    assert picture.info["loop"] == 0
    for t, frame in enumerate(frames):
        picture.seek(t)
        assert picture.info["duration"] == 200
        assert np.abs(np.array(picture.convert("RGB")).astype(int) - frame).max() <= 8


def test_npz_needs_no_pickle():
    data = npz({"a": np.arange(3.0)}, {"b": ["é", None]})
    with np.load(io.BytesIO(data), allow_pickle=False) as found:
        assert found["a"].tolist() == [0, 1, 2]
        assert json.loads(str(found["about"])) == {"b": ["é", None]}


@pytest.mark.parametrize("clip", [0, SHORT])
def test_a_clip_is_read_as_it_was_made(made, clip):
    found = read_clip(made.url, clip, sigma=1.3)
    n = int(made.clips.n_valid_frames[clip])
    np.testing.assert_array_equal(found.frames, made.frames[clip, :n])
    np.testing.assert_array_equal(found.flow, made.flow[clip, :n])
    assert tuple(found.relevance) == METHODS
    for method, cube in found.relevance.items():
        exact = made.cubes[method][clip, :n]
        np.testing.assert_allclose(cube, exact, rtol=1e-3, atol=1e-7 * np.abs(exact).max())
        mask = selective_mask(torch.from_numpy(cube), n, SelectiveParameters(sigma=1.3)).numpy()
        assert mask.any() and not mask.all()
        np.testing.assert_array_equal(found.masks()[method], mask)


def test_npz_holds_everything_in_real_units(made):
    clip = read_clip(made.url, SHORT, methods=["deep_taylor"], sigma=3.0)
    with np.load(io.BytesIO(export_clip(clip, "npz")), allow_pickle=False) as found:
        arrays = dict(found)
    about = json.loads(str(arrays.pop("about")))
    assert arrays.keys() == about["arrays"].keys()
    assert arrays.keys() == {"frames", "flow", "deep_taylor", "deep_taylor_selected"}
    np.testing.assert_array_equal(arrays["deep_taylor"], clip.relevance["deep_taylor"])
    np.testing.assert_array_equal(arrays["deep_taylor_selected"], clip.masks()["deep_taylor"])
    assert arrays["flow"].dtype == np.float32
    assert "px/frame" in about["arrays"]["flow"]
    assert about["selective"]["sigma"] == 3.0
    row = made.clips.iloc[SHORT]
    for name in ("video", "class", "start_frame", "n_valid_frames", "fps"):
        assert about["clip"][name] == row[name]


@pytest.mark.parametrize("kind", ["webm", "mp4"])
def test_a_film_shows_the_valid_frames_of_the_clip(made, kind, tmp_path):
    clip = read_clip(made.url, SHORT)
    found, fps = played(export_clip(clip, kind, fps=4), kind, tmp_path)
    assert len(found) == len(clip.frames) == 8
    assert fps == pytest.approx(4)


def test_sigma_method_and_palette_change_the_picture(made):
    sheets = {
        export_clip(read_clip(made.url, 0, methods=methods, sigma=sigma), "png", palette=palette)
        for methods, sigma, palette in (
            (None, 2.0, "red-blue"),
            (None, 3.0, "red-blue"),
            (["deep_taylor"], 2.0, "red-blue"),
            (None, 2.0, "orange-purple"),
        )
    }
    assert len(sheets) == 4
    for data in sheets:
        assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is not None


MAGIC = {"webm": b"\x1aE\xdf\xa3", "gif": b"GIF89a", "png": b"\x89PNG", "npz": b"PK", "mp4": b"\x00\x00"}


@pytest.mark.parametrize("kind", MAGIC)
def test_the_command_writes_the_file(made, kind, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", made.url, "--clip", "1", "--format", kind]) == 0
    (file,) = tmp_path.iterdir()
    assert file.name == f"{made.url.rpartition('/')[2]}-clip-1.{kind}"
    assert file.read_bytes().startswith(MAGIC[kind])
    said = capsys.readouterr().out
    assert file.name in said and made.clips.video[1] in said


@pytest.mark.slow
def test_a_run_in_a_bucket_is_exported_into_a_bucket(tmp_path):
    with s3_server(tmp_path / "s3") as server, s3_client(server):
        there = make_run(f"s3://{BUCKET}/results", n_clips=3, methods=("deep_taylor",))
        target = f"s3://{BUCKET}/shown/clip.gif"
        assert cli.main(["export", there.url, "--clip", "2", "--format", "gif", "--output", target]) == 0
        written = server.directory / BUCKET / "shown" / "clip.gif"
        assert written.read_bytes().startswith(b"GIF89a")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--clip", "7"), ("clip 7", "0 to 6", "clips.parquet")),
        (("--clip", "-1"), ("clip -1", "0 to 6")),
        (("--clip", "0", "--method", "lime"), ("'lime'", "deep_taylor, guided_backprop")),
        (("--clip", "0", "--sigma", "0"), ("sigma is 0", "above 0")),
        (("--clip", "0", "--fps", "nan"), ("fps is nan", "up to 60")),
        (("--clip", "0", "--output", "there/"), ("'there/'", "give a file")),
    ],
)
def test_bad_input_is_answered_in_one_line(made, arguments, words, capsys):
    assert cli.main(["export", made.url, *arguments]) == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert all(word in said for word in words), said


def test_what_is_no_finished_run_is_not_exported(tmp_path, capsys):
    url = str(tmp_path / "runs" / "nothing")
    assert cli.main(["export", url, "--clip", "0"]) == 2
    assert "there is no run" in capsys.readouterr().err
    (tmp_path / "runs" / "nothing").mkdir(parents=True)
    assert cli.main(["export", url, "--clip", "0"]) == 2
    assert "is not finished" in capsys.readouterr().err


@pytest.mark.parametrize(("kind", "magic"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_vectors_and_always_the_same(made, kind, magic, tmp_path):
    directories = [tmp_path / "a", tmp_path / "b"]
    for directory in directories:
        assert cli.main(["export", made.url, "--figures", str(directory), "--format", kind]) == 0
    names = {f"{name}.{kind}" for name in ("table1", "table2", "table3", "table4", "sweep")}
    for first in directories[0].iterdir():
        names.remove(first.name)
        assert first.read_bytes().startswith(magic)
        assert b"<image" not in first.read_bytes()
        assert first.read_bytes() == (directories[1] / first.name).read_bytes()
    assert names == set()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--clip", "0", "--figures", "there"),
        ("--clip", "0", "--format", "pdf"),
        ("--figures", "there", "--format", "gif"),
    ],
)
def test_a_clip_and_figures_have_formats_of_their_own(made, arguments, capsys):
    assert cli.main(["export", made.url, *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_page_elsewhere_is_told_in_json_too(made, tmp_path, capsys):
    assert cli.main(["report", made.url, "--json", "--html", str(tmp_path / "page")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(tmp_path / "page" / "index.html") != found["report"]
    assert (tmp_path / "page" / "index.html").exists()
