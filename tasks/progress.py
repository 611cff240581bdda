"""Shows how far a stage is: a bar in a terminal, a line now and then in a log, an artifact in Prefect."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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

_LOG_EVERY_S = 15.0
# One update of an artifact costs 30 ms.
_ARTIFACT_EVERY_S = 2.0
_log = logging.getLogger("selrel")


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
            shows = [stack.enter_context(_bar(console, stage, total, done, unit))]
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


@contextmanager
def _bar(console: Console, stage: str, total: int, done: int, unit: str) -> Iterator[Show]:
    columns = (TextColumn("{task.description:<8}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, _Rate(), TimeLeft(), console=console) as shown:
        bar = shown.add_task(stage, total=total, completed=done)
        yield lambda finished: shown.update(bar, completed=finished)


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
    artifact: UUID | None = None
    with quietly("progress artifact"):
        artifact = create_progress_artifact(progress=0.0, description=f"{stage}: {total:,} {unit}")  # type: ignore[assignment]
    next_at = 0.0

    def show(finished: int) -> None:
        nonlocal next_at
        if artifact is not None and (finished >= total or time.monotonic() >= next_at):
            next_at = time.monotonic() + _ARTIFACT_EVERY_S
            with quietly("progress artifact"):
                update_progress_artifact(artifact, progress=100.0 * finished / max(1, total))

    return show


@contextmanager
def quietly(what: str) -> Iterator[None]:
    """Go on without an artifact that Prefect doesn't take: its server is no part of the result."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        _log.warning("%s not shown in Prefect: %s", what, error)
