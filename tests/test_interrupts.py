"""Ctrl-C is obeyed once, and neither within an import nor in the middle of a start or a stop."""

from __future__ import annotations

import importlib
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.serving import interrupts
from flows.serving.interrupts import one_interrupt, uninterrupted
from flows.serving.scratch import scratch_directory


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Python's own at first, and afterwards what it was: an obeyed Ctrl-C leaves a process deaf to more."""
    before = {
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def never() -> None:
    raise AssertionError("it has something to stop")


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@contextmanager
def steps(done: list[str], *, pressed_in: str) -> Iterator[str]:
    """A context that notes what it has done."""
    if pressed_in == "start":
        press()
    done.append("start")
    try:
        yield "value"
    finally:
        if pressed_in == "stop":
            press()
        done.append("stop")


@pytest.mark.parametrize(
    ("pressed_in", "expected"),
    [
        ("start", ["start", "stop"]),
        ("body", ["start", "body", "stop"]),
        ("stop", ["start", "body", "end", "stop"]),
    ],
)
def test_a_context_is_entered_and_left_as_a_whole(pressed_in: str, expected: list[str]) -> None:
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), uninterrupted(steps(done, pressed_in=pressed_in)) as value:
        done.append("body")
        assert value == "value"
        if pressed_in == "body":
            press()
        done.append("end")
    assert done == expected
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_contexts_within_each_other_are_all_left() -> None:
    done: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        one_interrupt(never),
        uninterrupted(steps(done, pressed_in="stop")),
        uninterrupted(steps(done, pressed_in="start")),
    ):
        done.append("body")
    assert done == ["start", "start", "stop", "stop"]


def test_an_error_in_the_body_stays_what_it_is() -> None:
    done: list[str] = []
    with pytest.raises(OSError, match="no disk"), uninterrupted(steps(done, pressed_in="never")):
        raise OSError("no disk")
    assert done == ["start", "stop"]


def test_only_the_first_is_obeyed() -> None:
    with one_interrupt(never):
        with pytest.raises(KeyboardInterrupt):
            press()
        press()
    press()


def test_one_that_python_can_not_raise_comes_again() -> None:
    """As in the callback that Dask has Python's garbage collection call."""

    class Finalised:
        def __del__(self) -> None:
            press()

    with one_interrupt(never), pytest.raises(KeyboardInterrupt):
        Finalised()
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            time.sleep(0.01)


def test_one_after_half_a_minute_is_obeyed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first may have been lost, or its stop hang."""
    now = 0.0
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now)
    with one_interrupt(never):
        with pytest.raises(KeyboardInterrupt):
            press()
        now = 29.0
        press()
        now = 31.0
        with pytest.raises(KeyboardInterrupt):
            press()


def test_sigterm_is_obeyed_where_ctrl_c_is_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done: list[str] = []
    with pytest.raises(KeyboardInterrupt), one_interrupt(never):
        press()
        with uninterrupted(terminated(done)):
            done.append("body")
    assert done == ["start", "stop"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@contextmanager
def terminated(done: list[str]) -> Iterator[None]:
    """A context that is asked to end while it starts."""
    signal.raise_signal(signal.SIGTERM)
    done.append("start")
    try:
        yield
    finally:
        done.append("stop")


def test_sigterm_within_an_import_comes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "terminated_module"
    (tmp_path / f"{name}.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)\n")
    monkeypatch.syspath_prepend(tmp_path)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with pytest.raises(KeyboardInterrupt), one_interrupt(never), scratch_directory("test"):
        importlib.import_module(name)
        while True:
            time.sleep(0.01)


def test_without_one_everything_is_as_before() -> None:
    with one_interrupt(never):
        pass
    with pytest.raises(KeyboardInterrupt):
        press()


def test_what_is_ignored_stays_ignored() -> None:
    """A shell's background job does not stop for the Ctrl-C of what runs in front."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    done: list[str] = []
    with one_interrupt(never), uninterrupted(steps(done, pressed_in="start")):
        press()
        done.append("body")
    assert done == ["start", "body", "stop"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module during whose import Ctrl-C is pressed."""
    name = "interrupted_module"
    (tmp_path / f"{name}.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\nended = 'yes'\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_an_import_is_ended_where_something_is_open(module: str) -> None:
    done: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        one_interrupt(never),
        uninterrupted(steps(done, pressed_in="never")),
    ):
        importlib.import_module(module)
        while True:
            # It comes again by itself.
            time.sleep(0.01)
    assert sys.modules[module].ended == "yes"
    assert done == ["start", "stop"]


def test_a_scratch_directory_is_something_open(module: str) -> None:
    with pytest.raises(KeyboardInterrupt), one_interrupt(never), scratch_directory("test") as directory:
        importlib.import_module(module)
        while True:
            time.sleep(0.01)
    assert not directory.exists()


def test_an_import_is_left_at_once_where_nothing_is_open(module: str) -> None:
    def leave() -> None:
        raise SystemExit("left")

    with pytest.raises(SystemExit, match="left"), one_interrupt(leave):
        importlib.import_module(module)
    assert module not in sys.modules
