"""Ctrl-C at moments when it can be obeyed: once, and not in the middle of a start or a stop."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from types import FrameType
from typing import TypeVar

Value = TypeVar("Value")
_AGAIN_S = 0.05
_STOPPING_S = 30.0
_open: list[_Hold] = []


@contextmanager
def one_interrupt(leave: Callable[[], object]) -> Iterator[None]:
    """Obey the first Ctrl-C, and none that comes while the process is stopping for it, for half a minute.

    Within an import, it is not raised: some compiled modules would abort the process. Where Ctrl-C is
    ignored, as for a shell's background job, or handled by somebody else, that stays so.

    Parameters
    ----------
    leave : callable
        Called instead where an import is under way and nothing is open (`uninterrupted`) that must be
        stopped in order: it ends the process at once. With something open, the import is ended first.
    """
    if not _in_main_thread() or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    once = _Once(leave, sys.unraisablehook)
    signal.signal(signal.SIGINT, once.obey)
    sys.unraisablehook = once.obey_if_lost
    try:
        yield
    finally:
        sys.unraisablehook = once.hook
        # A handler of Python's own would be taken off as the interpreter ends, which takes a while.
        signal.signal(signal.SIGINT, signal.SIG_IGN if once.pressed else signal.default_int_handler)


@contextmanager
def uninterrupted(context: AbstractContextManager[Value]) -> Iterator[Value]:
    """Enter and leave a context as a whole: a Ctrl-C meanwhile counts as soon as that is done.

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
    """What Ctrl-C does while a command runs."""

    def __init__(self, leave: Callable[[], object], hook: Callable[[sys.UnraisableHookArgs], object]) -> None:
        self.leave, self.hook = leave, hook
        self.pressed = False
        self.obeyed_at: float | None = None

    def obey(self, _: int, frame: FrameType | None) -> None:
        # A stop may hang.
        if self.obeyed_at is not None and time.monotonic() - self.obeyed_at < _STOPPING_S:
            return
        self.pressed = True
        if _is_importing(frame):
            if not _open:
                self.leave()
            _press_later()
            return
        self.obeyed_at = time.monotonic()
        raise KeyboardInterrupt

    def obey_if_lost(self, unraisable: sys.UnraisableHookArgs) -> None:
        """Raise it again where Python could not: in a finaliser, or a callback of its garbage collection."""
        if unraisable.exc_type is not KeyboardInterrupt or self.obeyed_at is None or not _in_main_thread():
            self.hook(unraisable)
            return
        self.obeyed_at = None
        _press_later()


class _Hold:
    """Notes a Ctrl-C between `begin` and `end`, and passes it on at the end."""

    def __init__(self) -> None:
        self.before = signal.getsignal(signal.SIGINT)
        # Other threads don't get the signal, and one that is ignored stays so.
        self.applies = _in_main_thread() and callable(self.before)
        self.noted = False

    def begin(self) -> None:
        if self.applies:
            signal.signal(signal.SIGINT, self._note)

    def end(self) -> None:
        if self.applies:
            signal.signal(signal.SIGINT, self.before)
        if self.noted:
            self.noted = False
            signal.raise_signal(signal.SIGINT)

    def _note(self, *_: object) -> None:
        self.noted = True


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False


def _press_later() -> None:
    # threading.Thread takes locks, which the code that was interrupted may hold.
    _thread.start_new_thread(_press, (threading.get_ident(),))


def _press(thread: int) -> None:
    time.sleep(_AGAIN_S)
    signal.pthread_kill(thread, signal.SIGINT)
