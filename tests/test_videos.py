import csv
import itertools
import os
import pickle
import subprocess
import sys

import numpy as np
import psutil
import pytest

from storage.videos import decoder
from storage.videos.reader import UndecodableVideo, count_frames, read_frames
from tests.processes import wait_until_gone

REPORT_UNGUARDED = "import sys, av; print(len(list(av.open(sys.argv[1]).decode(video=0))))"


def test_the_tiny_videos_decode_to_what_was_written(tiny_ucf101, tiny_frames, make_frames):
    for seed, (name, n_frames) in enumerate(tiny_frames.items()):
        path = tiny_ucf101 / "UCF-101" / name
        facts = count_frames(path)
        assert (facts.n_frames, facts.fps, facts.width, facts.height) == (n_frames, 25.0, 64, 48)
        assert facts.note == "" and facts.header_frames == n_frames
        decoded = np.stack(list(read_frames(path)))
        assert decoded.dtype == np.uint8 and decoded.shape == (n_frames, 48, 64, 3)
        # Lossy, but far below what swapped colours or a frame too many would cost.
        assert np.abs(decoded.astype(float) - make_frames(n_frames, seed=seed)).mean() < 4


def test_colours_are_rgb(tmp_path, make_avi):
    red = np.zeros((2, 48, 64, 3), np.uint8)
    red[..., 0] = 200
    first = next(read_frames(make_avi(tmp_path / "red.avi", red)))
    assert first[..., 0].mean() > 190 and first[..., 1:].max() < 20


@pytest.mark.parametrize("codec", ["MJPG", "XVID"])
def test_a_range_is_a_slice_of_the_whole(tmp_path, make_avi, make_frames, codec):
    path = make_avi(tmp_path / "video.avi", make_frames(40), codec=codec)
    whole = np.stack(list(read_frames(path)))
    assert len(whole) == count_frames(path).n_frames == 40
    for start, stop in [(0, 16), (16, 32), (32, 40), (39, 40), (7, 7), (0, 0)]:
        part = list(read_frames(path, start=start, stop=stop))
        assert len(part) == stop - start
        assert not part or np.array_equal(np.stack(part), whole[start:stop])
    assert np.array_equal(np.stack(list(read_frames(path, start=38))), whole[38:])


def test_a_video_that_ends_too_early_says_so(tmp_path, make_avi, make_frames):
    path = make_avi(tmp_path / "video.avi", make_frames(5))
    with pytest.raises(UndecodableVideo, match="ends after 5 frames, 6 were asked for"):
        list(read_frames(path, stop=6))


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2)])
def test_a_range_that_is_none_is_refused(tmp_path, start, stop):
    with pytest.raises(ValueError, match="0 <= start <= stop"):
        next(read_frames(tmp_path / "any.avi", start=start, stop=stop))


@pytest.mark.parametrize("claimed", [999_999, 3])
def test_a_header_that_lies_is_noted_and_not_believed(tmp_path, make_avi, make_frames, claimed):
    path = make_avi(tmp_path / "video.avi", make_frames(20))
    data = bytearray(path.read_bytes())
    # The stream header's dwLength; its position after 'strh' is fixed by the AVI format.
    at = data.index(b"strh") + 8 + 32
    assert int.from_bytes(data[at : at + 4], "little") == 20
    data[at : at + 4] = claimed.to_bytes(4, "little")
    path.write_bytes(data)
    facts = count_frames(path)
    assert facts.n_frames == 20 == len(list(read_frames(path)))
    assert facts.header_frames == claimed
    assert facts.note == f"header says {claimed} frames, 20 decode"


def test_a_truncated_video_gives_its_first_frames(tmp_path, make_avi, make_frames):
    path = make_avi(tmp_path / "video.avi", make_frames(30))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    facts = count_frames(path)
    assert 5 < facts.n_frames < 30
    assert facts.n_frames == len(list(read_frames(path)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "is not a readable video"),
        (b"RIFF\x00\x00\x00\x00AVI LIST", "is not a readable video|no frame decodes"),
        (os.urandom(4096), "is not a readable video|no frame decodes"),
    ],
    ids=["empty", "html", "only a start", "noise"],
)
def test_what_is_no_video_has_a_reason(tmp_path, content, reason):
    path = tmp_path / "video.avi"
    path.write_bytes(content)
    for call in (count_frames, lambda path: list(read_frames(path))):
        with pytest.raises(UndecodableVideo, match=reason) as error:
            call(path)
        assert error.value.path == str(path) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "name", ["missing.avi", "http://127.0.0.1:9/video.avi", "concat:a.avi|b.avi", "a\0b"]
)
def test_a_name_is_only_ever_a_local_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    # Not undecodable: what is absent now may be there on the next try.
    with pytest.raises((FileNotFoundError, ValueError)) as error:
        count_frames(name)
    assert not isinstance(error.value, UndecodableVideo)


def test_a_pipe_or_a_directory_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.avi")
    for path in (tmp_path / "pipe.avi", tmp_path):
        with pytest.raises(UndecodableVideo, match="is not a regular file"):
            count_frames(path)


def test_a_script_called_avi_does_not_read_other_files(tmp_path, make_avi, make_frames):
    make_avi(tmp_path / "other.avi", make_frames(5))
    script = tmp_path / "script.avi"
    script.write_text("ffconcat version 1.0\nfile other.avi\n")
    unguarded = subprocess.run(
        [sys.executable, "-c", REPORT_UNGUARDED, script], capture_output=True, text=True
    )
    assert unguarded.stdout.strip() == "5", "the danger is gone: FFmpeg no longer follows such a script"
    with pytest.raises(UndecodableVideo):
        count_frames(script)


def test_a_name_with_a_colon_is_a_file(tmp_path, monkeypatch, make_avi, make_frames):
    monkeypatch.chdir(tmp_path)
    make_avi(tmp_path / "plain.avi", make_frames(4))
    os.rename("plain.avi", "file:data,x.avi")
    assert count_frames("file:data,x.avi").n_frames == 4


def test_the_error_survives_the_way_from_a_worker():
    error = pickle.loads(pickle.dumps(UndecodableVideo("a.avi", "is empty")))
    assert (error.path, error.reason, str(error)) == ("a.avi", "is empty", "a.avi: is empty")


def test_the_decoder_ends_when_reading_stops_early(tmp_path, make_avi, make_frames):
    path = make_avi(tmp_path / "video.avi", make_frames(200, size=(320, 240)))
    frames = read_frames(path)
    assert len(list(itertools.islice(frames, 3))) == 3
    (server,) = decoding_servers()
    decoders = server.children()
    assert str(path) in {file.path for decoder in decoders for file in decoder.open_files()}
    frames.close()
    assert wait_until_gone(decoders, timeout=60) == []
    assert decoding_servers() == [server], "one process serves all videos"


def test_two_videos_are_read_side_by_side(tmp_path, make_avi, make_frames):
    paths = [make_avi(tmp_path / f"{seed}.avi", make_frames(40, seed=seed)) for seed in range(2)]
    alone = [np.stack(list(read_frames(path))) for path in paths]
    together = [np.stack(frames) for frames in zip(*zip(*map(read_frames, paths), strict=True), strict=True)]
    assert all(np.array_equal(*pair) for pair in zip(alone, together, strict=True))


def test_every_real_video_has_the_frames_of_the_manifest(shared_data):
    data = shared_data / "ucf101-mini"
    with open(data / "manifest.csv") as manifest:
        rows = list(csv.DictReader(manifest))
    assert len(rows) == 124
    for row in rows:
        facts = count_frames(data / row["file"])
        assert facts.n_frames == int(row["frames"]), row["file"]
        assert facts.fps == pytest.approx(float(row["fps"]), abs=0.01)


def decoding_servers():
    """The processes of this one that fork decoders."""
    children = psutil.Process().children()
    return [child for child in children if decoder.__file__ in child.cmdline()]
