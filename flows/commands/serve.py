"""`selrel serve`: everything one machine needs to run unattended."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from flows.commands.arguments import YEAR_S, Several, place, settings_elsewhere, settings_of
from flows.terminal import Console
from tasks.request import Cluster, split

if TYPE_CHECKING:
    from flows.serving.standing_server import Standing


def serve(
    *,
    watch: str,
    data: Path,
    root: str,
    settings: Annotated[list[str] | None, Several] = None,
    every: float = 120.0,
    tries: int = 3,
    state: Path = Path("selrel-state"),
    port: int = 4200,
) -> int:
    """Start a Prefect server, its deployments and a worker, and explain every checkpoint that appears.

    It runs until Ctrl-C or SIGTERM, and then stops everything it has started; killed, it leaves nothing
    running either. Started again on the same state, it goes on where it stopped. Everything listens on
    127.0.0.1 only and wants the password in the state directory.

    Example: `selrel serve --watch checkpoints --data ucf --root results --settings videos=1010`

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
        Seconds between looks.
    tries
        Starts in a row that finish no further block, after which a checkpoint is given up.
    state
        Directory of the server's database, password and logs.
    port
        Port on 127.0.0.1; 0 takes a free one.
    """
    from flows.serving.cluster import check_cluster
    from flows.serving.interrupts import say_how_to_stop
    from flows.serving.standing_server import stand, standing_server
    from flows.watch_checkpoints import request_for
    from tasks.watch import check_place

    if not 1 <= every <= YEAR_S:
        raise ValueError(f"every is {every:g}; give 1 second or more, up to a year ({YEAR_S})")
    chosen = settings_elsewhere(settings_of(settings or []))
    parameters: dict[str, Any] = {
        "watch": place(watch),
        "data": str(data.resolve()),
        "root": place(root),
        "settings": chosen,
        "tries": tries,
    }
    # What every look would refuse is refused before anything is started.
    request = request_for(data=parameters["data"], root=parameters["root"], settings=chosen)
    check_place(parameters["watch"], request, tries=tries)
    (cluster,) = split(chosen, Cluster)
    check_cluster(**vars(cluster))
    say_how_to_stop()
    console = Console()
    console.print("Starting the server, its deployments and a worker: about half a minute.")
    try:
        with standing_server(
            state.resolve(), port=port, parameters=parameters, every=timedelta(seconds=every)
        ) as standing:
            console.print(_welcome(standing, watch), soft_wrap=True)
            stand(standing)
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on where it stopped.")
    return 0


def _welcome(standing: Standing, watch: str) -> str:
    return f"""Serving. Checkpoints that appear in {watch} are explained; Ctrl-C stops everything.

In a browser  {standing.url}, password: all of {standing.password_file}
In a shell    export PREFECT_API_URL={standing.api}
              export PREFECT_API_AUTH_STRING="$(cat {standing.password_file})"
              prefect deployment run explain-ucf101/explain-ucf101 -p checkpoint=.. -p data=.. -p root=..
Logs          {standing.state}/server.log, {standing.state}/worker.log"""
