"""`selrel train`: checkpoints from a split."""

from __future__ import annotations

from typing import Any

from flows.commands.options import flags
from flows.terminal import Console
from selrel.training.recipe import Recipe
from tasks.request import Training


@flags(Training, Recipe)
def train(**options: Any) -> None:
    """Train a C3D on a split and publish its checkpoints.

    The recipe is the paper's: stochastic gradient descent, batches of 32, the rate divided by 10 after 10
    epochs without progress; clips of 16 frames at 171x128, the centre 112x112. The same command goes on
    after a kill, with the same result.

    Example: `selrel train --data ucf --checkpoint c3d.pth.tar --widths 16 32 64 64 128 128 128 128`

    Example: `selrel train --data ucf --checkpoint c3d.pth.tar --weights c3d-pretrained.pth --device cuda`
    """
    from flows.printing import print_training
    from flows.serving.local_server import temporary_server

    with temporary_server():
        from flows.train_c3d import train_c3d

        made = train_c3d(**options)
    print_training(Console(), made)
