"""Trains a C3D on a UCF-101 split, so that there are checkpoints to explain."""

from __future__ import annotations

from typing import Any

from prefect.events import emit_event

from flows.options import takes
from flows.serving.standalone import standalone
from selrel.training.recipe import Recipe
from tasks.request import Training, split
from tasks.train import train


@standalone(name="train-c3d", flow_run_name="{checkpoint}", validate_parameters=True)
@takes(Training, Recipe)
def train_c3d(**options: Any) -> dict[str, Any]:
    """Train a C3D on a split's training videos, publishing a checkpoint an epoch; go on after a kill.

    Returns
    -------
    dict
        The checkpoint's path or URL and sha256, the classes in output order, and a record an epoch.
    """
    made = train(*split(options, Training, Recipe))
    announce(made["checkpoint"], made["sha256"])
    return made


def announce(checkpoint: str, sha256: str) -> None:
    """Tell Prefect of a published checkpoint, by its absolute path or URL: watch-checkpoints is triggered."""
    emit_event(
        "selrel.checkpoint.published",
        resource={
            "prefect.resource.id": f"selrel.checkpoint.{sha256}",
            "prefect.resource.name": checkpoint,
            "path": checkpoint,
        },
    )
