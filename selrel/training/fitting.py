"""Trains a 3D CNN on clips: stochastic gradient descent, with the paper's recipe as default.

Arrays in, arrays out: a provider hands over uint8 frames, the caller keeps the records and the weights.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

from selrel.clips.profiles import Profile
from selrel.engine.ties import first_highest
from selrel.training.augmentation import augment, centre
from selrel.training.initialisation import initialise
from selrel.training.modes import in_mode
from selrel.training.recipe import Recipe
from selrel.training.samples import Samples, batches, check_not_empty, epoch_order, inputs

__all__ = [
    "Epoch",
    "Recipe",
    "Samples",
    "Trainer",
    "augment",
    "evaluate",
    "fit",
    "initialise",
    "measure",
]

# Share of the steps in which the cosine schedule's rate rises from zero.
WARM_UP = 0.15


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: its number from 1, last learning rate, mean losses (nat) and accuracies (0..1).

    Training figures are of augmented clips with dropout, while the weights move; those of validation are
    of the weights after the epoch, None without validation samples. The balanced accuracy is the mean of
    the classes' own, so that a frequent class counts no more than a rare one.
    """

    epoch: int
    learning_rate: float
    loss: float
    accuracy: float
    validation_loss: float | None = None
    validation_accuracy: float | None = None
    validation_balanced_accuracy: float | None = None


class Trainer:
    """A training that can stop after any epoch and go on later, with the same result to the bit.

    Parameters
    ----------
    model : torch.nn.Module
        Takes normalised clips, gives logits. After every epoch it is in the mode it came in and takes the
        profile's own pixels, so its weights can be published as they are.
    samples : Samples
        The clips to learn from.
    profile : Profile
        How frames become inputs.
    recipe : Recipe
        The settings.
    validation : Samples, optional
        Clips to be measured after each epoch; nothing is decided by them.
    seed : int
        Of the order of the clips, their augmentation and dropout. The state of torch's own generators is
        left as it was. On one kind of device and with one number of threads, same seed, same weights.
    device : str or torch.device
        Where to train.
    readers : int
        Threads that read clips; they change nothing but the speed.

    Raises
    ------
    ValueError
        If there is no sample.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        *,
        profile: Profile,
        recipe: Recipe,
        validation: Samples | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
        readers: int = 1,
    ) -> None:
        check_not_empty(samples)
        self.epoch = 0
        self._model, self._samples, self._validation = model.to(device), samples, validation
        self._profile, self._recipe, self._readers = profile, recipe, readers
        self._seed, self._device = seed, torch.device(device)
        self._optimiser = torch.optim.SGD(
            model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum
        )
        n_steps = math.ceil(len(samples.labels) / recipe.batch_size)
        self._schedule = _Schedule(self._optimiser, recipe, n_steps)
        self._rng = np.random.default_rng(seed)

    def epochs(self) -> Iterator[Epoch]:
        """Train the epochs that are left, one for each record that is taken.

        Raises
        ------
        ValueError
            If a loss or a weight is not finite any more; the epoch then counts as not done.
        """
        while self.epoch < self._recipe.epochs:
            number, recipe = self.epoch + 1, self._recipe
            chance, pixels = _seeded((self._seed, number), self._device), _pixels_in_unit
            with chance, in_mode(self._model, training=True), pixels(self._model, recipe.pixel_unit):
                loss, accuracy = self._learn()
            # The last step of an epoch comes after its last loss.
            weights = all(bool(value.isfinite().all()) for value in self._model.state_dict().values())
            self._check_finite("loss or a weight", weights and math.isfinite(loss))
            record = Epoch(number, self._optimiser.param_groups[0]["lr"], loss, accuracy)
            if self._validation is not None:
                logits = measure(
                    self._model, self._validation, profile=self._profile, batch_size=recipe.batch_size
                )
                held_out = _quality(logits, self._validation.labels)
                # Clips that were not learnt from can overflow first, and dropout hides what comes without it.
                self._check_finite("validation loss", math.isfinite(held_out[0]))
                record = Epoch(number, record.learning_rate, loss, accuracy, *held_out)
            self._schedule.after_epoch(loss)
            self.epoch = number
            yield record

    def state(self) -> dict[str, Any]:
        """All that the next epoch depends on, as tensors and plain values: weights, momentum, chance."""
        return {
            "epoch": self.epoch,
            "model": dict(self._model.state_dict()),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state(),
            # As text: its numbers have 128 bits.
            "chance": json.dumps(self._rng.bit_generator.state),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to what `state` gave of a training that was made the same."""
        self.epoch = state["epoch"]
        self._model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.restore(state["schedule"])
        self._rng.bit_generator.state = json.loads(state["chance"])

    def _check_finite(self, what: str, finite: bool) -> None:
        if not finite:
            raise ValueError(
                f"the {what} of epoch {self.epoch + 1} is not finite; make learning_rate "
                f"({self._recipe.learning_rate}) smaller, or set max_gradient_norm"
            )

    def _learn(self) -> tuple[float, float]:
        """Go once over the samples; mean loss and accuracy."""
        recipe, labels_of = self._recipe, self._samples.labels
        order = epoch_order(labels_of, recipe.sampling, self._rng)
        total = correct = 0.0
        for numbers, clips in batches(
            self._samples,
            order,
            view=self._profile.view,
            recipe=recipe,
            rng=self._rng,
            readers=self._readers,
        ):
            given = inputs(clips, self._profile, self._model) / recipe.pixel_unit
            labels = torch.from_numpy(labels_of[numbers]).to(given.device)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = self._model(given)
            loss = functional.cross_entropy(logits.float(), labels)
            self._optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if self._recipe.max_gradient_norm is not None:
                nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.max_gradient_norm)
            self._optimiser.step()
            self._schedule.after_step()
            total += loss.item() * len(numbers)
            correct += int((first_highest(logits) == labels).sum())
        return total / len(order), correct / len(order)


def fit(model: nn.Module, samples: Samples, **settings: Any) -> Iterator[Epoch]:
    """Train a model in place from its first epoch to its last, one for each record that is taken.

    Parameters and errors as `Trainer`.

    Yields
    ------
    Epoch
        After each epoch.
    """
    yield from Trainer(model, samples, **settings).epochs()


def evaluate(
    model: nn.Module, samples: Samples, *, profile: Profile, batch_size: int = 32
) -> tuple[float, float]:
    """Measure a model's loss and accuracy on clips, as `measure` reads them.

    Returns
    -------
    loss, accuracy : float
        Mean cross-entropy (nat) and share of clips whose highest logit is their label's.
    """
    logits = measure(model, samples, profile=profile, batch_size=batch_size)
    return _quality(logits, samples.labels)[:2]


def measure(
    model: nn.Module, samples: Samples, *, profile: Profile, batch_size: int = 32
) -> npt.NDArray[np.float32]:
    """Run a model on clips as they are: centre crop, no augmentation.

    Parameters
    ----------
    model : torch.nn.Module
        In the mode it had, afterwards.
    samples : Samples
        At least one clip.
    profile : Profile
        How frames become inputs.
    batch_size : int
        Clips of one forward pass.

    Returns
    -------
    float32, (sample, output)
        Logits.

    Raises
    ------
    ValueError
        If there is no sample.
    """
    if not len(samples.labels):
        raise ValueError("there is no clip to measure on; choose a split and classes with such videos")
    found = []
    with torch.no_grad(), in_mode(model, training=False):
        for start in range(0, len(samples.labels), batch_size):
            numbers = range(start, min(start + batch_size, len(samples.labels)))
            clips = [centre(samples.read(number, 0), profile.view) for number in numbers]
            found.append(model(inputs(clips, profile, model)).float().cpu().numpy())
    return np.concatenate(found)


def _quality(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> tuple[float, float, float]:
    """Mean cross-entropy, accuracy, and the mean of the classes' own accuracies."""
    losses = functional.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels), reduction="none")
    hits = first_highest(torch.from_numpy(logits)).numpy() == labels
    balanced = np.mean([hits[labels == label].mean() for label in np.unique(labels)])
    return float(losses.double().mean()), float(hits.mean()), float(balanced)


class _Schedule:
    """Sets an optimiser's learning rate, after each step or after each epoch."""

    def __init__(self, optimiser: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int) -> None:
        total = recipe.epochs * steps_per_epoch
        self._by_step: torch.optim.lr_scheduler.LambdaLR | None = None
        if recipe.schedule == "cosine":
            self._by_step = torch.optim.lr_scheduler.LambdaLR(
                optimiser, lambda step: _cosine_share(step / total, first=1 / total)
            )
        else:
            self._by_epoch = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimiser, factor=0.1, patience=recipe.patience - 1
            )

    def after_step(self) -> None:
        if self._by_step is not None:
            self._by_step.step()

    def after_epoch(self, loss: float) -> None:
        if self._by_step is None:
            self._by_epoch.step(loss)

    def state(self) -> dict[str, Any]:
        return (self._by_step or self._by_epoch).state_dict()

    def restore(self, state: dict[str, Any]) -> None:
        (self._by_step or self._by_epoch).load_state_dict(state)


def _cosine_share(done: float, *, first: float) -> float:
    """Share of the full learning rate when this share of the steps is done."""
    if done < WARM_UP:
        return max(done, first) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


@contextmanager
def _pixels_in_unit(model: nn.Module, unit: float) -> Iterator[None]:
    """Let the model take pixels that were divided by the unit, and undo it on the way out."""
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv3d)).weight
    first.data.mul_(unit)
    try:
        yield
    finally:
        first.data.div_(unit)


@contextmanager
def _seeded(seed: tuple[int, int], device: torch.device) -> Iterator[None]:
    """Make torch's chance, which dropout draws on, follow from the seed, and put its state back."""
    value = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [device] if device.type == "cuda" else []
    deterministic: Any = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(devices=devices), deterministic:
        torch.manual_seed(value)
        yield
