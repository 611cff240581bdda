"""Flows that run on a private server, called from Python as by the command line, and that outlive it."""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

import httpx
from prefect import Flow
from prefect._internal.concurrency.services import QueueService
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.events.clients import NullEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import TerminationSignal
from prefect.settings import (
    PREFECT_CLIENT_MAX_RETRIES,
    PREFECT_LOGGING_TO_API_ENABLED,
    get_current_settings,
    temporary_settings,
)
from prefect.utilities.callables import get_call_parameters

from flows.serving.cluster import check_cluster, refuse_unguarded_script
from flows.serving.local_server import is_used, temporary_server
from flows.serving.outages import outage
from tasks.request import Cluster, split

# As flows/serving/heartbeat.yaml calls it.
ENDED = "selrel.flow-run.ended"
P = ParamSpec("P")
R = TypeVar("R")
# Prefect sends it from a thread of its own, a few tenths of a second after the run began.
_FIRST_HEARTBEAT_S = 2.0
_APART_S = 1.0
# A server that answers at all does so sooner.
_PATIENCE_S = 5.0
_LAST_TRY_S = 1.0
_log = logging.getLogger("selrel")


class StandaloneFlow(Flow[P, R]):
    """A flow that needs no server: a call starts one for itself, and goes on when it is lost.

    With `PREFECT_API_URL` in the environment the call is run on that server, as it is within another flow.
    """

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:  # type: ignore[override]
        """Run the flow and return its result.

        Raises
        ------
        RuntimeError
            If a script without the ``__main__`` guard calls it again in each worker.
        """
        refuse_unguarded_script()
        parameters = get_call_parameters(self.fn, args, kwargs)
        if self.should_validate_parameters:
            parameters = self.validate_parameters(parameters)
        if "workers" in parameters:
            (cluster,) = split(parameters, Cluster)
            check_cluster(**vars(cluster))
        outcome: Future[R] = Future()
        flow = copy.copy(self)
        at_the_end = ExitStack()
        flow.fn = _noting(self.fn, outcome, at_the_end)
        # It reads the annotations, which mean nothing where `flow.fn` is from.
        flow.should_validate_parameters = False
        has_server = is_used() or os.environ.get("PREFECT_API_URL") or FlowRunContext.get() is not None
        with nullcontext() if has_server else temporary_server(), at_the_end:
            try:
                Flow.__call__(flow, **parameters)
            except Exception as error:
                reason = outage(error)
                if not (outcome.done() and reason):
                    raise
                if outcome.exception() is None:
                    _log.warning("%s; the work is done all the same", reason)
            try:
                return outcome.result()
            except TerminationSignal:
                # Prefect raises it while a flow runs, and handles it no further once its server is lost.
                raise KeyboardInterrupt from None


def standalone(
    *, name: str, flow_run_name: str | None = None, validate_parameters: bool = True
) -> Callable[[Callable[P, R]], StandaloneFlow[P, R]]:
    """Make a function a flow of this kind, as `prefect.flow` makes it one of Prefect's own."""

    def made(function: Callable[P, R]) -> StandaloneFlow[P, R]:
        return StandaloneFlow(
            function, name=name, flow_run_name=flow_run_name, validate_parameters=validate_parameters
        )

    return made


@contextmanager
def announced_end() -> Iterator[None]:
    """Say that a flow run under a worker ends, for the rule by which one without a heartbeat has crashed.

    Prefect holds back the states of a run that a schedule made, for a quarter of an hour: its first follows
    one that is never sent. And the first heartbeat must come before the end, or it starts the rule again.
    """
    began = time.monotonic()
    try:
        yield
    finally:
        run = FlowRunContext.get()
        sends_heartbeats = get_current_settings().flows.heartbeat_frequency is not None
        if run is not None and run.flow_run and run.flow_run.deployment_id and sends_heartbeats:
            time.sleep(max(0.0, began + _FIRST_HEARTBEAT_S - time.monotonic()))
            emit_event(ENDED, resource={"prefect.resource.id": f"prefect.flow-run.{run.flow_run.id}"})
            # Sent together with the run's last state, one of the two would be lost to a locked database.
            time.sleep(_APART_S)


def _noting(function: Callable[P, R], outcome: Future[R], at_the_end: ExitStack) -> Callable[P, R]:
    """Let `function` note how it ended, which Prefect forgets when it can't tell its server."""

    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> R:
        try:
            value = function(*args, **kwargs)
        except BaseException as error:
            outcome.set_exception(error)
            raise
        else:
            outcome.set_result(value)
            return value
        finally:
            _expect_nothing_of_a_lost_server(at_the_end)

    return noted


def _expect_nothing_of_a_lost_server(until: ExitStack) -> None:
    """Keep a run that has ended from waiting for a server that is gone or hangs.

    Prefect would try for a minute to tell it the end, and as long for each line and event that it still has.
    """
    run = FlowRunContext.get()
    assert run is not None
    patient = get_current_settings().client.max_retries
    until.enter_context(temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}))
    # Of the client with which Prefect tells the end.
    http = run.client._client
    if is_used():
        # A private server that refuses a connection won't come back; Prefect would knock for two seconds.
        http._transport._pool._retries = 0  # type: ignore[union-attr]
    try:
        http.get("/health", timeout=_PATIENCE_S)
    except httpx.HTTPError:
        http.timeout = _LAST_TRY_S
        # What Prefect still says goes nowhere, or would start new senders.
        until.enter_context(temporary_settings({PREFECT_LOGGING_TO_API_ENABLED: False}))
        until.callback(setattr, EventsWorker, "_client_override", EventsWorker._client_override)
        EventsWorker.set_client_override(NullEventsClient)
        # It would report each of them as failed.
        log = logging.getLogger("prefect._internal.concurrency")
        until.callback(setattr, log, "disabled", log.disabled)
        log.disabled = True
        for sender in list(QueueService._instances.values()):  # type: ignore[misc]
            # End one of Prefect's threads, which the interpreter would wait for, with what it has not sent.
            task, loop = sender._task, sender._loop

            async def ended(task: asyncio.Task[None]) -> None:
                task.cancel()
                await asyncio.wait([task], timeout=_LAST_TRY_S)

            if task is not None and loop is not None:
                asyncio.run_coroutine_threadsafe(ended(task), loop).result()
    else:
        until.enter_context(temporary_settings({PREFECT_CLIENT_MAX_RETRIES: patient}))
