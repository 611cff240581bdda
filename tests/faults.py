"""Faults for Dask workers: a preload that reads from SELREL_FAULTS, as JSON, what shall go wrong in them."""

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
    return {VARIABLE: json.dumps(faults), "DASK_DISTRIBUTED__WORKER__PRELOAD": '["tests.faults"]'}


def dask_setup(worker: object) -> None:
    """Put the faults in place; called by Dask in the worker's process."""
    faults = json.loads(os.environ[VARIABLE])
    if "file_size" in faults:
        resource.setrlimit(resource.RLIMIT_FSIZE, (faults["file_size"], resource.RLIM_INFINITY))
    from tasks import stages

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
