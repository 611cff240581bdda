"""Changes a clip by chance, as a recipe says, so that a model sees more than there is."""

import numpy as np
import numpy.typing as npt

from selrel.clips.profiles import View, crop
from selrel.training.recipe import Recipe

Frames = npt.NDArray[np.uint8]


def augment(frames: Frames, view: View, recipe: Recipe, rng: np.random.Generator) -> Frames:
    """Change a clip as the recipe says, all frames alike, and crop it.

    Parameters
    ----------
    frames : uint8, (time, y, x, 3)
        Resized, uncropped RGB.
    view : View
        Size of the crop.
    recipe : Recipe
        Its `random_crop`, `flip` and `colour` count.
    rng : numpy.random.Generator
        Where chance comes from.

    Returns
    -------
    uint8, (time, height, width, 3)
        The clip.
    """
    clip = _random_crop(frames, view, rng) if recipe.random_crop else centre(frames, view)
    if recipe.flip and rng.random() < 0.5:
        clip = clip[:, :, ::-1]
    return _recoloured(clip, recipe.colour, rng) if recipe.colour else clip


def centre(frames: Frames, view: View) -> Frames:
    """Take the view's centre crop of all frames: uint8 (time, height, width, 3)."""
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
