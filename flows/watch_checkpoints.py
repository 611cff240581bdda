"""Looks for checkpoints that have no finished run, and has each one explained."""

from __future__ import annotations

import dataclasses
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from pydantic import TypeAdapter, ValidationError

from flows.serving.standalone import announced_end
from storage.checkpoints.ledger import Entry, append
from storage.checkpoints.sources import PATTERNS
from storage.stores.root import Root
from tasks.request import Cluster, Request, hints, split
from tasks.watch import look

DEPLOYMENT = "explain-ucf101/explain-ucf101"
_OWN = ("data", "checkpoint", "root")
# What explain-ucf101 takes.
_TYPES = hints(Request) | hints(Cluster)
_log = logging.getLogger("selrel")

Explain = Callable[[Entry], Iterator[Entry]]


@flow(name="watch-checkpoints", flow_run_name="{watch}", validate_parameters=True)
def watch_checkpoints(
    watch: str,
    data: str,
    root: str,
    settings: dict[str, Any] | None = None,
    patterns: Sequence[str] = PATTERNS,
    at_once: int = 1,
    tries: int = 3,
) -> dict[str, list[str]]:
    """Look once at a directory or prefix, and start explain-ucf101 for checkpoints without a finished run.

    A checkpoint is its content: a renamed or copied one is not explained again, an overwritten one is. A file
    is taken when its .sha256 file agrees with it, or when two looks have found it unchanged. What was seen,
    started and refused, and why, is in the ledger under the root.

    Args:
        watch: Directory or s3://bucket/prefix where checkpoints appear, at any depth.
        data: Directory that holds UCF-101/ and ucfTrainTestlist/.
        root: Directory or s3:// URL under which all results lie.
        settings: Other parameters of explain-ucf101 by name, such as {"videos": 1010}.
        patterns: Names of checkpoints.
        at_once: How many explanations may be under way; the next is started when one has ended.
        tries: Starts in a row that finish no further block, after which a checkpoint is given up.

    Returns
    -------
        The files by what became of them at this look.
    """
    with announced_end():
        request = request_for(data=data, root=root, settings=settings or {})
        explain = on_server({**(settings or {}), "data": data, "root": root})
        return go_through(watch, request, explain=explain, patterns=patterns, at_once=at_once, tries=tries)


def go_through(
    watch: str,
    request: Request,
    *,
    explain: Explain,
    patterns: Sequence[str] = PATTERNS,
    at_once: int | None = None,
    tries: int = 3,
) -> dict[str, list[str]]:
    """Look once, have explained what is due and has room, and keep the ledger.

    Parameters
    ----------
    explain : callable
        Has a due checkpoint explained, and gives the entries that belong into the ledger, each at its time.

    Returns
    -------
    dict
        Files by outcome, of everything that is new at this look.
    """
    if at_once is not None and at_once < 1:
        raise ValueError(f"at_once is {at_once}; give 1 or more")
    root = Root(request.root)
    seen = look(watch, request, patterns=patterns, tries=tries)
    news = list(seen.news)
    append(root, watch, news)
    room = None if at_once is None else max(0, at_once - len(seen.active))
    for due in seen.due[:room]:
        for entry in explain(due):
            append(root, watch, [entry])
            news.append(entry)
    return told(news)


def on_server(parameters: Mapping[str, Any]) -> Explain:
    """Have checkpoints explained by the deployment, with these parameters."""
    root = Root(parameters["root"]).url

    def explain(due: Entry) -> Iterator[Entry]:
        given = {**parameters, "checkpoint": due.file}
        # Should the ledger not be written after this, the same start gives the same flow run.
        key = f"{due.run} under {root}, {due.reason}, {due.blocks} blocks done"
        made = _flow_run(given, key)
        # The server knows the key of a start under a root that was emptied since: that run does nothing more.
        while made.state is not None and made.state.is_final():
            made = _flow_run(given, f"{key}, after {made.id}")
        yield dataclasses.replace(due, flow_run=str(made.id))

    return explain


def _flow_run(parameters: Mapping[str, Any], key: str) -> FlowRun:
    """The deployment's flow run of a key, made where the server knows none."""
    try:
        return run_deployment(  # type: ignore[return-value]
            DEPLOYMENT, parameters=dict(parameters), timeout=0, idempotency_key=key, as_subflow=False
        )
    except ObjectNotFound as error:
        raise ObjectNotFound(
            error.http_exc,
            f"the server has no deployment {DEPLOYMENT}: `prefect deploy --all` makes it, `selrel serve` too",
        ) from error


def told(news: Sequence[Entry]) -> dict[str, list[str]]:
    """Log each entry, and group the files by outcome."""
    grouped: dict[str, list[str]] = {}
    for entry in news:
        grouped.setdefault(entry.outcome, []).append(entry.file)
        good = entry.outcome in ("waiting", "started") or (entry.outcome == "finished" and not entry.reason)
        level = logging.INFO if good else logging.WARNING
        _log.log(level, "%s", line(entry))
    return grouped


def line(entry: Entry) -> str:
    """One line about an entry, for a person."""
    return f"{entry.outcome}: {entry.file}" + (f" ({entry.reason})" if entry.reason else "")


def request_for(*, data: str, root: str, settings: Mapping[str, Any]) -> Request:
    """Make the request that the checkpoints of a place share.

    Raises
    ------
    ValueError
        If explain-ucf101 has no such parameter, or its value is not allowed.
    """
    allowed = [name for name in _TYPES if name not in _OWN]
    if unknown := sorted(set(settings) - set(allowed)):
        raise ValueError(f"settings name {', '.join(unknown)}; allowed are {', '.join(allowed)}")
    checked = {name: setting(name, value) for name, value in settings.items()}
    request, _ = split({**checked, "data": data, "checkpoint": "", "root": root}, Request, Cluster)
    return request  # type: ignore[no-any-return]


def setting(name: str, *readings: Any) -> Any:
    """Give a setting's value as explain-ucf101 takes it: the first of its readings that is of the right type.

    Raises
    ------
    ValueError
        If none is; the message says what is allowed.
    """
    wanted: TypeAdapter[Any] = TypeAdapter(_TYPES.get(name, Any))
    refusals = []
    for value in readings:
        try:
            return wanted.validate_python(value)
        except ValidationError as error:
            refusals.append(error.errors()[0])
    where = "".join(f"{part}: " for part in refusals[0]["loc"])
    takes = inspect.formatannotation(_TYPES[name]).replace("collections.abc.", "")
    raise ValueError(f"setting {name} is {readings[0]!r}, but takes {takes}: {where}{refusals[0]['msg']}")
