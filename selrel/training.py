"""Trains a 3D CNN on clips: stochastic gradient descent, with the paper's recipe as default.

Arrays in, arrays out: a provider hands over uint8 frames, the caller keeps the records and the weights.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from selrel.profiles import Profile, View, crop, normalise

Frames = npt.NDArray[np.uint8]
Schedule = Literal["plateau", "cosine"]

# Share of the steps in which the cosine schedule's rate rises from zero.
WARM_UP = 0.15
_CLIPS_TO_SUIT = 32


@dataclass(frozen=True)
class Recipe:
    """How a model is trained; the defaults are the paper's (Hiley et al. 2020, section 5.1).

    Attributes
    ----------
    epochs : int
        Passes over all samples.
    batch_size : int
        Clips of one step.
    learning_rate, momentum : float
        Of stochastic gradient descent.
    schedule : "plateau" or "cosine"
        The rate is divided by 10 after `patience` epochs in which the training loss did not fall; or it
        rises over the first 15 % of the steps and falls to zero along a cosine.
    patience : int
        Epochs; of "plateau" only.
    pixel_unit : float
        Pixels are counted in this unit while training, which brings those of 0..255 near unit variance;
        the weights that come out take the profile's own pixels. A power of two makes that exact.
    max_gradient_norm : float, optional
        Longer gradients are shortened to this.
    jitter : int
        A clip starts up to this many frames earlier or later.
    random_crop : bool
        Crop anywhere in the resized frame, not in its centre.
    colour : float
        0 to 1: how far brightness and colour balance of a clip are changed at random, and whether (above
        0) its channels change places.

    Raises
    ------
    ValueError
        If a value is out of range.
    """

    epochs: int = 100
    batch_size: int = 32
    learning_rate: float = 1e-3
    momentum: float = 0.9
    schedule: Schedule = "plateau"
    patience: int = 10
    pixel_unit: float = 1.0
    max_gradient_norm: float | None = None
    jitter: int = 0
    random_crop: bool = False
    colour: float = 0.0

    def __post_init__(self) -> None:
        """Refuse values that mean nothing."""
        for name in ("epochs", "batch_size", "patience"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        for name in ("learning_rate", "pixel_unit"):
            _check(name, getattr(self, name), 0 < getattr(self, name) < math.inf, "a number above 0")
        norm = self.max_gradient_norm
        _check("max_gradient_norm", norm, norm is None or norm > 0, "a number above 0, or leave it out")
        _check("momentum", self.momentum, 0 <= self.momentum < 1, "0 up to below 1")
        _check("jitter", self.jitter, self.jitter >= 0, "0 or more frames")
        _check("colour", self.colour, 0 <= self.colour <= 1, "0 to 1")
        schedules = get_args(Schedule)
        _check("schedule", self.schedule, self.schedule in schedules, f"one of {', '.join(schedules)}")


@dataclass(frozen=True)
class Samples:
    """Clips that can be read by number.

    Attributes
    ----------
    read : callable
        ``read(sample, shift)`` gives uint8 RGB frames ``(time, y, x, 3)``, resized by the view but not
        cropped, of the clip that starts `shift` frames later (earlier if negative) as far as the video goes.
    labels : int64, (sample,)
        The model's output that each clip belongs to.
    """

    read: Callable[[int, int], Frames]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Epoch:
    """What one epoch gave: its number from 1, last learning rate, mean losses (nat) and accuracies (0..1).

    Training figures are of augmented clips with dropout, while the weights move; those of validation are
    of the weights after the epoch, None without validation samples.
    """

    epoch: int
    learning_rate: float
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None


def initialise(model: nn.Module, samples: Samples, *, profile: Profile, seed: int) -> None:
    """Give every convolution and linear layer new weights that suit the clips, in place.

    Each unit's output, before its ReLU, gets mean 0 and deviation 1 over some clips. Without that, after
    ten layers of a plain network all clips look alike, and training stands still for many epochs.

    Parameters
    ----------
    model : torch.nn.Module
        Convolutions and linear layers that follow each other.
    samples : Samples
        The clips to learn from; 32 of them are drawn.
    profile : Profile
        How frames become inputs.
    seed : int
        Same seed, same weights.

    Raises
    ------
    ValueError
        If there is no sample.

    References
    ----------
    Directions: He et al. 2015, *Delving deep into rectifiers*. Scales and biases: Krahenbuhl et al. 2016,
    *Data-dependent initializations of convolutional neural networks*, section 3.1. The last layer's
    outputs get deviation 0.1 and no bias, so that training starts from nearly equal odds.
    """
    _check_not_empty(samples)
    generator = torch.Generator().manual_seed(seed)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv3d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        _set_bias(layer, torch.tensor(0.0))
    drawn = np.random.default_rng(seed).permutation(len(samples.labels))[:_CLIPS_TO_SUIT]
    clips = [_centre(samples.read(int(number), 0), profile.view) for number in drawn]
    last = _suited(model, layers, _inputs(clips, profile, model))
    last.weight.data.mul_(0.1)
    _set_bias(last, torch.tensor(0.0))


def fit(
    model: nn.Module,
    samples: Samples,
    *,
    profile: Profile,
    recipe: Recipe,
    validation: Samples | None = None,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Iterator[Epoch]:
    """Train a model in place, one epoch for each record that is taken.

    Parameters
    ----------
    model : torch.nn.Module
        Takes normalised clips, gives logits. At every yield it is in the mode it came in and takes the
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
        left as it was. On one kind of CPU and with one number of threads, same seed, same weights.
    device : str or torch.device
        Where to train.

    Yields
    ------
    Epoch
        After each epoch.

    Raises
    ------
    ValueError
        If there is no sample, or the loss is not finite any more.
    """
    _check_not_empty(samples)
    model.to(device)
    optimiser = torch.optim.SGD(model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum)
    n_steps = math.ceil(len(samples.labels) / recipe.batch_size)
    schedule = _Schedule(optimiser, recipe, n_steps)
    rng = np.random.default_rng(seed)
    for number in range(1, recipe.epochs + 1):
        with _seeded((seed, number), device), _training(model), _pixels_in_unit(model, recipe.pixel_unit):
            loss, accuracy = _epoch(model, samples, optimiser, schedule, profile, recipe, rng)
        if not math.isfinite(loss):
            raise ValueError(
                f"the loss of epoch {number} is not finite; make learning_rate ({recipe.learning_rate}) "
                "smaller, or set max_gradient_norm"
            )
        rate = optimiser.param_groups[0]["lr"]
        schedule.after_epoch(loss)
        measured: tuple[float, float] | tuple[None, None] = (None, None)
        if validation is not None:
            measured = evaluate(model, validation, profile=profile, batch_size=recipe.batch_size)
        yield Epoch(number, rate, loss, accuracy, *measured)


def evaluate(
    model: nn.Module, samples: Samples, *, profile: Profile, batch_size: int = 32
) -> tuple[float, float]:
    """Measure a model on clips as they are: centre crop, no augmentation.

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
    loss, accuracy : float
        Mean cross-entropy (nat) and share of clips whose highest logit is their label's.

    Raises
    ------
    ValueError
        If there is no sample.
    """
    if not len(samples.labels):
        raise ValueError("there is no clip to measure on; choose a split and classes with such videos")
    loss = correct = 0.0
    with torch.no_grad(), _training(model, False):
        for start in range(0, len(samples.labels), batch_size):
            numbers = range(start, min(start + batch_size, len(samples.labels)))
            clips = [_centre(samples.read(number, 0), profile.view) for number in numbers]
            logits = model(_inputs(clips, profile, model))
            labels = torch.from_numpy(samples.labels[numbers.start : numbers.stop]).to(logits.device)
            loss += float(functional.cross_entropy(logits, labels, reduction="sum"))
            correct += int((logits.argmax(1) == labels).sum())
    return loss / len(samples.labels), correct / len(samples.labels)


def augment(frames: Frames, view: View, recipe: Recipe, rng: np.random.Generator) -> Frames:
    """Change a clip as the recipe says, all frames alike, and crop it.

    Parameters
    ----------
    frames : uint8, (time, y, x, 3)
        Resized, uncropped RGB.
    view : View
        Size of the crop.
    recipe : Recipe
        Its `random_crop` and `colour` count.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    uint8, (time, height, width, 3)
        The clip.
    """
    clip = _random_crop(frames, view, rng) if recipe.random_crop else _centre(frames, view)
    return _recoloured(clip, recipe.colour, rng) if recipe.colour else clip


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


def _cosine_share(done: float, *, first: float) -> float:
    """Share of the full learning rate when this share of the steps is done."""
    if done < WARM_UP:
        return max(done, first) / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _epoch(
    model: nn.Module,
    samples: Samples,
    optimiser: torch.optim.Optimizer,
    schedule: _Schedule,
    profile: Profile,
    recipe: Recipe,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Go once over all samples in random order; mean loss and accuracy."""
    order = rng.permutation(len(samples.labels))
    total = correct = 0.0
    for start in range(0, len(order), recipe.batch_size):
        batch = order[start : start + recipe.batch_size]
        clips = [_drawn(samples, int(number), profile.view, recipe, rng) for number in batch]
        logits = model(_inputs(clips, profile, model) / recipe.pixel_unit)
        labels = torch.from_numpy(samples.labels[batch]).to(logits.device)
        loss = functional.cross_entropy(logits, labels)
        _step(model, loss, optimiser, recipe.max_gradient_norm)
        schedule.after_step()
        total += loss.item() * len(batch)
        correct += int((logits.argmax(1) == labels).sum())
    return total / len(order), correct / len(order)


def _step(
    model: nn.Module, loss: Tensor, optimiser: torch.optim.Optimizer, max_gradient_norm: float | None
) -> None:
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    if max_gradient_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), max_gradient_norm)
    optimiser.step()


def _drawn(samples: Samples, number: int, view: View, recipe: Recipe, rng: np.random.Generator) -> Frames:
    shift = int(rng.integers(-recipe.jitter, recipe.jitter + 1))
    return augment(samples.read(number, shift), view, recipe, rng)


def _centre(frames: Frames, view: View) -> Frames:
    # The crop is along the first two axes: (y, x, time, 3) and back.
    return crop(frames.transpose(1, 2, 0, 3), view).transpose(2, 0, 1, 3)


def _random_crop(frames: Frames, view: View, rng: np.random.Generator) -> Frames:
    height, width = view.crop
    top = int(rng.integers(frames.shape[1] - height + 1))
    left = int(rng.integers(frames.shape[2] - width + 1))
    return frames[:, top : top + height, left : left + width]


def _recoloured(clip: Frames, strength: float, rng: np.random.Generator) -> Frames:
    """Change brightness, balance and order of the channels by a table a channel, which is fast."""
    gain = rng.uniform(1 - strength, 1 + strength) * rng.uniform(1 - strength / 2, 1 + strength / 2, 3)
    offset = 40 * rng.uniform(-strength, strength)
    tables = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)
    channels = [tables[:, place][clip[..., source]] for place, source in enumerate(rng.permutation(3))]
    return np.stack(channels, axis=-1)


def _inputs(clips: list[Frames], profile: Profile, model: nn.Module) -> Tensor:
    device = next(model.parameters()).device
    # Twice as fast on a CPU, and the same numbers.
    return normalise(torch.from_numpy(np.stack(clips)).to(device), profile).contiguous(
        memory_format=torch.channels_last_3d
    )


@contextmanager
def _training(model: nn.Module, mode: bool = True) -> Iterator[None]:
    """Put a model in train or eval mode, and back into the mode it had."""
    before = model.training
    model.train(mode)
    try:
        yield
    finally:
        model.train(before)


@contextmanager
def _pixels_in_unit(model: nn.Module, unit: float) -> Iterator[None]:
    """Let the model take pixels that were divided by the unit, and undo it on the way out."""
    first = _first_convolution(model).weight
    first.data.mul_(unit)
    try:
        yield
    finally:
        first.data.div_(unit)


@contextmanager
def _seeded(seed: tuple[int, int], device: str | torch.device) -> Iterator[None]:
    """Make torch's chance, which dropout draws on, follow from the seed, and put its state back."""
    device = torch.device(device)
    value = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> np.uint64(1))
    devices = [device] if device.type == "cuda" else []
    deterministic: Any = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)
    with torch.random.fork_rng(devices=devices), deterministic:
        torch.manual_seed(value)
        yield


def _first_convolution(model: nn.Module) -> nn.Conv3d:
    return next(layer for layer in model.modules() if isinstance(layer, nn.Conv3d))


def _suited(
    model: nn.Module, layers: Sequence[nn.Conv3d | nn.Linear], clips: Tensor
) -> nn.Conv3d | nn.Linear:
    """Scale all layers in one forward pass, and give the one that came last."""
    passed: list[nn.Conv3d | nn.Linear] = []

    def suit(layer: nn.Module, inputs: Any, outputs: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv3d | nn.Linear)
        passed.append(layer)
        return _suit(layer, outputs)

    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(suit).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(_training(model, False))
        model(clips)
    return passed[-1]


def _suit(layer: nn.Conv3d | nn.Linear, outputs: Tensor) -> Tensor:
    """Scale a layer so that each unit's output has mean 0 and deviation 1, and give that output."""
    deviation, mean = torch.std_mean(outputs.transpose(0, 1).flatten(1), dim=1, correction=0)
    # A unit that never changes has no scale to find.
    deviation = torch.where(deviation > 0, deviation, 1.0)
    mean = mean if layer.bias is not None else torch.zeros_like(mean)
    layer.weight.data.div_(deviation.view(-1, *[1] * (layer.weight.ndim - 1)))
    _set_bias(layer, -mean / deviation)
    others = [1] * (outputs.ndim - 2)
    return (outputs - mean.view(-1, *others)) / deviation.view(-1, *others)


def _set_bias(layer: nn.Conv3d | nn.Linear, values: Tensor) -> None:
    if layer.bias is not None:
        layer.bias.data.copy_(values)


def _check_not_empty(samples: Samples) -> None:
    if not len(samples.labels):
        raise ValueError("there is no clip to train on; choose a split and classes with training videos")


def _check(name: str, value: object, allowed: bool, wanted: str) -> None:
    if not allowed:
        raise ValueError(f"{name} is {value}; give {wanted}")
