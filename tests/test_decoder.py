"""Videos that bring their decoder down: each costs itself, and neither the process that asks nor the next."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from storage import decoder, videos
from storage.videos import UndecodableVideo, count_frames, header_frames, read_frames
from tests.processes import wait_until_gone

# What FFmpeg would do on a video that breaks it, by the name of the file. Python loads this module first, and
# only the decoding process has these faults.
FAULTS = """
import sys
if any(word.endswith("decoder.py") for word in sys.orig_argv):
    import ctypes, math, os, resource, signal, time, cv2, numpy
    Real = cv2.VideoCapture
    class Capture:
        def __init__(self, path, *rest):
            self.real = Real(path, *rest)
            self.fault = getattr(self, "_" + os.path.basename(path).partition(".")[0], None)
            self.left = 5
        def __getattr__(self, name):
            return getattr(self.__dict__.get("real"), name)
        def grab(self):
            self.left -= 1
            if self.left < 0 and self.fault:
                self.fault()
            return self.real.grab()
        def _segfault(self):
            ctypes.string_at(1)
        def _abort(self):
            os.abort()
        def _hang(self):
            while True:
                pass
        def _hangbriefly(self):
            limit = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()), limit[1]))
            self._hang()
        def _eat(self):
            self.eaten = [numpy.empty(2**27, numpy.uint8) for _ in range(10**6)]
        def _killed(self):
            os.kill(os.getpid(), signal.SIGKILL)
        def _killedonce(self):
            marker = os.environ["KILLED_ONCE"]
            if os.path.exists(marker):
                os.unlink(marker)
                self._killed()
        def _exception(self):
            raise RuntimeError("a line\\nand another")
        def _files(self):
            for _ in range(2):
                os.open(os.devnull, os.O_RDONLY)
    cv2.VideoCapture = Capture
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A decoding process of its own, whose FFmpeg breaks on some names."""
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTS)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path / "faults"), before])))
    monkeypatch.setenv("KILLED_ONCE", str(tmp_path / "killed-once"))
    videos._close_server()
    yield
    videos._close_server()


FAULTY = {
    "segfault": r"crashes the decoder \(SIGSEGV\)",
    "abort": r"crashes the decoder \(SIGABRT\)",
    "exception": r"crashes the decoder \(exit code 1\)",
    "hangbriefly": r"hangs the decoder: one frame took more than 30 s",
    "eat": r"needs more than 2,048 MiB",
    "killed": r"was killed on it, twice",
    "files": r"crashes the decoder",
}


@pytest.mark.parametrize(("fault", "reason"), FAULTY.items(), ids=FAULTY)
def test_a_fault_costs_its_video_only(tmp_path, make_avi, make_frames, faulty, fault, reason):
    frames = make_frames(20)
    sound = make_avi(tmp_path / "sound.avi", frames)
    bad = make_avi(tmp_path / f"{fault}.avi", frames)
    expected = np.stack(list(read_frames(sound)))
    with pytest.raises(UndecodableVideo, match=reason) as error:
        count_frames(bad)
    assert "\n" not in str(error.value)
    before = iter(expected)
    with pytest.raises(UndecodableVideo, match=reason):
        for frame in read_frames(bad):
            assert np.array_equal(frame, next(before)), "what came before the fault is sound"
    assert np.array_equal(np.stack(list(read_frames(sound))), expected)
    assert header_frames(bad) == 20, "not decoded, no fault"


@pytest.mark.slow
def test_the_kernel_ends_a_hanging_decoder(tmp_path, make_avi, make_frames, faulty):
    with pytest.raises(UndecodableVideo, match="hangs the decoder"):
        count_frames(make_avi(tmp_path / "hang.avi", make_frames(20)))


def test_a_decoder_killed_from_outside_is_replaced_in_the_middle(tmp_path, make_avi, make_frames, faulty):
    video = make_avi(tmp_path / "killedonce.avi", make_frames(20))
    expected = np.stack(list(read_frames(video)))
    for attempt in (lambda: np.stack(list(read_frames(video))), lambda: count_frames(video)):
        (tmp_path / "killed-once").touch()
        found = attempt()
        assert not (tmp_path / "killed-once").exists()
        assert found.n_frames == 20 if hasattr(found, "n_frames") else np.array_equal(found, expected)


def test_a_server_of_decoders_that_is_killed_is_replaced(tmp_path, make_avi, make_frames):
    video = make_avi(tmp_path / "video.avi", make_frames(200, size=(320, 240)))
    expected = np.stack(list(read_frames(video)))
    reading = read_frames(video)
    found = [next(reading)]
    family = _servers()
    for process in family:
        process.kill()
    found += list(reading)
    assert np.array_equal(np.stack(found), expected)
    assert wait_until_gone(family, timeout=60) == []
    for process in _servers():
        process.kill()
        process.wait()
    assert count_frames(video).n_frames == 200


def test_a_silent_disk_is_not_the_videos_fault(tmp_path, make_avi, make_frames, monkeypatch):
    monkeypatch.setattr(videos, "SILENCE_SECONDS", 0.2)
    reading = read_frames(make_avi(tmp_path / "video.avi", make_frames(200, size=(320, 240))))
    next(reading)
    stopped = [process for process in _servers() if process.ppid() != os.getpid()]
    for process in stopped:
        process.suspend()
    with pytest.raises(TimeoutError, match=r"video.avi: no bytes of it for 0.2 s"):
        list(reading)
    assert wait_until_gone(stopped, timeout=60) == []


def test_a_decoder_is_confined(tmp_path, make_avi, make_frames):
    reading = read_frames(make_avi(tmp_path / "video.avi", make_frames(200, size=(320, 240))))
    next(reading)
    (one,) = (process for process in _servers() if process.ppid() != os.getpid())
    limits = {
        resource.RLIMIT_AS: decoder.MEMORY_BYTES,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        assert resource.prlimit(one.pid, limit) == (value, value)
    assert resource.prlimit(one.pid, resource.RLIMIT_CPU)[0] <= decoder.CPU_SECONDS_A_FRAME + 2
    descriptors = {int(name) for name in os.listdir(f"/proc/{one.pid}/fd")}
    assert resource.prlimit(one.pid, resource.RLIMIT_NOFILE)[1] == max(descriptors) + 1, "not one file more"
    assert [file.path for file in one.open_files()] == [str(tmp_path / "video.avi")]
    assert Path(f"/proc/{one.pid}/oom_score_adj").read_text().strip() == "1000"
    reading.close()


def test_no_process_is_left_when_the_one_that_asks_is_killed(tmp_path, make_avi, make_frames):
    video = make_avi(tmp_path / "video.avi", make_frames(200, size=(320, 240)))
    pid = os.fork()
    if pid == 0:
        # Its own server: the one of the parent is not its to use.
        reading = read_frames(video)
        next(reading)
        (tmp_path / "reading").touch()
        signal.pause()
    while not (tmp_path / "reading").exists():
        pass
    family = psutil.Process(pid).children(recursive=True)
    assert len(family) == 2
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert wait_until_gone(family, timeout=60) == []


def _servers() -> list[psutil.Process]:
    """The process that forks decoders, and the decoders at work."""
    found = [p for p in psutil.Process().children(recursive=True) if decoder.__file__ in p.cmdline()]
    assert found
    return found
