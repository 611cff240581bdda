"""Videos that bring their decoder down: each costs itself, and neither the process that asks nor the next."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from storage.datasets.fingerprints import sha256_of
from storage.stores.root import Root
from storage.tables import read_table
from storage.videos import decoder
from storage.videos import reader as videos
from storage.videos.reader import UndecodableVideo, count_frames, header_frames, read_frames
from tasks.running.stage import Work
from tasks.stages import index
from tests.processes import wait_until_gone

# What FFmpeg would do on a video that breaks it, by the name of the file. Python loads this module first, and
# only the decoding process has these faults.
FAULTS = """
import sys
if any(word.endswith("decoder.py") for word in sys.orig_argv):
    import ctypes, math, os, resource, signal, time, av, numpy
    opened = av.open
    # The kernel answers reads with EIO: nothing lies at the first addresses of a process.
    broken, spare = (os.open("/proc/self/mem", os.O_RDONLY) for _ in range(2))
    class Container:
        def __init__(self, file, *rest, **options):
            self.real = opened(file, *rest, **options)
            self.file = file.content
            name = os.path.basename(getattr(self.file, "name", ""))
            self.fault = getattr(self, "_" + name.partition(".")[0], None)
        def __enter__(self):
            return self
        def __exit__(self, *error):
            self.real.close()
        def __getattr__(self, name):
            return getattr(self.__dict__.get("real"), name)
        def demux(self, stream):
            for number, packet in enumerate(self.real.demux(stream)):
                if number >= 5 and self.fault:
                    self.fault()
                yield packet
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
        def _armed(self):
            for number in range(9):
                try:
                    os.unlink(f"{self.file.name}.{number}")
                    return True
                except FileNotFoundError:
                    pass
        def _killedagain(self):
            if self._armed():
                self._killed()
        def _unread(self):
            os.dup2(broken, self.file.fileno())
        def _unreadonce(self):
            if self._armed():
                os.dup2(self.file.fileno(), spare)
                self._unread()
                for _ in self.real.demux():
                    pass
                os.dup2(spare, self.file.fileno())
        _v_Archery_g01_c01, _v_Archery_g01_c02 = _killedagain, _unreadonce
        def _exception(self):
            raise RuntimeError("a line\\nand another")
        def _files(self):
            for _ in range(2):
                os.open(os.devnull, os.O_RDONLY)
    av.open = Container
"""


STOPPED_AT_THE_END = """
import os, signal, sys
from storage.videos import reader as videos
assert videos.count_frames(sys.argv[1]).n_frames == 5
pid = videos._servers[0].process.pid
os.kill(pid, signal.SIGSTOP)
print(pid)
"""


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A decoding process of its own, whose FFmpeg breaks on some names."""
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "sitecustomize.py").write_text(FAULTS)
    before = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path / "faults"), before])))
    videos._close_server()
    yield
    videos._close_server()


FAULTY = {
    "segfault": r"crashes the decoder \(SIGSEGV\)",
    "abort": r"crashes the decoder \(SIGABRT\)",
    "exception": r"crashes the decoder \(exit code 1\)",
    "hangbriefly": r"hangs the decoder: one frame took more than 30 s",
    "eat": r"needs more than 2,048 MiB",
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


def arm(video: Path, times: int) -> None:
    """Let the fault of a video happen so many times."""
    for number in range(times):
        Path(f"{video}.{number}").touch()


def test_a_decoder_killed_from_outside_is_replaced_in_the_middle(tmp_path, make_avi, make_frames, faulty):
    video = make_avi(tmp_path / "killedagain.avi", make_frames(20))
    expected = np.stack(list(read_frames(video)))
    for attempt in (lambda: np.stack(list(read_frames(video))), lambda: count_frames(video)):
        arm(video, 1)
        found = attempt()
        assert not list(tmp_path.glob("*.0"))
        assert found.n_frames == 20 if hasattr(found, "n_frames") else np.array_equal(found, expected)


MACHINE = {
    # Killed on the first try and on the second.
    "killedagain": (
        2,
        ChildProcessError,
        r"killedagain.avi: its decoder was killed from outside, twice",
    ),
    "unreadonce": (1, OSError, rf"Errno {errno.EIO}\] .*unreadonce.avi"),
}


@pytest.mark.parametrize(("fault", "expected"), MACHINE.items(), ids=MACHINE)
def test_trouble_of_the_machine_is_no_fault_of_the_video(
    tmp_path, make_avi, make_frames, faulty, fault, expected
):
    times, kind, words = expected
    video = make_avi(tmp_path / f"{fault}.avi", make_frames(20, size=(320, 240)))
    sound = np.stack(list(read_frames(video)))
    for attempt in (
        lambda: list(read_frames(video)),
        lambda: list(read_frames(video, stop=6)),
        lambda: count_frames(video),
    ):
        arm(video, times)
        with pytest.raises(kind, match=words) as error:
            attempt()
        assert not isinstance(error.value, UndecodableVideo) and "\n" not in str(error.value)
    assert np.array_equal(np.stack(list(read_frames(video))), sound), "on the next try"
    assert count_frames(video).n_frames == 20


def test_a_disk_that_fails_for_good_ends_no_video_early(tmp_path, make_avi, make_frames, faulty):
    video = make_avi(tmp_path / "unread.avi", make_frames(20, size=(320, 240)))
    for attempt in (count_frames, lambda path: list(read_frames(path, stop=20))):
        with pytest.raises(OSError, match=rf"Errno {errno.EIO}\]"):
            attempt(video)


def test_a_block_of_the_index_waits_for_the_machine(tmp_path, make_avi, make_frames, faulty):
    data, root = tmp_path / "data", Root(str(tmp_path / "root"))
    names = ["Archery/v_Archery_g01_c01.avi", "Archery/v_Archery_g01_c02.avi"]
    (data / "ucfTrainTestlist").mkdir(parents=True)
    for name, (times, _, _) in zip(names, MACHINE.values(), strict=True):
        arm(make_avi(data / "UCF-101" / name, make_frames(20, size=(320, 240))), times)
    content = sha256_of({name: str(data / "UCF-101" / name) for name in names})
    described = [[name, "Archery", 0, "Archery/g01", "test", 1, content[name]] for name in names]
    about = {"videos": described, "classes": ["Archery"], "view": {"clip_length": 16}}
    root.write_json(root.dataset("d").description, about)
    for _, kind, _ in MACHINE.values():
        with pytest.raises(kind):
            index.count_block(Work(root, "", str(data), {"dataset_id": "d"}), 0)
    index.count_block(Work(root, "", str(data), {"dataset_id": "d"}), 0)
    counts = read_table(root, root.dataset("d").counts(0)).to_pandas()
    assert list(counts.n_frames) == [20, 20] and list(counts.note) == ["", ""]


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
    reading = read_frames(make_avi(tmp_path / "video.avi", make_frames(200, size=(320, 240))))
    next(reading)
    stopped = [process for process in _servers() if process.ppid() != os.getpid()]
    for process in stopped:
        process.suspend()
    _check_silence(lambda: list(reading), monkeypatch)
    assert wait_until_gone(stopped, timeout=60) == []


def test_a_server_of_decoders_that_is_stopped_is_not_waited_for(tmp_path, make_avi, make_frames, monkeypatch):
    video = make_avi(tmp_path / "video.avi", make_frames(200, size=(320, 240)))
    expected = np.stack(list(read_frames(video)))
    # Stopped before it is asked, and while a decoder of its own is at work, whose end it can't tell then.
    (server,) = _servers()
    server.suspend()
    _check_silence(lambda: count_frames(video), monkeypatch)
    assert wait_until_gone([server], timeout=60) == []
    reading = read_frames(video)
    next(reading)
    family = _servers()
    (server,) = (process for process in family if process.ppid() == os.getpid())
    server.suspend()
    for process in family:
        if process != server:
            process.kill()
    _check_silence(lambda: list(reading), monkeypatch)
    _check_silence(lambda: count_frames(video), monkeypatch)
    assert wait_until_gone(family, timeout=60) == []
    assert np.array_equal(np.stack(list(read_frames(video))), expected)


def test_a_stopped_server_does_not_hold_the_program_that_ends(tmp_path, make_avi, make_frames):
    video = make_avi(tmp_path / "video.avi", make_frames(5))
    program = subprocess.run(
        [sys.executable, "-c", STOPPED_AT_THE_END, video],
        timeout=60,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not psutil.pid_exists(int(program.stdout))


def _check_silence(attempt, monkeypatch):
    with (
        monkeypatch.context() as patch,
        pytest.raises(TimeoutError, match="video.avi: no bytes of it for 0.2 s"),
    ):
        patch.setattr(videos, "SILENCE_SECONDS", 0.2)
        attempt()


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
