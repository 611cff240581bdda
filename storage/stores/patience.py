"""Waits for a store that does not answer: machines restart, and networks have gaps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from botocore import exceptions  # type: ignore[import-untyped]

Result = TypeVar("Result")

# Seconds; about three minutes in all, on top of what the client itself tries.
PAUSES = (1, 2, 4, 8, 15, 30, 60, 60)
_GONE = (
    ConnectionError,
    TimeoutError,
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
    exceptions.ResponseStreamingError,
)
_log = logging.getLogger("selrel")


def patiently(request: Callable[[], Result]) -> Result:
    """Make a request, again and again with growing pauses while nothing answers."""
    for pause in PAUSES:
        try:
            return request()
        except Exception as error:
            if not may_pass(error):
                raise
            _log.warning("the store does not answer (%s): trying again in %d s", type(error).__name__, pause)
        time.sleep(pause)
    return request()


def may_pass(error: BaseException) -> bool:
    """Whether a failure comes from the network or from a server in trouble, so that trying again may help."""
    if isinstance(error, exceptions.ClientError):
        return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) >= 500
    # s3fs turns some errors into Python's own, with the original as the cause.
    return isinstance(error, _GONE) or (error.__cause__ is not None and may_pass(error.__cause__))
