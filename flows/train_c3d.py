"""Trains a C3D on a UCF-101 split, so that there are checkpoints to explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.events import emit_event

from flows.serving.standalone import standalone
from selrel.models.c3d import HIDDEN, WIDTHS
from tasks.train import train


@standalone(name="train-c3d", flow_run_name="{checkpoint}", validate_parameters=True)
def train_c3d(
    data: str,
    checkpoint: str,
    split: int = 1,
    subset: str = "train",
    classes: Sequence[str] | None = None,
    held_out_groups: int = 0,
    weights: str | None = None,
    widths: Sequence[int] = WIDTHS,
    hidden: Sequence[int] = HIDDEN,
    dropout: float = 0.5,
    recipe: dict[str, Any] | None = None,
    every: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a C3D on a split's training videos, publishing a checkpoint an epoch; go on after a kill.

    Args:
        data: Directory that holds UCF-101/ and ucfTrainTestlist/.
        checkpoint: The file to publish at the end, such as c3d.pth.tar, in a directory or on S3. The epochs
            lie beside it, in c3d.pth.tar.training/.
        split: UCF-101's split, 1 to 3.
        subset: Videos to learn from, train (those of the split's list) or all.
        classes: The only classes there are, such as ["Diving", "YoYo"]; all if empty.
        held_out_groups: Groups of each class that judge instead of the split's test list.
        weights: Checkpoint of a C3D to start from, such as one of Sports-1M; new weights if empty.
        widths: Channels of the eight convolutions.
        hidden: Units of fc6 and fc7.
        dropout: Probability that a hidden unit is zeroed in training.
        recipe: What differs from the paper's recipe, such as {"epochs": 20, "learning_rate": 0.003}.
        every: Publish a checkpoint every so many epochs.
        seed: Seed of the weights, the held-out groups, the order, the augmentation and dropout.
        device: Where to train, such as cpu or cuda.

    Returns
    -------
        The checkpoint's place and sha256, the classes in output order, and a record an epoch.
    """
    made = train(
        data,
        checkpoint,
        split=split,
        subset=subset,
        classes=classes,
        held_out_groups=held_out_groups,
        weights=weights,
        widths=widths,
        hidden=hidden,
        dropout=dropout,
        recipe=recipe or {},
        every=every,
        seed=seed,
        device=device,
    )
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
