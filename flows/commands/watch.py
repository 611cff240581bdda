"""`selrel watch`: explain every checkpoint of a place that has no finished run."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flows.commands.arguments import YEAR_S, Several, place, settings_elsewhere, settings_of
from flows.exits import FAILED, GATE
from flows.serving.outages import outage
from tasks.request import Cluster, split

if TYPE_CHECKING:
    from storage.checkpoints.ledger import Entry
    from tasks.request import Request

_log = logging.getLogger("selrel")


def watch(
    watch: str,
    *,
    data: Path,
    root: str,
    settings: Annotated[list[str] | None, Several] = None,
    every: float | None = None,
    at_once: int = 1,
    tries: int = 3,
) -> int:
    """Look for checkpoints that have no finished run, and explain each, oldest first.

    A checkpoint is its content: one that is renamed or copied is not explained again. A file is taken when
    its `.sha256` file agrees with it, or when two looks have found it unchanged; what can't be explained is
    refused once. The ledger under the root says what was seen, and why.

    With `PREFECT_API_URL` set, the work is given to that server's deployment `explain-ucf101`; otherwise it
    is done here, one after the other, and a single look ends with 1 if a run failed, and with 4 if one
    dropped by more than `max_drop`.

    Example: `selrel watch checkpoints --data ucf --root results --every 60 --settings videos=1010`

    Parameters
    ----------
    watch
        Directory or `s3://bucket/prefix` where checkpoints appear, at any depth.
    data
        Directory that holds `UCF-101/` and `ucfTrainTestlist/`.
    root
        Directory or `s3://bucket/prefix` under which all results lie.
    settings
        Other parameters of the flow explain-ucf101, such as `videos=1010 subset=all`; values are JSON.
    every
        Seconds between looks, until Ctrl-C; one look by default.
    at_once
        How many explanations may be under way on a server.
    tries
        Starts in a row that finish no further block, after which a checkpoint is given up.
    """
    from flows.watch_checkpoints import request_for
    from storage.stores.root import UnusableRoot

    if every is not None and not 0 < every <= YEAR_S:
        raise ValueError(f"every is {every:g}; give a number of seconds above 0, up to a year ({YEAR_S})")
    chosen = settings_elsewhere(settings_of(settings or []))
    request = request_for(data=str(data.resolve()), root=place(root), settings=chosen)
    looked = look_once(watch, request, settings=chosen, at_once=at_once, tries=tries)
    while every is not None:
        time.sleep(every)
        try:
            look_once(watch, request, settings=chosen, at_once=at_once, tries=tries)
        except Exception as error:
            # A disk or a server may be back at the next look.
            why = outage(error)
            if not (why or isinstance(error, OSError | UnusableRoot)):
                raise
            _log.warning(
                "this look failed, the next is in %g s: %s", every, " ".join((why or str(error)).split())
            )
    return looked


def look_once(watched: str, request: Request, *, settings: dict[str, Any], at_once: int, tries: int) -> int:
    """Look, and have explained what is due: on the server that is set, or here; give the exit code."""
    from flows.serving.cluster import check_cluster
    from flows.watch_checkpoints import go_through, on_server

    if os.environ.get("PREFECT_API_URL"):
        explain = on_server({**settings, "data": request.data, "root": request.root})
        go_through(watched, request, explain=explain, at_once=at_once, tries=tries)
        return 0
    (cluster,) = split(settings, Cluster)
    check_cluster(**vars(cluster))
    codes = [0]
    go_through(watched, request, explain=partial(_here, request, cluster, codes), tries=tries)
    return next(code for code in (FAILED, GATE, 0) if code in codes)


def _here(request: Request, cluster: Cluster, codes: list[int], due: Entry) -> Iterator[Entry]:
    """Explain a checkpoint in this process; the next one's turn comes whatever becomes of it."""
    from flows.commands.explain import carry_out_here
    from tasks.gate import MotionDropped
    from tasks.plan import plan
    from tasks.watch import ended

    yield due
    try:
        carry_out_here(plan(dataclasses.replace(request, checkpoint=due.file)), cluster)
    except MotionDropped as error:
        codes.append(GATE)
        yield ended(due, "finished", str(error))
    except Exception as error:
        if not (isinstance(error, ValueError | OSError | RuntimeError) or outage(error)):
            raise
        codes.append(FAILED)
        yield ended(due, "failed", " ".join(str(error).split()))
    else:
        yield ended(due, "finished")
