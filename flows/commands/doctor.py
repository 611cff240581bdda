"""`selrel doctor`: what is wrong with this machine, and how to mend it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flows.exits import FAILED
from flows.terminal import Console

if TYPE_CHECKING:
    from tasks.checkup import Finding


def doctor(*, root: str | None = None, json: Annotated[bool, Parameter(negative="")] = False) -> int:
    """Check what a run needs: Python, packages, device, decoder, root, ports, Prefect; say how to mend it.

    Ends with exit code 1 if something is broken. Nothing is left behind.

    Example: `selrel doctor --root results`

    Parameters
    ----------
    root
        Where results would go, a directory or `s3://bucket/prefix`: whether it can be written.
    json
        Print one JSON object instead.
    """
    import dataclasses

    from flows.printing import print_findings, print_json
    from tasks.checkup import checkup

    console = Console()
    findings = [*checkup(root), *_servers()]
    broken = any(finding.state == "broken" for finding in findings)
    if json:
        print_json(console, {"sound": not broken, "checks": [dataclasses.asdict(f) for f in findings]})
    else:
        print_findings(console, findings)
    return FAILED if broken else 0


def _servers() -> Iterator[Finding]:
    """Whether the private server of a run starts, and a team's server, where one is set, answers."""
    import httpx
    from prefect.settings import get_current_settings

    from flows.serving.local_server import temporary_server
    from tasks.checkup import Finding

    try:
        with temporary_server() as url:
            private = Finding("Prefect", "ok", f"a private server starts ({url})")
    except ValueError as error:
        private = Finding("Prefect", "broken", f"no private server starts: {error}")
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        mend = "the versions in constraints.txt are known to work: make setup"
        private = Finding("Prefect", "broken", f"no private server starts: {reason}", mend)
    yield private
    team = get_current_settings().api.url
    if not team:
        yield Finding("Prefect API", "ok", "PREFECT_API_URL is not set: runs use a private server")
        return
    try:
        httpx.get(f"{team}/health", timeout=5).raise_for_status()
        yield Finding("Prefect API", "ok", f"{team} answers")
    except httpx.HTTPError as error:
        mend = "start it (prefect server start), correct PREFECT_API_URL, or unset it"
        yield Finding("Prefect API", "note", f"{team} does not answer: {error}", mend)
