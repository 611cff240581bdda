import copy
import io
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from selrel.clips.profiles import Profile, View, crop, normalise
from selrel.training.fitting import Recipe, Samples, Trainer, augment, evaluate, fit, initialise
from selrel.training.samples import epoch_order

VIEW = View(resize=(16, 14), crop=(8, 10), clip_length=4)
PROFILE = Profile("test", VIEW, "BGR", 1.0, (90.0, 98.0, 102.0), (1.0, 1.0, 1.0), "sorted")


class Net(nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.conv1 = nn.Conv3d(3, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.AdaptiveAvgPool3d((2, 2, 2))
        self.dropout = nn.Dropout(dropout)
        self.fc8 = nn.Linear(48, 2)

    def forward(self, clips):
        return self.fc8(self.dropout(torch.flatten(self.pool1(self.relu1(self.conv1(clips))), 1)))


def clips_of(n, seed=0):
    """Bright in the upper or in the lower half, over noise: (sample, time, y, x, 3), uncropped."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    frames = rng.integers(60, 120, (n, 4, 14, 16, 3), dtype=np.uint8)
    for clip, label in zip(frames, labels, strict=True):
        clip[:, 7 * label : 7 * label + 7] += 60
    return frames, labels


def samples_of(n=24, seed=0):
    frames, labels = clips_of(n, seed)
    return Samples(lambda sample, shift: frames[sample], labels)


def made(seed=0, *, dropout=0.0):
    model = Net(dropout)
    initialise(model, samples_of(), profile=PROFILE, seed=seed)
    return model.eval()


def trained(recipe, *, seed=0, samples=None, **given):
    model = made(**given)
    records = list(fit(model, samples or samples_of(), profile=PROFILE, recipe=recipe, seed=seed))
    return model, records


FAST = Recipe(epochs=12, batch_size=8, learning_rate=0.05, pixel_unit=64.0)


def test_default_recipe_is_the_papers():
    recipe = Recipe()
    assert (recipe.learning_rate, recipe.momentum, recipe.batch_size) == (1e-3, 0.9, 32)
    assert (recipe.schedule, recipe.patience, recipe.max_gradient_norm) == ("plateau", 10, None)
    assert (recipe.pixel_unit, recipe.jitter, recipe.random_crop, recipe.colour) == (1.0, 0, False, 0.0)
    assert (recipe.sampling, recipe.flip, recipe.precision) == ("random", False, "float32")


def test_model_learns_and_does_as_well_on_clips_it_never_saw():
    model, records = trained(FAST)
    assert [record.epoch for record in records] == list(range(1, 13))
    assert records[-1].loss < 0.3 * records[0].loss
    assert records[-1].accuracy == 1.0
    loss, accuracy = evaluate(model, samples_of(20, seed=5), profile=PROFILE)
    assert accuracy == 1.0
    assert loss < 0.3


def test_validation_is_measured_after_each_epoch_and_changes_nothing():
    held_out = samples_of(10, seed=3)
    model = made()
    for record in fit(model, samples_of(), profile=PROFILE, recipe=FAST, validation=held_out):
        measured = evaluate(model, held_out, profile=PROFILE)
        assert (record.validation_loss, record.validation_accuracy) == pytest.approx(measured, abs=1e-6)
    without, records = trained(FAST)
    assert records[0].validation_loss is None
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), without.parameters(), strict=True))


def test_same_seed_same_weights_another_seed_others():
    recipe = Recipe(epochs=2, batch_size=8, pixel_unit=64.0, random_crop=True, colour=0.2)
    weights = [
        torch.cat([p.detach().flatten() for p in trained(recipe, seed=seed, dropout=0.5)[0].parameters()])
        for seed in (1, 1, 2)
    ]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_same_seed_whatever_the_state_of_torchs_own_generator():
    recipe = Recipe(epochs=1, batch_size=8, pixel_unit=64.0)
    torch.manual_seed(1)
    first, _ = trained(recipe, dropout=0.5)
    second = made(dropout=0.5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    list(fit(second, samples_of(), profile=PROFILE, recipe=recipe))
    assert torch.equal(first.fc8.weight, second.fc8.weight)
    assert torch.equal(torch.get_rng_state(), state)


RESUMED = {
    "plateau": Recipe(
        epochs=6, batch_size=8, learning_rate=0.3, patience=1, pixel_unit=50.0, jitter=1, flip=True
    ),
    "cosine": Recipe(
        epochs=6, batch_size=7, schedule="cosine", random_crop=True, colour=0.2, sampling="balanced"
    ),
    "bfloat16": Recipe(epochs=6, batch_size=8, learning_rate=0.05, pixel_unit=64.0, precision="bfloat16"),
}


@pytest.mark.parametrize("recipe", RESUMED.values(), ids=RESUMED)
@pytest.mark.parametrize("stop", [1, 4])
def test_training_goes_on_from_a_stored_state_as_if_it_had_never_stopped(recipe, stop):
    whole, records = trained(recipe, dropout=0.5, seed=3)
    stopped = made(dropout=0.5)
    trainer = Trainer(stopped, samples_of(), profile=PROFILE, recipe=recipe, seed=3)
    epochs = trainer.epochs()
    first = [next(epochs) for _ in range(stop)]
    stored = io.BytesIO()
    torch.save(trainer.state(), stored)
    # A model that knows nothing, in a process that knows nothing.
    again = made(9, dropout=0.5)
    other = Trainer(again, samples_of(), profile=PROFILE, recipe=recipe, seed=3)
    other.restore(torch.load(io.BytesIO(stored.getvalue()), weights_only=True))
    assert first + list(other.epochs()) == records
    for ours, theirs in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_readers_change_nothing_but_the_speed():
    recipe = Recipe(epochs=2, batch_size=5, pixel_unit=64.0, jitter=2, random_crop=True, flip=True)
    weights = []
    for readers in (1, 4):
        model = made()
        list(Trainer(model, samples_of(), profile=PROFILE, recipe=recipe, readers=readers).epochs())
        weights.append(model.fc8.weight)
    assert torch.equal(*weights)


def test_half_precision_learns_in_steps_of_its_own_and_publishes_full_precision():
    models = {}
    for precision in ("float32", "bfloat16"):
        models[precision], records = trained(replace(FAST, precision=precision))
        assert records[-1].accuracy == 1.0
    half, full = (models[name].fc8.weight for name in ("bfloat16", "float32"))
    assert half.dtype == torch.float32
    assert not torch.equal(half, full)
    # Weights that had been rounded to half precision would have no other bits.
    assert not torch.equal(half, half.bfloat16().float())


def test_balanced_sampling_gives_every_class_the_same_share():
    labels = np.array([0] * 50 + [1] * 7 + [2] * 3)
    order = epoch_order(labels, "balanced", np.random.default_rng(0))
    assert len(order) == 60
    assert np.bincount(labels[order]).tolist() == [20, 20, 20]
    times = np.bincount(order, minlength=60)
    # A small class goes round as a whole; a large one is not repeated.
    assert times[:50].max() == 1
    assert set(times[50:57]) == {2, 3}
    assert set(times[57:]) == {6, 7}
    other = epoch_order(labels, "balanced", np.random.default_rng(1))
    assert order.tolist() != other.tolist()


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7])
def test_balanced_sampling_of_any_size_is_an_epoch(n):
    labels = np.arange(n) % 3
    order = epoch_order(labels, "balanced", np.random.default_rng(n))
    assert len(order) == n
    counts = np.bincount(labels[order], minlength=min(n, 3))
    assert counts.max() - counts.min() <= 1


def test_random_sampling_takes_every_clip_once():
    order = epoch_order(np.zeros(9, np.int64), "random", np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(9))


def test_balanced_accuracy_is_the_mean_of_the_classes_own():
    frames, labels = clips_of(12)
    # Nine of ten held-out clips are of one class; the model learns to say that class only.
    held_out = Samples(lambda sample, shift: frames[0], np.array([0] * 9 + [1]))
    only_zero = Samples(lambda sample, shift: frames[sample], np.zeros(12, np.int64))
    model = made()
    record = list(fit(model, only_zero, profile=PROFILE, recipe=FAST, validation=held_out))[-1]
    assert record.validation_accuracy == pytest.approx(0.9)
    assert record.validation_balanced_accuracy == pytest.approx(0.5)


def slow_descent(model, samples, recipe, profile, seed):
    """Momentum written out, in float64, on pixels divided by the unit."""
    model = copy.deepcopy(model).double()
    model.conv1.weight.data *= recipe.pixel_unit
    speed = [torch.zeros_like(p) for p in model.parameters()]
    order = np.random.default_rng(seed)
    for _ in range(recipe.epochs):
        shuffled = order.permutation(len(samples.labels))
        for start in range(0, len(shuffled), recipe.batch_size):
            batch = shuffled[start : start + recipe.batch_size]
            # No jitter draws no chance that matters, but the number is drawn for every clip.
            for _ in batch:
                order.integers(0, 1)
            clips = np.stack([[crop(frame, VIEW) for frame in samples.read(int(n), 0)] for n in batch])
            logits = model(normalise(clips, profile).double() / recipe.pixel_unit)
            picked = logits.log_softmax(1)[range(len(batch)), samples.labels[batch]]
            gradients = torch.autograd.grad(-picked.mean(), list(model.parameters()))
            for p, v, g in zip(model.parameters(), speed, gradients, strict=True):
                v.mul_(recipe.momentum).add_(g)
                p.data -= recipe.learning_rate * v
    model.conv1.weight.data /= recipe.pixel_unit
    return model


@pytest.mark.parametrize(("unit", "std"), [(1.0, 64.0), (64.0, 1.0), (16.0, 4.0)])
def test_descent_is_the_textbooks(unit, std):
    profile = replace(PROFILE, std=(std, std, std))
    recipe = Recipe(epochs=3, batch_size=7, learning_rate=0.02, momentum=0.8, pixel_unit=unit)
    samples = samples_of(18)
    slow = slow_descent(made(), samples, recipe, profile, seed=4)
    fast, start = made(), made()
    list(fit(fast, samples, profile=profile, recipe=recipe, seed=4))
    for name, expected in slow.state_dict().items():
        moved = (expected - start.state_dict()[name]).abs().max()
        off = (fast.state_dict()[name] - expected).abs().max()
        assert off < 1e-3 * moved


def test_longer_gradients_are_shortened():
    recipe = Recipe(epochs=1, batch_size=24, learning_rate=1.0, momentum=0.0, max_gradient_norm=1e-3)
    before, (after, _) = made(), trained(recipe)
    steps = [(a - b).detach() for a, b in zip(after.parameters(), before.parameters(), strict=True)]
    assert math.sqrt(sum(float(step.square().sum()) for step in steps)) == pytest.approx(1e-3, rel=1e-2)


def test_plateau_divides_the_rate_by_ten():
    # A rate this small changes no loss, so every epoch but the first is without progress.
    recipe = Recipe(epochs=8, batch_size=24, learning_rate=1e-20, patience=3)
    _, records = trained(recipe)
    rates = [record.learning_rate for record in records]
    # The first epoch is the best; then three times three without progress.
    assert rates == pytest.approx([1e-20] * 4 + [1e-21] * 3 + [1e-22], rel=1e-6)


def test_progress_keeps_the_rate():
    recipe = Recipe(epochs=6, batch_size=8, learning_rate=0.01, patience=1, pixel_unit=64.0)
    _, records = trained(recipe)
    assert {record.learning_rate for record in records} == {0.01}


def test_cosine_rises_and_falls_to_nothing():
    recipe = Recipe(epochs=20, batch_size=8, learning_rate=0.05, schedule="cosine", pixel_unit=64.0)
    _, records = trained(recipe)
    rates = [record.learning_rate for record in records]
    top = int(np.argmax(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(0.05, rel=0.05)
    assert rates[-1] < 1e-4
    assert 1 <= top <= 4


@pytest.mark.parametrize("training", [True, False])
def test_model_leaves_in_the_mode_it_came(training):
    model = made().train(training)
    for _ in fit(model, samples_of(), profile=PROFILE, recipe=Recipe(epochs=1)):
        assert model.training is training
    evaluate(model, samples_of(), profile=PROFILE)
    assert model.training is training


def test_failing_reader_leaves_the_model_as_it_was():
    def read(sample, shift):
        raise OSError("gone")

    model = made()
    before = model.conv1.weight.clone()
    with pytest.raises(OSError, match="gone"):
        list(fit(model, Samples(read, np.zeros(4, np.int64)), profile=PROFILE, recipe=FAST))
    assert not model.training
    assert torch.equal(model.conv1.weight, before)


def test_loss_that_is_not_finite_stops_the_training():
    recipe = Recipe(epochs=5, batch_size=4, learning_rate=1e6)
    with pytest.raises(ValueError, match="not finite; make learning_rate"):
        trained(recipe)


def test_weights_that_the_last_step_ruins_stop_the_training():
    """No loss is taken after it."""
    recipe = Recipe(epochs=1, batch_size=64, learning_rate=1e38)
    with pytest.raises(ValueError, match="a weight of epoch 1 is not finite; make learning_rate"):
        trained(recipe)


def test_validation_loss_that_is_not_finite_stops_the_training():
    """Clips that were learnt from may be too dark to show what the weights have become."""
    black, white = (np.full((2, 4, 14, 16, 3), value, np.uint8) for value in (0, 255))
    learn, held_out = (
        Samples(lambda sample, shift, frames=frames: frames[sample], np.arange(2))
        for frames in (black, white)
    )
    model = Net()
    for parameter in (model.conv1.weight, model.fc8.weight):
        nn.init.constant_(parameter, 1e30)
    nn.init.constant_(model.conv1.bias, -1.0)
    given = {"profile": replace(PROFILE, mean=(0.0, 0.0, 0.0)), "recipe": Recipe(epochs=2)}
    assert [record.epoch for record in fit(model, learn, **given)] == [1, 2]
    trainer = Trainer(model, learn, validation=held_out, **given)
    message = (
        r"^the validation loss of epoch 1 is not finite; make learning_rate \(0.001\) smaller, or set "
        "max_gradient_norm$"
    )
    with pytest.raises(ValueError, match=message):
        list(trainer.epochs())
    assert trainer.epoch == 0


def test_statistics_that_are_not_finite_stop_the_training():
    """They are no parameters, but published like them."""

    class Normed(Net):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(2)

        def forward(self, clips):
            return self.norm(super().forward(clips))

    model = Normed()
    nn.init.constant_(model.norm.running_var, math.inf)
    with pytest.raises(ValueError, match="the loss or a weight of epoch 1 is not finite"):
        list(fit(model, samples_of(), profile=PROFILE, recipe=FAST))


def test_no_clips_are_refused():
    empty = Samples(lambda sample, shift: None, np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="no clip to train on"):
        list(fit(made(), empty, profile=PROFILE, recipe=FAST))
    with pytest.raises(ValueError, match="no clip to train on"):
        initialise(Net(), empty, profile=PROFILE, seed=0)
    with pytest.raises(ValueError, match="no clip to measure on"):
        evaluate(made(), empty, profile=PROFILE)


def test_evaluation_is_cross_entropy_and_accuracy():
    model, samples = made(3), samples_of(11, seed=2)
    losses, hits = [], []
    for number, label in enumerate(samples.labels):
        clip = np.stack([crop(frame, VIEW) for frame in samples.read(number, 0)])
        logits = model(normalise(clip[None], PROFILE)).detach().double().numpy()[0]
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])
        hits.append(np.argmax(logits) == label)
    found = evaluate(model, samples, profile=PROFILE, batch_size=4)
    assert found == pytest.approx((np.mean(losses), np.mean(hits)), rel=1e-5)


def test_jitter_asks_for_shifted_clips():
    frames, labels = clips_of(24)
    shifts = []

    def read(sample, shift):
        shifts.append(shift)
        return frames[sample]

    trained(Recipe(epochs=4, jitter=2), samples=Samples(read, labels))
    assert set(shifts) == {-2, -1, 0, 1, 2}
    shifts.clear()
    trained(Recipe(epochs=2), samples=Samples(read, labels))
    assert set(shifts) == {0}


def test_without_augmentation_a_clip_is_its_centre():
    frames = clips_of(1)[0][0]
    clip = augment(frames, VIEW, Recipe(), np.random.default_rng(0))
    assert np.array_equal(clip, np.stack([crop(frame, VIEW) for frame in frames]))


def test_random_crops_reach_every_corner_and_keep_frames_together():
    grid = np.arange(14 * 16, dtype=np.uint8).reshape(14, 16)
    frames = np.broadcast_to(grid[None, :, :, None], (4, 14, 16, 3))
    rng = np.random.default_rng(0)
    corners = set()
    for _ in range(600):
        clip = augment(frames, VIEW, Recipe(random_crop=True), rng)
        assert clip.shape == (4, 8, 10, 3)
        top, left = divmod(int(clip[0, 0, 0, 0]), 16)
        assert np.array_equal(clip, frames[:, top : top + 8, left : left + 10])
        corners.add((top, left))
    assert corners == {(top, left) for top in range(7) for left in range(7)}


def test_flips_mirror_about_half_of_the_clips_as_a_whole():
    frames = clips_of(1)[0][0]
    plain = augment(frames, VIEW, Recipe(), np.random.default_rng(0))
    rng = np.random.default_rng(0)
    mirrored = 0
    for _ in range(100):
        clip = augment(frames, VIEW, Recipe(flip=True), rng)
        turned = bool(np.array_equal(clip, plain[:, :, ::-1]))
        assert turned or np.array_equal(clip, plain)
        mirrored += turned
    assert 30 < mirrored < 70


def test_colour_changes_a_clip_as_a_whole():
    frames = np.random.default_rng(0).integers(0, 256, (4, 14, 16, 3), dtype=np.uint8)
    clip = augment(frames, VIEW, Recipe(colour=0.5), np.random.default_rng(1))
    plain = augment(frames, VIEW, Recipe(), np.random.default_rng(1))
    assert clip.dtype == np.uint8
    assert not np.array_equal(clip, plain)
    # Each new channel follows from one old channel by one rising table, in all frames.
    for channel in range(3):
        fits = []
        for source in range(3):
            order = np.argsort(plain[..., source].ravel(), kind="stable")
            fits.append(bool((np.diff(clip[..., channel].ravel()[order].astype(int)) >= 0).all()))
        assert any(fits)


def outputs_of(model, clips):
    """What each layer with weights gives, before its ReLU."""
    found = {}
    hooks = [
        layer.register_forward_hook(lambda layer, given, out, name=name: found.update({name: out}))
        for name, layer in model.named_modules()
        if name in ("conv1", "fc7", "fc8")
    ]
    with torch.no_grad():
        model(clips)
    for hook in hooks:
        hook.remove()
    return found


def test_initial_weights_suit_the_clips():
    class Deeper(Net):
        def __init__(self):
            super().__init__()
            self.fc7, self.relu7 = nn.Linear(48, 9), nn.ReLU()
            self.fc8 = nn.Linear(9, 2)

        def forward(self, clips):
            hidden = torch.flatten(self.pool1(self.relu1(self.conv1(clips))), 1)
            return self.fc8(self.relu7(self.fc7(hidden)))

    model, samples = Deeper().train(), samples_of(20)
    initialise(model, samples, profile=PROFILE, seed=0)
    assert model.training
    assert not any(layer._forward_hooks for layer in model.modules())
    clips = np.stack([[crop(frame, VIEW) for frame in samples.read(n, 0)] for n in range(20)])
    found = outputs_of(model, normalise(clips, PROFILE))
    for name, spread in (("conv1", 1.0), ("fc7", 1.0)):
        units = found[name].transpose(0, 1).flatten(1).double()
        assert units.mean(dim=1).abs().max() < 1e-4
        assert units.std(dim=1, correction=0).numpy() == pytest.approx(np.full(len(units), spread), rel=1e-4)
    last = found["fc8"].double()
    assert last.std(dim=0, correction=0).numpy() == pytest.approx([0.1, 0.1], rel=1e-4)
    assert not model.fc8.bias.any()


def test_unit_that_never_changes_keeps_finite_weights():
    black = Samples(lambda sample, shift: np.zeros((4, 14, 16, 3), np.uint8), np.zeros(3, np.int64))
    model = Net()
    profile = replace(PROFILE, mean=(0.0, 0.0, 0.0))
    initialise(model, black, profile=profile, seed=0)
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())


def test_initial_weights_follow_from_the_seed():
    a, b, c = made(1), made(1), made(2)
    assert torch.equal(a.conv1.weight, b.conv1.weight)
    assert not torch.equal(a.conv1.weight, c.conv1.weight)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"patience": 0},
        {"learning_rate": 0.0},
        {"learning_rate": math.nan},
        {"momentum": 1.0},
        {"learning_rate": math.inf},
        {"momentum": math.nan},
        {"pixel_unit": 0.0},
        {"pixel_unit": math.nan},
        {"pixel_unit": 1e30},
        {"max_gradient_norm": 0.0},
        {"max_gradient_norm": math.inf},
        {"max_gradient_norm": math.nan},
        {"colour": math.nan},
        {"jitter": -1},
        {"colour": 1.5},
        {"schedule": "step"},
        {"sampling": "even"},
        {"precision": "float16"},
    ],
)
def test_recipes_that_mean_nothing_are_refused(change):
    with pytest.raises(ValueError, match=f"{next(iter(change))} is"):
        Recipe(**change)
