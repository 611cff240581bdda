"""`selrel train`: one checkpoint from a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from flows.commands.arguments import Several, given


def train(
    *,
    data: Path,
    checkpoint: Path,
    split: int = 1,
    widths: Annotated[list[int] | None, Several] = None,
    hidden: Annotated[tuple[int, int] | None, Several] = None,
    epochs: int = 100,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train a C3D on a split and publish its checkpoint.

    The recipe is the paper's: stochastic gradient descent, batches of 32, the rate divided by 10 after 10
    epochs without progress.

    Example: `selrel train --data ucf --checkpoint c3d.pth.tar --widths 16 32 64 64 128 128 128 128`

    Parameters
    ----------
    data
        Directory that holds `UCF-101/` and `ucfTrainTestlist/`.
    checkpoint
        The file to write; it must not exist.
    split
        UCF-101's split: 1, 2 or 3.
    widths
        Channels of the eight convolutions; those of the published C3D by default.
    hidden
        Units of the two hidden layers; 4096 each by default.
    epochs
        Passes over all clips.
    learning_rate
        Of the first epochs.
    seed
        Seed of the weights, the order of clips, and dropout.
    device
        Where to train: `cpu`, `cuda` or `cuda:1`.
    """
    run_train(
        data=str(data),
        checkpoint=str(checkpoint),
        split=split,
        recipe={"epochs": epochs, "learning_rate": learning_rate},
        seed=seed,
        device=device,
        **given({"widths": widths, "hidden": hidden}),
    )


def run_train(**arguments: Any) -> None:
    """Run the training flow on a private server."""
    from flows.local_server import temporary_server
    from flows.printing import print_training

    with temporary_server():
        from flows.train_c3d import train_c3d

        made = train_c3d(**arguments)
    print_training(Console(), made)
