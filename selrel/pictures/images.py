"""Pictures of explanations: arrays in, RGB uint8 arrays (y, x, 3) out.

Relevance is red where positive, blue where negative and white where there is none. Red and blue also differ
for people who confuse red with green; orange and purple, the other palette, differ in lightness too.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

from selrel.clips.flow import grey, known

Image = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
Palette = Literal["red-blue", "orange-purple"]

POSITIVE = (178, 24, 43)
NEGATIVE = (33, 102, 172)
ORANGE = (230, 134, 0)
PURPLE = (63, 18, 122)
UNKNOWN = (190, 190, 190)
# The colours of positive and of negative relevance.
PALETTES: dict[Palette, tuple[tuple[int, int, int], tuple[int, int, int]]] = {
    "red-blue": (POSITIVE, NEGATIVE),
    "orange-purple": (ORANGE, PURPLE),
}
# Share of the voxels with relevance that a scale's end leaves below it: single peaks would hide the rest.
SCALE_SHARE = 0.99
# How much of a frame's contrast is left under the colours.
_FRAME_CONTRAST = 0.55
_GAP = 4
_TEXT_HEIGHT = 16
_LABEL_WIDTH = 120


def relevance_scale(relevance: Floats) -> float:
    """Choose the relevance that is drawn in full colour, one for all frames of a cube.

    Parameters
    ----------
    relevance : float array of any shape
        Signed relevance.

    Returns
    -------
    float
        The magnitude that 99 % of the voxels with relevance do not exceed; 1 where there is none.
    """
    magnitudes = np.abs(relevance[np.isfinite(relevance) & (relevance != 0)])
    return float(np.quantile(magnitudes, SCALE_SHARE)) if magnitudes.size else 1.0


def relevance_colours(relevance: Floats, *, scale: float, palette: Palette = "red-blue") -> Image:
    """Colour relevance: white to red where positive, white to blue where negative.

    Parameters
    ----------
    relevance : float array of any shape, such as (y, x)
        Signed relevance; NaN is grey.
    scale : float
        Magnitude of full colour, above 0; what exceeds it is no darker.
    palette : "red-blue" or "orange-purple"
        The colours of positive and of negative relevance.

    Returns
    -------
    uint8, such as (y, x, 3)
        RGB.
    """
    share = np.clip(np.nan_to_num(relevance.astype(np.float64)) / scale, -1, 1)[..., None]
    end = np.where(share > 0, *PALETTES[palette])
    colours = 255 + np.abs(share) * (end - 255.0)
    return _where_unknown(np.isnan(relevance), np.rint(colours).astype(np.uint8))


def overlay(frame: Image, relevance: Floats, *, scale: float, palette: Palette = "red-blue") -> Image:
    """Lay coloured relevance over a frame, which is shown pale and without its colours.

    Parameters
    ----------
    frame : uint8, (y, x, 3)
        RGB.
    relevance : float, (y, x)
        Signed relevance; NaN is grey.
    scale, palette
        As `relevance_colours` takes them.

    Returns
    -------
    uint8, (y, x, 3)
        RGB: the pale frame times the colour, so the frame is unchanged where there is no relevance.
    """
    pale = 255 - _FRAME_CONTRAST * (255.0 - grey(frame[None])[0])
    shaded = pale[..., None] * relevance_colours(relevance, scale=scale, palette=palette) / 255
    return np.asarray(np.rint(shaded), dtype=np.uint8)


def flow_colours(flow: Floats, *, scale: float) -> Image:
    """Colour the flow of one frame by a colour wheel: direction is hue, length is saturation.

    Parameters
    ----------
    flow : float, (y, x, 2)
        Motion to the right and down in px/frame; NaN, which is unknown, is grey.
    scale : float
        Length of full saturation in px/frame, above 0.

    Returns
    -------
    uint8, (y, x, 3)
        RGB, white where nothing moves. Right is red, down is yellow-green, left is cyan, up is violet.
    """
    unknown = ~known(flow)
    right, down = np.moveaxis(np.nan_to_num(flow.astype(np.float32)), -1, 0)
    hue = np.degrees(np.arctan2(down, right)) % 360
    saturation = np.clip(np.hypot(right, down) / np.float32(scale), 0, 1)
    wheel = np.stack([hue, saturation, np.ones_like(hue)], axis=-1).astype(np.float32)
    colours = cv2.cvtColor(wheel, cv2.COLOR_HSV2RGB)
    return _where_unknown(unknown, np.rint(colours * 255).astype(np.uint8))


def flow_wheel(size: int = 64) -> Image:
    """Draw the legend of `flow_colours`, a disc of every direction and length, uint8 ``(size, size, 3)``."""
    axis = np.linspace(-1, 1, size)
    flow = np.stack(np.meshgrid(axis, axis), axis=-1)
    flow[np.hypot(flow[..., 0], flow[..., 1]) > 1] = 0
    return flow_colours(flow, scale=1.0)


def relevance_legend(width: int = 128, height: int = 16, *, palette: Palette = "red-blue") -> Image:
    """Draw the legend of `relevance_colours`, from minus to plus the scale, uint8 ``(height, width, 3)``."""
    return relevance_colours(np.tile(np.linspace(-1, 1, width), (height, 1)), scale=1.0, palette=palette)


def mask_picture(mask: Mask) -> Image:
    """Draw a mask ``(y, x)``: black where it holds, white elsewhere."""
    return np.repeat(np.where(mask, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def contact_sheet(
    frames: Image,
    flow: Floats,
    relevance: Mapping[str, Floats],
    masks: Mapping[str, Mask],
    *,
    flow_scale: float,
    n_frames: int = 6,
    palette: Palette = "red-blue",
) -> Image:
    """Draw frames of a clip side by side: input, flow, and each method's baseline and selective relevance.

    Parameters
    ----------
    frames : uint8, (time, y, x, 3)
        The valid frames of a clip, RGB.
    flow : float, (time, y, x, 2)
        Their motion in px/frame.
    relevance : mapping of method to float array (time, y, x)
        Signed relevance; each method has one scale for all its pictures (`relevance_scale`).
    masks : mapping of method to bool array (time, y, x)
        Where each method's relevance is selected.
    flow_scale : float
        As `flow_colours` takes it.
    n_frames : int
        At most that many frames, evenly spread, first and last included.
    palette
        As `relevance_colours` takes it.

    Returns
    -------
    uint8, (y, x, 3)
        RGB: a labelled row for each kind, a labelled column for each frame.

    References
    ----------
    Hiley et al. 2020 (arXiv 2003.14285), figure 3.
    """
    shown = _spread(len(frames), n_frames)
    rows = {
        "input": [frames[t] for t in shown],
        "optical flow": [flow_colours(flow[t], scale=flow_scale) for t in shown],
    }
    for method, cube in relevance.items():
        scale, selected = relevance_scale(cube), np.where(masks[method], cube, 0)
        for label, shades in ((method, cube), (f"{method}, selective", selected)):
            rows[label] = [overlay(frames[t], shades[t], scale=scale, palette=palette) for t in shown]
    return _labelled_grid(rows, [f"frame {t + 1}" for t in shown])


def steps(
    frame: Image,
    relevance: Floats,
    edges: Floats,
    mask: Mask,
    *,
    scale: float,
    palette: Palette = "red-blue",
) -> Image:
    """Draw the selective method step by step for one frame: input, relevance, edges, mask, result.

    Parameters
    ----------
    frame : uint8, (y, x, 3)
        RGB.
    relevance, edges : float, (y, x)
        The frame of the cube, and of its temporal edges (signed).
    mask : bool, (y, x)
        Where the relevance is selected.
    scale : float
        Of the relevance, as `relevance_colours` takes it; the edges have a scale of their own.
    palette
        As `relevance_colours` takes it.

    Returns
    -------
    uint8, (y, x, 3)
        RGB, five labelled pictures in a row.

    References
    ----------
    Hiley et al. 2020 (arXiv 2003.14285), figure 1.
    """
    pictures = {
        "1 input": frame,
        "2 relevance": overlay(frame, relevance, scale=scale, palette=palette),
        "3 rise and fall": relevance_colours(edges, scale=relevance_scale(edges), palette=palette),
        "4 mask": mask_picture(mask),
        "5 selective": overlay(frame, np.where(mask, relevance, 0), scale=scale, palette=palette),
    }
    return _labelled_grid({"": list(pictures.values())}, list(pictures))


def strip(pictures: Sequence[Image] | Image) -> Image:
    """Lay equally large pictures side by side without a gap: the frames of a player, in one picture.

    Parameters
    ----------
    pictures : uint8, (time, y, x, 3), or a sequence of uint8, (y, x, 3)
        Frames, RGB.

    Returns
    -------
    uint8, (y, time * x, 3)
        Frame t starts at column ``t * x``.
    """
    return np.concatenate(list(pictures), axis=1)


def png(image: Image) -> bytes:
    """Encode an RGB picture as PNG, losslessly; the same picture gives the same bytes."""
    return _encoded(".png", image)


def webp(image: Image, *, quality: int) -> bytes:
    """Encode an RGB picture as WebP, with losses.

    Parameters
    ----------
    image : uint8, (y, x, 3)
        RGB, up to 16,383 pixels wide and high.
    quality : int
        1..100.

    Returns
    -------
    bytes
        The same picture gives the same bytes.
    """
    return _encoded(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, quality])


def write_words(sheet: Image, words: str, *, x: int, y: int, size: float = 0.38) -> None:
    """Write into a picture, in place, from a point on the line's left end; size 0.38 is 9 px high."""
    cv2.putText(sheet, words, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, (40, 40, 40), 1, cv2.LINE_AA)


def _encoded(kind: str, image: Image, options: Sequence[int] = ()) -> bytes:
    done, data = cv2.imencode(kind, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    assert done, f"OpenCV has a {kind} encoder"
    return data.tobytes()


def _where_unknown(unknown: Mask, colours: Image) -> Image:
    colours[unknown] = UNKNOWN
    return colours


def _spread(n: int, at_most: int) -> list[int]:
    """At most so many of 0..n-1, evenly spread, with both ends."""
    return [int(t) for t in np.unique(np.rint(np.linspace(0, n - 1, min(n, at_most))).astype(int))]


def _labelled_grid(rows: Mapping[str, Sequence[Image]], columns: Sequence[str]) -> Image:
    """Put equally large pictures into a white grid with their labels at the left and on top."""
    height, width = next(iter(rows.values()))[0].shape[:2]
    left = _LABEL_WIDTH if any(rows) else _GAP
    size = (_TEXT_HEIGHT + (height + _GAP) * len(rows), left + (width + _GAP) * len(columns), 3)
    sheet = np.full(size, 255, dtype=np.uint8)
    for place, label in enumerate(columns):
        write_words(sheet, label, x=left + place * (width + _GAP), y=_TEXT_HEIGHT - 5)
    for row, (label, pictures) in enumerate(rows.items()):
        top = _TEXT_HEIGHT + row * (height + _GAP)
        first, comma, rest = label.partition(", ")
        for line, words in enumerate([first + comma.strip(), rest] if comma else [first]):
            write_words(sheet, words, x=_GAP, y=top + height // 2 + 14 * line)
        for place, picture in enumerate(pictures):
            start = left + place * (width + _GAP)
            # A thin frame, or a picture without relevance would not be seen on white.
            sheet[top - 1 : top + height + 1, start - 1 : start + width + 1] = UNKNOWN
            sheet[top : top + height, start : start + width] = picture
    return sheet
