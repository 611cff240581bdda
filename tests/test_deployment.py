"""`prefect deployment run` on a real server with a real worker gives what the command line gives."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import yaml
from prefect.events.related import tags_as_related_resources
from prefect.server.events.schemas.automations import AutomationCore, EventTrigger
from prefect.server.events.schemas.events import ReceivedEvent

from flows.cli import main
from flows.serving.standalone import ENDED
from flows.serving.standing_server import HEARTBEAT
from storage.environment import inherited
from storage.runs import read_summary
from storage.stores.root import run_at
from tests.pages import blocks, pages
from tests.prefect_server import REPOSITORY, prefect_server
from tests.servers import free_port


def test_only_runs_of_these_deployments_crash_without_a_heartbeat() -> None:
    """On a server that others use too, runs without the tag are none of these rules' business."""
    deployments = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())["deployments"]
    assert all("selrel" in deployment["tags"] for deployment in deployments)
    rules = yaml.safe_load(HEARTBEAT.read_text())["automations"]
    for name, rule in zip(("heartbeat", "Submitting"), rules, strict=True):
        trigger = AutomationCore.model_validate(rule).trigger
        assert isinstance(trigger, EventTrigger)
        assert trigger.starts_after(f"prefect.flow-run.{name}")
        for deployment in deployments:
            assert trigger.covers(event_of_a_run(name, tags=deployment["tags"]))
        # The states of a scheduled run come a quarter of an hour late.
        assert trigger.expects(ENDED) == (name == "heartbeat")
        for tags in ([], ["explain"], ["selrel-other"]):
            assert not trigger.covers(event_of_a_run(name, tags=tags))


def event_of_a_run(name: str, *, tags: list[str]) -> ReceivedEvent:
    """An event as the server gets it: the run, and its flow and tags as related resources."""
    return ReceivedEvent.model_validate(
        {
            "id": uuid4(),
            "occurred": datetime.now(UTC),
            "event": f"prefect.flow-run.{name}",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{uuid4()}"},
            "related": [
                {"prefect.resource.role": "flow", "prefect.resource.id": f"prefect.flow.{uuid4()}"},
                *(tag.model_dump() for tag in tags_as_related_resources(tags)),
            ],
        }
    )


@pytest.mark.slow
def test_a_deployed_run_equals_one_of_the_command_line(
    tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    where = {"data": str(tiny_ucf101), "checkpoint": str(tiny_checkpoint)}
    settings = {"subset": "all", "block_clips": 5, "workers": 1}
    parameters = {**where, **settings, "root": str(tmp_path / "deployed")}
    words = [word for k, v in parameters.items() for word in ("-p", f"{k}={json.dumps(v)}")]
    with prefect_server(tmp_path / "home") as server:
        said = server.prefect("deployment", "run", "explain-ucf101/explain-ucf101", *words, "--watch")
        assert "Completed" in said or "finished successfully" in said, said
        assert "ERROR" not in server.log("worker"), server.log("worker")
    kinds = artifacts(tmp_path / "home" / "prefect.db")
    assert {"progress", "table", "markdown"} <= kinds
    options = {"--data": where["data"], "--checkpoint": where["checkpoint"], "--root": tmp_path / "direct"}
    options |= {"--subset": "all", "--block-clips": 5, "--workers": 1}
    assert main(["explain", *(str(word) for option in options.items() for word in option)]) == 0
    deployed, direct = (result(tmp_path / name) for name in ("deployed", "direct"))
    assert deployed["results_sha256"] == direct["results_sha256"]


@pytest.mark.slow
def test_the_page_switches_on_the_watching_and_nothing_else(tmp_path: Path) -> None:
    """On a team's server, schedules that others have paused stay paused."""
    commands = block_of_the_pages("deployment schedule")
    watching, others = "watch-checkpoints/watch-checkpoints", "train-c3d/train-c3d"
    with prefect_server(tmp_path / "home", deploy=False) as server:
        server.prefect("work-pool", "create", "selrel", "--type", "process")
        server.prefect("deploy", "--all")
        server.prefect("deployment", "schedule", "create", others, "--interval", "3600", "--no-active")

        def switched_on(name: str) -> list[bool]:
            deployment = httpx.get(f"{server.url}/deployments/name/{name}").raise_for_status().json()
            return [schedule["active"] for schedule in deployment["schedules"]]

        assert (switched_on(watching), switched_on(others)) == ([False], [False])
        subprocess.run(
            ["sh", "-ec", commands.replace(".venv/bin/prefect", f"{sys.executable} -m prefect")],
            cwd=server.project,
            env=server.environment,
            stdin=subprocess.DEVNULL,
            check=True,
        )
        assert (switched_on(watching), switched_on(others)) == ([True], [False])


@pytest.mark.slow
def test_the_page_pasted_whole_explains_a_checkpoint_on_a_server(
    tiny_ucf101: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """In a directory like the one that its commands are meant for; but for the port, which others may use."""
    places = [(name, REPOSITORY / name) for name in ("flows", "tasks", "selrel", "storage", "prefect.yaml")]
    for name, there in [*places, ("ucf", tiny_ucf101), ("c3d.pth.tar", tiny_checkpoint)]:
        (tmp_path / name).symlink_to(there)
    prefect = tmp_path / ".venv/bin/prefect"
    prefect.parent.mkdir(parents=True)
    prefect.write_text(f'#!/bin/sh\nexec {sys.executable} -m prefect "$@"\n')
    prefect.chmod(0o755)
    port = str(free_port())
    environment = inherited(os.environ, but=("PREFECT_",)) | {"PREFECT_SERVER_API_PORT": port}
    with subprocess.Popen(
        ["sh"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=(tmp_path / "said").open("w"),
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            shell.communicate(block_of_the_pages("server start").replace("4200", port), timeout=500)
        finally:
            # Server and worker, which it left in the background; there, a script's jobs ignore what a worker
            # sends itself for SIGTERM.
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, (tmp_path / "said").read_text()
    assert result(tmp_path / "results")["state"] == "completed"


def block_of_the_pages(word: str) -> str:
    """The one block of shell commands that holds a word, in README and docs/."""
    (commands,) = (block for text in pages().values() for block in blocks(text, "sh") if word in block)
    return commands


def result(root: Path) -> dict[str, object]:
    (run,) = (root / "runs").iterdir()
    return read_summary(*run_at(str(run)))


def artifacts(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {kind for (kind,) in connection.execute("SELECT DISTINCT type FROM artifact")}
