"""Shows how far a stage is: a bar in a terminal, a line now and then in a log, an artifact in Prefect."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext
from prefect.exceptions import PrefectException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

Show = Callable[[int], None]
Value = TypeVar("Value")

_LOG_EVERY_S = 15.0
# One update of an artifact costs 30 ms.
_ARTIFACT_EVERY_S = 2.0
# A server that answers at all does so sooner; one that does not is asked again after a while.
_PATIENCE_S = 5.0
_AWAY_S = 60.0
_log = logging.getLogger("selrel")
_ask_again_at = 0.0


@contextmanager
def progress(stage: str, total: int, *, done: int, unit: str = "clips") -> Iterator[Show]:
    """Show a stage's progress while it runs.

    Parameters
    ----------
    stage : str
        What is being done.
    total, done : int
        Units of all its work, and of what was found done already.
    unit : str
        What is counted.

    Yields
    ------
    callable
        To be called with the number of units finished since the last call.
    """
    with ExitStack() as stack:
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (
                TextColumn("{task.description:<8}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn(unit),
            )
            shown = stack.enter_context(Progress(*columns, _Rate(), TimeLeft(), console=console))
            bar = shown.add_task(stage, total=total, completed=done)
            shows: list[Show] = [lambda finished: shown.update(bar, completed=finished)]
        else:
            shows = [_log_line(stage, total, done, unit)]
        if TaskRunContext.get() is not None:
            shows.append(_artifact(stage, total, unit))
        finished = done

        def advance(units: int) -> None:
            nonlocal finished
            finished += units
            for show in shows:
                show(finished)

        yield advance


class _Rate(ProgressColumn):
    """Units a second, over the last minute or so."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "", style="progress.data.speed")


def _log_line(stage: str, total: int, done: int, unit: str) -> Show:
    _log.info("%s: %s of %s %s done", stage, f"{done:,}", f"{total:,}", unit)
    next_at = time.monotonic() + _LOG_EVERY_S

    def show(finished: int) -> None:
        nonlocal next_at
        if finished >= total or time.monotonic() >= next_at:
            next_at = time.monotonic() + _LOG_EVERY_S
            _log.info("%s: %s of %s %s done", stage, f"{finished:,}", f"{total:,}", unit)

    return show


def _artifact(stage: str, total: int, unit: str) -> Show:
    about = f"{stage}: {total:,} {unit}"
    artifact = _shown(lambda: create_progress_artifact(progress=0.0, description=about))
    next_at = 0.0

    def show(finished: int) -> None:
        nonlocal next_at
        if artifact is None or (finished < total and time.monotonic() < next_at):
            return
        share = 100.0 * finished / max(1, total)
        _shown(lambda: update_progress_artifact(artifact, progress=share))
        next_at = time.monotonic() + _ARTIFACT_EVERY_S

    return show


def _shown(call: Callable[[], object]) -> UUID | None:
    """Have Prefect show progress, once a minute where its server is away: not each stage waits for it."""
    if time.monotonic() < _ask_again_at:
        return None
    return in_prefect("progress artifact", call)  # type: ignore[return-value]


def in_prefect(what: str, call: Callable[[], Value], *, patience: float = _PATIENCE_S) -> Value | None:
    """Have Prefect show something, and go on without it: a result does not depend on its server.

    Prefect tries for more than a minute where its server is gone. So the call has a thread of its own, which
    is left behind when it takes more than `patience` seconds.

    Returns
    -------
    object
        What `call` returns; None if Prefect did not take it.
    """
    global _ask_again_at
    if time.monotonic() < _ask_again_at:
        patience = min(patience, _PATIENCE_S)
    done: Future[Value] = Future()

    def settle() -> None:
        try:
            done.set_result(call())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=copy_context().run, args=(settle,), daemon=True).start()
    try:
        return done.result(timeout=patience)
    except TimeoutError:
        _log.warning("%s not shown in Prefect: its server does not answer", what)
    except (httpx.HTTPError, PrefectException) as error:
        _log.warning("%s not shown in Prefect: %s", what, error)
    _ask_again_at = time.monotonic() + _AWAY_S
    return None
