"""Faults for Dask workers: SELREL_FAULTS says, as JSON, what shall go wrong in each that is started."""

from __future__ import annotations

import json
import os
import resource
import signal
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "SELREL_FAULTS"


def faulty(**faults: Any) -> dict[str, str]:
    """The environment in which every worker has these faults.

    ``poison``: [stage, block] that kills its worker; ``slow``: seconds that each block takes longer;
    ``file_size``: the largest file a worker may write; ``note``: directory in which each block that is
    begun leaves a file ``<stage>-<block>-<unique>``.
    """
    # Python itself imports what is there: a run takes no such thing from Dask's configuration.
    path = [str(Path(__file__).parent / "sitecustomize"), os.environ.get("PYTHONPATH", "")]
    return {VARIABLE: json.dumps(faults), "PYTHONPATH": os.pathsep.join(filter(None, path))}


def put_in_place(stages: Any) -> None:
    """Make the module `tasks.running.blocks` of this process a faulty one."""
    faults = json.loads(os.environ[VARIABLE])
    if "file_size" in faults:
        resource.setrlimit(resource.RLIMIT_FSIZE, (faults["file_size"], resource.RLIM_INFINITY))
    sound = stages._do

    def do(stage: str, *others: Any, **sizes: int) -> float:
        _suffer(faults, stage, others[-1])
        return sound(stage, *others, **sizes)

    stages._do = do


def _suffer(faults: Mapping[str, Any], stage: str, block: int) -> None:
    if "note" in faults:
        Path(faults["note"], f"{stage}-{block}-{uuid.uuid4().hex}").touch()
    time.sleep(faults.get("slow", 0))
    if [stage, block] == faults.get("poison"):
        os.kill(os.getpid(), signal.SIGKILL)
