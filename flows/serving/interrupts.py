"""Ctrl-C and SIGTERM at moments when they can be obeyed: once, and not in the middle of a start or a stop."""

from __future__ import annotations

import _thread
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import Any, TypeVar

Value = TypeVar("Value")
_log = logging.getLogger("selrel")
_AGAIN_S = 0.05
_STOPPING_S = 30.0
# Each with the handler that Python starts with.
_OBEYED: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_open: list[_Hold] = []


@contextmanager
def one_interrupt(leave: Callable[[], object]) -> Iterator[None]:
    """Obey the first Ctrl-C or SIGTERM, and none that comes while the process stops, for half a minute.

    Within an import, it is not raised: some compiled modules would abort the process. Where Ctrl-C is
    ignored, as for a shell's background job, or handled by somebody else, that stays so; then SIGTERM stops
    the process in the same order.

    Parameters
    ----------
    leave : callable
        Called instead where an import is under way and nothing is open (`uninterrupted`) that must be
        stopped in order: it ends the process at once. With something open, the import is ended first.
    """
    obeyed = [number for number, handler in _OBEYED.items() if signal.getsignal(number) is handler]
    if not _in_main_thread() or not obeyed:
        yield
        return
    once = _Once(leave, sys.unraisablehook)
    for number in obeyed:
        signal.signal(number, once.obey)
    sys.unraisablehook = once.obey_if_lost
    try:
        yield
    finally:
        sys.unraisablehook = once.hook
        for number in obeyed:
            signal.signal(number, _OBEYED[number])
        # A handler of Python's own would be taken off as the interpreter ends, which takes a while.
        if once.pressed is not None and signal.SIGINT in obeyed:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def say_how_to_stop() -> None:
    """Name SIGTERM where this process ignores Ctrl-C, as a script's shell has it for background jobs."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        _log.info("Ctrl-C is ignored, as in a script's background jobs: `kill %d` stops this", os.getpid())


@contextmanager
def uninterrupted(context: AbstractContextManager[Value]) -> Iterator[Value]:
    """Enter and leave a context as a whole: a Ctrl-C or SIGTERM meanwhile counts as soon as that is done.

    What is half started can't be stopped in order, and what is half stopped stays. So a context that is
    entered in here must not wait for long.

    Parameters
    ----------
    context : context manager
        What to enter; its body can be interrupted as usual.

    Yields
    ------
    object
        What `context` yields.
    """
    hold = _Hold()
    hold.begin()
    _open.append(hold)
    try:
        with context as value:
            try:
                hold.end()
                yield value
            finally:
                hold.begin()
    finally:
        _open.remove(hold)
        hold.end()


class _Once:
    """What Ctrl-C and SIGTERM do while a command runs."""

    def __init__(self, leave: Callable[[], object], hook: Callable[[sys.UnraisableHookArgs], object]) -> None:
        self.leave, self.hook = leave, hook
        self.pressed: int | None = None
        self.obeyed_at: float | None = None

    def obey(self, number: int, frame: FrameType | None) -> None:
        # A stop may hang.
        if self.obeyed_at is not None and time.monotonic() - self.obeyed_at < _STOPPING_S:
            return
        self.pressed = number
        while frame is not None:
            if frame.f_globals.get("__name__") == "importlib._bootstrap":
                if not _open:
                    self.leave()
                _press_later(number)
                return
            frame = frame.f_back
        self.obeyed_at = time.monotonic()
        raise KeyboardInterrupt

    def obey_if_lost(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Raise it again where Python could not: in a finaliser, or a callback of its garbage collection."""
        if unraisable.exc_type is not KeyboardInterrupt or self.obeyed_at is None or not _in_main_thread():
            self.hook(unraisable)
            return
        assert self.pressed is not None
        self.obeyed_at = None
        _press_later(self.pressed)


class _Hold:
    """Notes a Ctrl-C or SIGTERM between `begin` and `end`, and passes it on at the end."""

    def __init__(self) -> None:
        # Other threads don't get the signals; one that is ignored, or ends the process at once, stays so.
        handlers = {number: signal.getsignal(number) for number in _OBEYED} if _in_main_thread() else {}
        self.before = {number: handler for number, handler in handlers.items() if callable(handler)}
        self.noted: list[int] = []

    def begin(self) -> None:
        for number in self.before:
            signal.signal(number, lambda pressed, _: self.noted.append(pressed))

    def end(self) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.noted:
            number, self.noted = self.noted[-1], []
            signal.raise_signal(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _press_later(number: int) -> None:
    def press(thread: int) -> None:
        time.sleep(_AGAIN_S)
        signal.pthread_kill(thread, number)

    # threading.Thread takes locks, which the code that was interrupted may hold.
    _thread.start_new_thread(press, (threading.get_ident(),))
