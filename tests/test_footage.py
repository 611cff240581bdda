"""Footage as cameras and editors leave it: read as a player shows it, or left out for a reason."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import Flags
from av.stream import Disposition
from av.video.reformatter import ColorPrimaries

from storage.videos.reader import UndecodableVideo, count_frames, read_frames

Frames = np.ndarray
Make = Callable[..., Frames]

FIELDS = Flags.interlaced_dct | Flags.interlaced_me
TOP_FIELD_FIRST = {"x264-params": "tff=1", "crf": "12"}
BOTTOM_FIELD_FIRST = {"x264-params": "bff=1", "crf": "12"}
FINE = {"qscale": "2"}
PAL, NTSC, SMALL, CROPPED, ODD = (720, 576), (720, 480), (160, 128), (150, 132), (161, 129)

# File, codec, pixel format, size and options of the encoder.
INTERLACED: dict[str, tuple[str, str, tuple[int, int], dict[str, str]]] = {
    "pal.avi": ("dvvideo", "yuv420p", PAL, {}),
    "pal.dv": ("dvvideo", "yuv420p", PAL, {}),
    "ntsc.mov": ("dvvideo", "yuv411p", NTSC, {}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", SMALL, FINE),
    "mpeg2.m2ts": ("mpeg2video", "yuv422p", SMALL, FINE),
    "mpeg4.avi": ("mpeg4", "yuv420p", SMALL, FINE),
    "odd.avi": ("mpeg4", "yuv420p", ODD, FINE),
    "h264.mp4": ("libx264", "yuv420p", CROPPED, TOP_FIELD_FIRST),
    "h264.mts": ("libx264", "yuv420p", SMALL, BOTTOM_FIELD_FIRST),
    "h264.mkv": ("libx264", "yuv422p10le", SMALL, TOP_FIELD_FIRST),
    "prores.mov": ("prores_ks", "yuv422p10le", SMALL, {}),
}


def woven(make_frames: Make, n_frames: int, size: tuple[int, int] = SMALL) -> Frames:
    """Frames of which the odd lines were taken half a frame later."""
    fields = make_frames(2 * n_frames, size=size)
    frames = fields[0::2].copy()
    frames[:, 1::2] = fields[1::2, 1::2]
    return frames


def encode(
    path: Path,
    frames: Frames,
    codec: str,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    *,
    interlaced: bool = True,
    tags: dict[str, int] | None = None,
) -> Path:
    """Write RGB frames, or frames in planes as they are, with PyAV's encoders."""
    rate = Fraction(30_000, 1001) if pix_fmt == "yuv411p" else Fraction(25)
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate, options=options or {})
        stream.pix_fmt = pix_fmt
        for name, value in {"field_order": 2 if interlaced else 1, **(tags or {})}.items():
            setattr(stream.codec_context, name, value)
        if interlaced:
            stream.codec_context.flags |= FIELDS
        for number, frame in enumerate(frames):
            if not isinstance(frame, av.VideoFrame):
                frame = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if number == 0:
                stream.width, stream.height = frame.width, frame.height
            frame.pts = None
            container.mux(stream.encode(frame.reformat(format=pix_fmt, interpolation="BICUBIC")))
        container.mux(stream.encode())
    return path


def flags_of(path: Path) -> list[bool]:
    """Whether each frame is interlaced, in the words of the file."""
    with av.open(path) as container:
        return [frame.interlaced_frame for frame in container.decode(video=0)]


def check(path: Path, expected: Frames) -> None:
    """The frames are the expected ones, but for what a codec loses, and each is another one."""
    facts = count_frames(path)
    assert facts.n_frames == len(expected) and "nothing moves" not in facts.note
    found = np.stack(list(read_frames(path)))
    assert found.shape == expected.shape
    errors = np.abs(found.astype(float) - expected).mean((1, 2, 3))
    assert errors.max() < 5, "a black frame is off by 80, the one before by more than twice its own error"
    assert len({frame.tobytes() for frame in found}) == len(expected)
    assert np.array_equal(next(read_frames(path, start=len(found) - 1)), found[-1])


@pytest.mark.parametrize("name", INTERLACED)
def test_interlaced_throughout(tmp_path: Path, make_frames: Make, name: str) -> None:
    codec, pix_fmt, size, options = INTERLACED[name]
    frames = woven(make_frames, 8, size)
    path = encode(tmp_path / name, frames, codec, pix_fmt, options)
    assert flags_of(path) == [True] * 8
    check(path, frames)


@pytest.mark.parametrize("kind", ["m2v", "ts"])
@pytest.mark.parametrize("first", [False, True], ids=["progressive first", "interlaced first"])
def test_interlaced_from_the_middle_or_up_to_it(
    tmp_path: Path, make_frames: Make, kind: str, first: bool
) -> None:
    frames = woven(make_frames, 16)
    codec, options = {"m2v": ("mpeg2video", FINE), "ts": ("libx264", TOP_FIELD_FIRST)}[kind]
    parts = [
        encode(
            tmp_path / f"{number}.{kind}",
            half,
            codec,
            options=options if interlaced else {k: v for k, v in options.items() if k != "x264-params"},
            interlaced=interlaced,
        ).read_bytes()
        for number, (half, interlaced) in enumerate([(frames[:8], first), (frames[8:], not first)])
    ]
    path = tmp_path / f"both.{kind}"
    path.write_bytes(b"".join(parts))
    assert flags_of(path) == [first] * 8 + [not first] * 8
    check(path, frames)


def test_each_field_has_its_own_colours(tmp_path: Path) -> None:
    """Of two fields, one red and one blue, no line is a mixture."""
    red, blue = (81, 90, 240), (41, 240, 110)
    picture = av.VideoFrame(*SMALL, "yuv420p")
    for plane, *values in zip(picture.planes, red, blue, strict=True):
        lines = np.array(values, np.uint8)[np.arange(plane.height) % 2]
        plane.update(np.repeat(lines, plane.line_size).tobytes())
    path = encode(tmp_path / "fields.mpg", [picture] * 3, "mpeg2video", options=FINE)
    assert flags_of(path) == [True] * 3
    for frame in read_frames(path):
        assert np.abs(frame[0::2].astype(int) - (254, 0, 0)).mean((0, 1)).max() < 8
        assert np.abs(frame[1::2].astype(int) - (0, 0, 255)).mean((0, 1)).max() < 8


def test_the_trial_video_is_read(shared_data: Path) -> None:
    frames = np.stack(list(read_frames(shared_data / "cases" / "interlaced.avi")))
    assert len({frame.tobytes() for frame in frames}) == len(frames) == 25
    grey = frames @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey.mean((1, 2)) - 112).max() < 2


# Colour matrices that FFmpeg does not convert: YCgCo, BT.2020 with constant luminance, ICtCp.
@pytest.mark.parametrize("matrix", [8, 10, 14])
def test_what_does_not_convert_is_left_out(tmp_path: Path, make_frames: Make, matrix: int) -> None:
    path = encode(
        tmp_path / "odd.mp4",
        make_frames(4),
        "libx264",
        options={"crf": "12"},
        interlaced=False,
        tags={"colorspace": matrix},
    )
    reason = rf"frame 0 does not convert to RGB \(yuv420p, colour matrix {matrix}\); encode the video anew"
    for attempt in (count_frames, lambda path: list(read_frames(path))):
        with pytest.raises(UndecodableVideo, match=reason):
            attempt(path)


def test_a_frame_in_the_middle_that_does_not_convert_is_seen(tmp_path: Path, make_frames: Make) -> None:
    frames = make_frames(8)
    parts = [
        encode(tmp_path / f"{matrix}.ts", half, "libx264", interlaced=False, tags={"colorspace": matrix})
        for half, matrix in ((frames[:4], 5), (frames[4:], 8))
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert len(list(read_frames(path, stop=4))) == 4
    with pytest.raises(UndecodableVideo, match="frame 4 does not convert"):
        count_frames(path)


@pytest.mark.parametrize("curve", [9, 10])
def test_a_logarithmic_curve_is_no_obstacle(tmp_path: Path, make_frames: Make, curve: int) -> None:
    frames = make_frames(4)
    path = encode(
        tmp_path / "log.mp4",
        frames,
        "libx264",
        options={"crf": "12"},
        interlaced=False,
        tags={"color_trc": curve},
    )
    check(path, frames)


def test_wide_gamuts_are_mapped_to_a_screen(tmp_path: Path, make_frames: Make) -> None:
    """Colours of BT.2020 are more vivid on a screen of BT.709 than their bare numbers say."""
    frames = make_frames(2)
    tags: dict[str, int] = {"color_primaries": ColorPrimaries.BT2020}
    path = encode(
        tmp_path / "wide.mp4", frames, "libx264", options={"crf": "12"}, interlaced=False, tags=tags
    )
    found = np.stack(list(read_frames(path)))
    assert np.ptp(found.astype(int), axis=3).mean() > 1.1 * np.ptp(frames.astype(int), axis=3).mean()


def test_a_film_cut_out_of_a_broadcast_begins_with_its_first_key_frame(
    tmp_path: Path, make_frames: Make
) -> None:
    frames = make_frames(24, size=SMALL)
    options = {"crf": "12", "x264-params": "keyint=8:min-keyint=8:scenecut=0:bframes=0"}
    whole = encode(tmp_path / "whole.ts", frames, "libx264", options=options, interlaced=False).read_bytes()
    with av.open(tmp_path / "whole.ts") as container:
        places = [p.pos for p in container.demux(video=0) if p.pos is not None]
    cut = tmp_path / "cut.ts"
    # The container's tables come again with every key frame.
    cut.write_bytes(whole[places[1] :])
    found = list(read_frames(cut))
    assert len(found) == 16
    assert np.abs(np.stack(found).astype(float) - frames[8:]).mean() < 5


def test_a_first_packet_that_does_not_decode_is_passed_over(
    tmp_path: Path, make_avi: Any, make_frames: Make
) -> None:
    path = make_avi(tmp_path / "video.avi", make_frames(5))
    whole = np.stack(list(read_frames(path)))
    data = bytearray(path.read_bytes())
    start = data.index(b"00dc", data.index(b"movi")) + 8
    size = int.from_bytes(data[start - 4 : start], "little")
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    assert count_frames(path).note == "header says 5 frames, 4 decode"
    assert np.array_equal(np.stack(list(read_frames(path))), whole[1:])


def test_text_in_another_script_is_no_obstacle(tmp_path: Path, make_avi: Any, make_frames: Make) -> None:
    path = make_avi(tmp_path / "video.avi", make_frames(5))
    data = path.read_bytes()
    assert b"Lavf" in data
    path.write_bytes(data.replace(b"Lavf", b"\xff\xfe\xc3\x28"))
    assert count_frames(path).n_frames == 5


def test_a_film_with_all_that_comes_with_one(tmp_path: Path, make_frames: Make) -> None:
    """Sound first, subtitles, a font, and a second picture: what is read is the first video."""
    path, frames = tmp_path / "film.mkv", make_frames(5)
    with av.open(path, "w") as container:
        sound = container.add_stream("flac", 44_100)
        sound.codec_context.format = "s16"
        streams = [container.add_stream("ffv1", 25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "bgr0"
        subtitles = container.add_mux_stream("subrip")
        container.add_attachment("font.ttf", "application/x-truetype-font", b"no font")
        for stream, shown in zip(streams, (frames, 255 - frames), strict=True):
            for frame in shown:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
        text = av.Packet(b"Hello")
        text.stream, text.pts, text.dts, text.duration = subtitles, 0, 0, 100
        container.mux(text)
    with av.open(path) as container:
        assert [stream.type for stream in container.streams] == [
            *("audio", "video", "video", "subtitle", "attachment")
        ]
    assert np.array_equal(np.stack(list(read_frames(path))), frames)
    assert count_frames(path).note == ""


def test_a_song_with_a_cover_is_no_video(tmp_path: Path, make_frames: Make) -> None:
    path = tmp_path / "song.mp4"
    with av.open(path, "w") as container:
        sound = container.add_stream("aac", 44_100)
        cover = container.add_stream("mjpeg", 25)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(make_frames(1)[0], format="rgb24").reformat(format="yuvj420p")
        container.mux(cover.encode(picture))
        container.mux(cover.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), np.float32), "fltp", "stereo")
        silence.sample_rate = 44_100
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    with pytest.raises(UndecodableVideo, match="holds no video"):
        count_frames(path)
