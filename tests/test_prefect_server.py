"""The deployments of prefect.yaml, and a deployed flow on a real server with a real worker."""

from __future__ import annotations

import importlib
import os
import textwrap
from pathlib import Path

import pytest
import yaml

from tests.prefect_server import POOL, REPOSITORY, prefect_server
from tests.processes import family, is_loopback, listening_addresses, wait_until_gone

FLOW = """
    from pathlib import Path
    from prefect import flow, task

    @task
    def whereabouts() -> str:
        return str(Path.cwd())

    @flow(name="hello")
    def hello(target: str) -> None:
        Path(target).write_text(whereabouts())
"""


def settings() -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((REPOSITORY / "prefect.yaml").read_text())
    return loaded


@pytest.mark.parametrize("name", ["explain-ucf101", "train-c3d", "watch-checkpoints"])
def test_a_deployment_has_the_name_of_its_flow(name: str) -> None:
    deployments = settings()["deployments"]
    assert isinstance(deployments, list)
    [deployment] = [entry for entry in deployments if entry["name"] == name]
    assert deployment["work_pool"]["name"] == POOL
    path, function = deployment["entrypoint"].split(":")
    module = path.removesuffix(".py").replace("/", ".")
    assert getattr(importlib.import_module(module), function).name == name


@pytest.mark.slow
def test_a_deployed_flow_runs_in_the_directory_it_was_deployed_from(tmp_path: Path) -> None:
    project = tmp_path / "a project"
    project.mkdir()
    (project / "hello.py").write_text(textwrap.dedent(FLOW))
    deployment = {"name": "hello", "entrypoint": "hello.py:hello", "work_pool": {"name": POOL}}
    (project / "prefect.yaml").write_text(yaml.safe_dump(settings() | {"deployments": [deployment]}))
    target = tmp_path / "whereabouts.txt"
    with prefect_server(tmp_path / "home", project=project) as server:
        server.prefect("deployment", "run", "hello/hello", "-p", f"target={target}", "--watch")
        assert target.read_text() == str(project)
        processes = [process for name in server.processes.values() for process in family(name.pid)]
        assert all(map(is_loopback, listening_addresses(processes)))
        assert "ERROR" not in server.log("server") + server.log("worker")
    assert wait_until_gone(processes, timeout=0.5) == []
    assert not any(str(tmp_path) in " ".join(process.cmdline()) for process in family(os.getpid())[1:])
