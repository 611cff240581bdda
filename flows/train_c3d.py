"""Trains a C3D on a UCF-101 split, so that there is a checkpoint to explain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect import flow

from selrel.models.c3d import HIDDEN, WIDTHS
from tasks.train import train


@flow(name="train-c3d", flow_run_name="{checkpoint}", validate_parameters=True)
def train_c3d(
    data: str,
    checkpoint: str,
    split: int = 1,
    widths: Sequence[int] = WIDTHS,
    hidden: Sequence[int] = HIDDEN,
    dropout: float = 0.5,
    recipe: dict[str, Any] | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, Any]:
    """Train a C3D on a split's training videos and publish its weights as a checkpoint.

    Args:
        data: Directory that holds UCF-101/ and ucfTrainTestlist/.
        checkpoint: The file to write, such as c3d.pth.tar; it must not exist.
        split: UCF-101's split, 1 to 3.
        widths: Channels of the eight convolutions.
        hidden: Units of fc6 and fc7.
        dropout: Probability that a hidden unit is zeroed in training.
        recipe: What differs from the paper's recipe, such as {"epochs": 20, "learning_rate": 0.003}.
        seed: Seed of the weights, the order, the augmentation and dropout.
        device: Where to train, such as cpu or cuda.

    Returns
    -------
        The checkpoint's place and sha256, the classes in output order, and a record an epoch.
    """
    return train(
        data,
        checkpoint,
        split=split,
        widths=widths,
        hidden=hidden,
        dropout=dropout,
        recipe=recipe or {},
        seed=seed,
        device=device,
    )
