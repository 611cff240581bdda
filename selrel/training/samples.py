"""Clips to learn from: how they are read, in which order, and what a model is given of them."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from selrel.clips.profiles import Profile, View, normalise
from selrel.training.augmentation import Frames, augment
from selrel.training.recipe import Recipe, Sampling

Numbers = npt.NDArray[np.int64]

# Batches that are read while another is learnt from.
_AHEAD = 1


@dataclass(frozen=True)
class Samples:
    """Clips that can be read by number.

    Attributes
    ----------
    read : callable
        ``read(sample, shift)`` gives uint8 RGB frames ``(time, y, x, 3)``, resized by the view but not
        cropped, of the clip that starts `shift` frames later (earlier if negative) as far as the video
        goes. It is called from several threads.
    labels : int64, (sample,)
        The model's output that each clip belongs to.
    """

    read: Callable[[int, int], Frames]
    labels: Numbers


def check_not_empty(samples: Samples) -> None:
    """Refuse, by ValueError, to learn from nothing."""
    if not len(samples.labels):
        raise ValueError("there is no clip to train on; choose a split and classes with training videos")


def epoch_order(labels: Numbers, sampling: Sampling, rng: np.random.Generator) -> Numbers:
    """Draw the order in which an epoch takes the samples.

    Parameters
    ----------
    labels : int64, (sample,)
        Their classes.
    sampling : "random" or "balanced"
        As `selrel.training.recipe.Recipe` says.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    int64, (sample,)
        Numbers of samples, as many as there are. Random: each once. Balanced: the numbers drawn of two
        classes differ by one at most, and so do those of two samples of one class.
    """
    if sampling == "random":
        return rng.permutation(len(labels))
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    shares = np.full(len(members), len(labels) // len(members))
    shares[rng.permutation(len(members))[: len(labels) % len(members)]] += 1
    drawn = [_repeated(own, share, rng) for own, share in zip(members, shares.tolist(), strict=True)]
    return rng.permutation(np.concatenate(drawn))


def batches(
    samples: Samples,
    order: Numbers,
    *,
    view: View,
    recipe: Recipe,
    rng: np.random.Generator,
    readers: int = 1,
) -> Iterator[tuple[Numbers, list[Frames]]]:
    """Read and augment the samples in an order, batch by batch, ahead of whoever takes them.

    Parameters
    ----------
    samples : Samples
        The clips.
    order : int64, (any,)
        Their numbers.
    view : View
        Size of the crop.
    recipe : Recipe
        Its `batch_size`, `jitter` and augmentation count.
    rng : numpy.random.Generator
        Where chance comes from; what is drawn does not depend on the number of readers or their speed.
    readers : int
        Threads that read.

    Yields
    ------
    numbers, clips
        Numbers of the samples, and the clips, uint8 ``(time, height, width, 3)`` each.
    """
    reading: deque[tuple[Numbers, Iterator[Frames]]] = deque()

    def augmented() -> tuple[Numbers, list[Frames]]:
        numbers, found = reading.popleft()
        return numbers, [augment(frames, view, recipe, rng) for frames in found]

    with ThreadPoolExecutor(readers) as pool:
        for start in range(0, len(order), recipe.batch_size):
            numbers = order[start : start + recipe.batch_size]
            shifts = [int(rng.integers(-recipe.jitter, recipe.jitter + 1)) for _ in numbers]
            reading.append((numbers, pool.map(samples.read, numbers.tolist(), shifts)))
            if len(reading) > _AHEAD:
                yield augmented()
        while reading:
            yield augmented()


def inputs(clips: list[Frames], profile: Profile, model: nn.Module) -> Tensor:
    """Make a model's input of cropped clips, float32 (clip, channel, time, y, x), on the model's device."""
    device = next(model.parameters()).device
    # Twice as fast on a CPU, and the same numbers.
    return normalise(torch.from_numpy(np.stack(clips)).to(device), profile).contiguous(
        memory_format=torch.channels_last_3d
    )


def _repeated(members: Numbers, n: int, rng: np.random.Generator) -> Numbers:
    """Draw n of the members: all of them as often as n allows, then some once more."""
    rounds = [rng.permutation(members) for _ in range(-(-n // len(members)))]
    return np.concatenate(rounds)[:n] if rounds else members[:0]
