"""Flows that run on a private server, called from Python as by the command line, and that outlive it."""

from __future__ import annotations

import copy
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, ParamSpec, TypeVar

from prefect import Flow
from prefect.context import FlowRunContext
from prefect.events import emit_event
from prefect.exceptions import TerminationSignal
from prefect.settings import get_current_settings
from prefect.utilities.callables import get_call_parameters

from flows.cluster import check_cluster, refuse_unguarded_script
from flows.local_server import is_used, temporary_server
from flows.outages import outage

# As flows/heartbeat.yaml calls it.
ENDED = "selrel.flow-run.ended"
P = ParamSpec("P")
R = TypeVar("R")
_OF_A_CLUSTER = ("workers", "scheduler", "insecure")
# Prefect sends it from a thread of its own, a few tenths of a second after the run began.
_FIRST_HEARTBEAT_S = 2.0
_APART_S = 1.0
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
            check_cluster(**{name: parameters[name] for name in _OF_A_CLUSTER if name in parameters})
        outcome: Future[R] = Future()
        flow = copy.copy(self)
        flow.fn = _noting(self.fn, outcome)
        # It reads the annotations, which mean nothing where `flow.fn` is from.
        flow.should_validate_parameters = False
        with _server():
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
                # Prefect's own, while a flow runs; with its server lost, it makes no more of it.
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
        if run is not None and run.flow_run and get_current_settings().flows.heartbeat_frequency is not None:
            time.sleep(max(0.0, began + _FIRST_HEARTBEAT_S - time.monotonic()))
            emit_event(ENDED, resource={"prefect.resource.id": f"prefect.flow-run.{run.flow_run.id}"})
            # With the run's last state at its heels, one of them is lost to a locked database.
            time.sleep(_APART_S)


def _server() -> AbstractContextManager[object]:
    there = is_used() or os.environ.get("PREFECT_API_URL") or FlowRunContext.get() is not None
    return nullcontext() if there else temporary_server()


def _noting(function: Callable[P, R], outcome: Future[R]) -> Callable[P, R]:
    """Let `function` note how it ended, which Prefect forgets when it can't tell its server."""

    @functools.wraps(function)
    def noted(*args: Any, **kwargs: Any) -> R:
        try:
            value = function(*args, **kwargs)
        except BaseException as error:
            outcome.set_exception(error)
            raise
        outcome.set_result(value)
        return value

    return noted
