"""What a training leaves: checkpoints that appear whole, the state it goes on from, and its curve."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from storage.checkpoints.files import UnusableCheckpoint, checkpoint_bytes, load_checked, publish_bytes
from storage.layout import TrainingPaths, profile_of, sidecar
from storage.report.drawing import own_style
from storage.stores.root import Root
from storage.tables import write_table

Row = Mapping[str, Any]

_DIGEST_BYTES = hashlib.sha256().digest_size
# Okabe and Ito's blue and vermilion, which colour-blind readers tell apart; dashes differ as well.
_LEARNT, _HELD_OUT = {"color": "#0072B2"}, {"color": "#D55E00", "linestyle": "--"}


class OtherTraining(ValueError):
    """A place that holds a training of other settings."""


class DamagedState(ValueError):
    """A stored state that is not what was written."""


def describe(root: Root, paths: TrainingPaths, description: Mapping[str, Any]) -> None:
    """Write what a training is, or check that the one that is there is the same.

    Raises
    ------
    OtherTraining
        If the place holds a training that differs; the message says in what.
    """
    if not root.exists(paths.description):
        root.write_json(paths.description, dict(description))
        return
    stored = root.read_json(paths.description)
    if not isinstance(stored, dict):
        raise OtherTraining(f"{root.join(paths.description)} describes no training; remove that directory")
    if differing := sorted(
        key for key in stored.keys() | description.keys() if stored.get(key) != description.get(key)
    ):
        raise OtherTraining(
            f"{root.join(paths.directory)} holds a training with another {', '.join(differing)}; give the "
            "checkpoint another name, or remove that directory"
        )


def publish(
    root: Root, path: str, weights: Mapping[str, Tensor], *, meta: Row, profile: Mapping[str, Any]
) -> str:
    """Publish a checkpoint with its profile and its sha256, the latter last.

    A reader that waits for a sha256 that fits sees all three files or none, on a disk and on S3.

    Parameters
    ----------
    root, path
        Where the checkpoint goes; what is there is replaced.
    weights, meta
        As `storage.checkpoints.files.write_checkpoint` takes them.
    profile : mapping
        JSON values for ``<path>.profile.json``.

    Returns
    -------
    str
        SHA-256 of the checkpoint.
    """
    data = checkpoint_bytes(weights, meta=meta, name=root.join(path))
    # Before the profile, too: the old checkpoint must not pass with the new one's.
    root.delete(sidecar(path))
    root.write_json(profile_of(path), dict(profile))
    return publish_bytes(root, path, data)


def write_state(root: Root, paths: TrainingPaths, state: Mapping[str, Any]) -> None:
    """Store what the next epoch goes on from, of tensors and plain values; the state before is replaced."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()
    root.write_bytes(paths.state, hashlib.sha256(data).digest() + data)


def read_state(root: Root, paths: TrainingPaths) -> dict[str, Any] | None:
    """Read what `write_state` stored; None if there is nothing. Nothing in it is ever run.

    Raises
    ------
    DamagedState
        If it is not what was written.
    """
    try:
        stored = root.read_bytes(paths.state)
    except FileNotFoundError:
        return None
    digest, data = stored[:_DIGEST_BYTES], stored[_DIGEST_BYTES:]
    if hashlib.sha256(data).digest() != digest:
        raise DamagedState(
            f"{root.join(paths.state)} is damaged; remove it, and the same command starts anew"
        )
    try:
        state = load_checked(data, root.join(paths.state))
    except UnusableCheckpoint as error:
        raise DamagedState(f"{error}, or remove it: the same command starts anew") from error
    if not isinstance(state, dict):
        raise DamagedState(
            f"{root.join(paths.state)} is no state; remove it, and the same command starts anew"
        )
    return state


def write_history(root: Root, paths: TrainingPaths, history: Sequence[Row], *, picture: bool = True) -> None:
    """Write the epochs as a table and, if asked for, as a picture of the curves.

    Parameters
    ----------
    root, paths
        Where they go.
    history : sequence of dict
        A row an epoch, with the fields of `selrel.training.fitting.Epoch`.
    picture : bool
        Drawing takes a third of a second, more than a small model's epoch.
    """
    write_table(root, paths.history, pd.DataFrame(list(history)))
    if picture:
        with own_style():
            root.write_bytes(paths.curve, _drawn(history))


def _drawn(history: Sequence[Row]) -> bytes:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    epochs = [row["epoch"] for row in history]
    for panel, name in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        panel.plot(epochs, [row[name] for row in history], label="training clips", **_LEARNT)
        held_out = [row[f"validation_{name}"] for row in history]
        if None not in held_out:
            panel.plot(epochs, held_out, label="held-out groups", **_HELD_OUT)
        panel.set_xlabel("epoch")
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.set_ylim(bottom=0)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.legend()
    panel.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panel.set_title("Accuracy", fontsize=10)
    figure.axes[0].set_title("Loss (nat)", fontsize=10)
    drawn = io.BytesIO()
    # Without matplotlib's version, the same epochs give the same bytes.
    figure.savefig(drawn, format="png", metadata={"Software": None})
    return drawn.getvalue()
