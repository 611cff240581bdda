"""Failures of a server, S3's or Prefect's: told by where the error's class comes from.

Their libraries are slow to import, and their errors share no base with Python's own.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class Failed(RuntimeError):
    """Work that stopped; the message is for a person."""


def outage(error: Exception) -> str:
    """What to say of a server's failure, in one line; empty for any other error."""
    library = type(error).__module__.partition(".")[0]
    said = str(error) or type(error).__name__
    if library in ("botocore", "aiobotocore"):
        return f"S3: {said}; check bucket, endpoint and credentials"
    if library in ("httpx", "prefect"):
        where = "PREFECT_API_URL says" if os.environ.get("PREFECT_API_URL") else "it was started"
        return f"Prefect: {said}; check that its server is up and where {where}"
    return ""


@contextmanager
def work_that_goes_on() -> Iterator[None]:
    """Do work that a second start goes on with: what goes wrong in it is no bad input.

    Raises
    ------
    Failed
        Instead of bad values, failures of the system, and outages.
    """
    try:
        yield
    except Exception as error:
        told = outage(error)
        if not (told or isinstance(error, ValueError | OSError)):
            raise
        raise Failed(
            f"{told or error} (start the same command again, it goes on where it stopped)"
        ) from error
