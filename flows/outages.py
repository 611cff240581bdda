"""Failures of a server, S3's or Prefect's: told by where the error's class comes from.

Their libraries are slow to import, and their errors share no base with Python's own.
"""

from __future__ import annotations


def outage(error: Exception) -> str:
    """What to say of a server's failure, in one line; empty for any other error."""
    library = type(error).__module__.partition(".")[0]
    if library in ("botocore", "aiobotocore"):
        return f"S3: {error}; check bucket, endpoint and credentials"
    if library in ("httpx", "prefect"):
        return f"Prefect: {error}; check that its server is up and where PREFECT_API_URL says"
    return ""
