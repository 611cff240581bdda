"""`selrel train`: checkpoints from a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from flows.commands.arguments import Several, given
from flows.terminal import Console


def train(
    *,
    data: Path,
    checkpoint: str,
    split: int = 1,
    subset: Literal["train", "all"] = "train",
    classes: Annotated[list[str] | None, Several] = None,
    held_out_groups: int = 0,
    weights: str | None = None,
    widths: Annotated[list[int] | None, Several] = None,
    hidden: Annotated[tuple[int, int] | None, Several] = None,
    dropout: float = 0.5,
    epochs: int = 100,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    momentum: float = 0.9,
    schedule: Literal["plateau", "cosine"] = "plateau",
    patience: int = 10,
    sampling: Literal["random", "balanced"] = "random",
    pixel_unit: float = 1.0,
    max_gradient_norm: float | None = None,
    jitter: int = 0,
    random_crop: bool = False,
    flip: bool = False,
    colour: float = 0.0,
    precision: Literal["float32", "bfloat16"] = "float32",
    every: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train a C3D on a split and publish its checkpoints.

    The recipe is the paper's: stochastic gradient descent, batches of 32, the rate divided by 10 after 10
    epochs without progress; clips of 16 frames at 171x128, the centre 112x112. The same command goes on
    after a kill, with the same result.

    Example: `selrel train --data ucf --checkpoint c3d.pth.tar --widths 16 32 64 64 128 128 128 128`

    Example: `selrel train --data ucf --checkpoint c3d.pth.tar --weights c3d-pretrained.pth --device cuda`

    Parameters
    ----------
    data
        Directory that holds `UCF-101/` and `ucfTrainTestlist/`.
    checkpoint
        The file to publish at the end, in a directory or on S3. Beside it, in `CHECKPOINT.training/`: a
        checkpoint an epoch, `history.parquet`, `curve.png`.
    split
        UCF-101's split: 1, 2 or 3.
    subset
        Videos to learn from: those of the split's training list, or all.
    classes
        The only classes there are; all by default.
    held_out_groups
        Groups of each class that judge the model instead of the split's test list.
    weights
        A C3D to start from (Sports-1M's, or any other, in a published format), a file or `s3://bucket/key`,
        with a new last layer.
    widths
        Channels of the eight convolutions; those of the published C3D by default.
    hidden
        Units of the two hidden layers; 4096 each by default.
    dropout
        Probability that a hidden unit is zeroed in training.
    epochs
        Passes over all clips.
    batch_size
        Clips of one step.
    learning_rate
        Of the first epochs.
    momentum
        Of stochastic gradient descent.
    schedule
        `plateau`, or `cosine`: the rate rises over the first 15 % of the steps and then falls to zero.
    patience
        Epochs without progress, of `plateau`.
    sampling
        Every clip once an epoch, or (`balanced`) an equal share of every class.
    pixel_unit
        Pixels are counted in this unit while training; 64 helps new weights along.
    max_gradient_norm
        Longer gradients are shortened to this.
    jitter
        A clip starts up to this many frames earlier or later.
    random_crop
        Crop anywhere, not in the centre.
    flip
        Mirror every other clip, by chance.
    colour
        0 to 1: how far colours are changed by chance.
    precision
        Of the arithmetic; `bfloat16` is about twice as fast on a GPU.
    every
        Publish a checkpoint every so many epochs.
    seed
        Seed of the weights, the held-out groups, the order of clips, augmentation and dropout.
    device
        Where to train: `cpu`, `cuda` or `cuda:1`.
    """
    recipe = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "schedule": schedule,
        "patience": patience,
        "sampling": sampling,
        "pixel_unit": pixel_unit,
        "max_gradient_norm": max_gradient_norm,
        "jitter": jitter,
        "random_crop": random_crop,
        "flip": flip,
        "colour": colour,
        "precision": precision,
    }
    run_train(
        data=str(data),
        checkpoint=checkpoint,
        split=split,
        subset=subset,
        held_out_groups=held_out_groups,
        dropout=dropout,
        recipe=recipe,
        every=every,
        seed=seed,
        device=device,
        **given(
            {
                "classes": classes,
                "weights": weights,
                "widths": widths,
                "hidden": hidden,
            }
        ),
    )


def run_train(**arguments: Any) -> None:
    """Run the training flow on a private server."""
    from flows.printing import print_training
    from flows.serving.local_server import temporary_server

    with temporary_server():
        from flows.train_c3d import train_c3d

        made = train_c3d(**arguments)
    print_training(Console(), made)
