"""Puts a model in train or eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model in train or eval mode, and back into the mode it had, whatever happens."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)
