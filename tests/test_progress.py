"""What is shown in Prefect costs a run nothing, whatever becomes of the server."""

from __future__ import annotations

import threading
import time
from contextvars import ContextVar

import httpx
import pytest

from tasks.running.progress import in_prefect

SEEN = ContextVar("SEEN", default="nothing")


def test_a_value_comes_back_and_the_call_sees_the_context() -> None:
    token = SEEN.set("the run")
    try:
        assert in_prefect("it", SEEN.get) == "the run"
    finally:
        SEEN.reset(token)


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.ReadTimeout("silent")])
def test_a_server_that_is_gone_is_no_error(error: Exception) -> None:
    def fail() -> None:
        raise error

    assert in_prefect("it", fail) is None


def test_a_mistake_of_ours_stays_one() -> None:
    with pytest.raises(ZeroDivisionError):
        in_prefect("it", lambda: 1 // 0)


def test_a_server_that_says_nothing_is_left_behind() -> None:
    answered = threading.Event()
    began = time.monotonic()
    assert in_prefect("it", lambda: answered.wait(60), patience=0.1) is None
    assert time.monotonic() - began < 30
    answered.set()
