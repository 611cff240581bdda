"""`prefect deployment run` on a real server with a real worker gives what the command line gives."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from flows.cli import main
from storage.layout import run_at
from storage.runs import read_summary
from tests.prefect_server import prefect_server


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


def result(root: Path) -> dict[str, object]:
    (run,) = (root / "runs").iterdir()
    return read_summary(*run_at(str(run)))


def artifacts(database: Path) -> set[str]:
    with closing(sqlite3.connect(database)) as connection:
        return {kind for (kind,) in connection.execute("SELECT DISTINCT type FROM artifact")}
