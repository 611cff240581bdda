"""Moving pictures of explanations: arrays in, RGB uint8 arrays (time, y, x, 3) out."""

from collections.abc import Mapping, Sequence

import cv2
import numpy as np

from selrel.pictures.images import (
    UNKNOWN,
    Floats,
    Image,
    Mask,
    Palette,
    flow_colours,
    flow_wheel,
    overlay,
    relevance_legend,
    relevance_scale,
    write_words,
)

# The least width of a panel, in px.
_PANEL = 192
_GAP = 4
_LINE_HEIGHT = 22
_LEGEND_WIDTH = 560
_TEXT_SIZE = 0.45


def film(
    frames: Image,
    flow: Floats,
    relevance: Mapping[str, Floats],
    masks: Mapping[str, Mask],
    *,
    flow_scale: float,
    title: str,
    selected: str = "selective",
    palette: Palette = "red-blue",
) -> Image:
    """Draw the pictures of a moving clip: input, flow, baseline and selective relevance side by side.

    Parameters
    ----------
    frames, flow, relevance, masks, flow_scale
        As `contact_sheet` takes them.
    title : str
        Stands above every picture, before the number of the frame.
    selected : str
        What the selective panels are called.
    palette
        As `relevance_colours` takes it.

    Returns
    -------
    uint8, (time, y, x, 3)
        RGB; a row a method, panels of 192 px or more, both sides even (video codecs want that), and a
        legend that states the one scale of all frames of a method.
    """
    scales = {method: relevance_scale(cube) for method, cube in relevance.items()}
    pictures = []
    for t, frame in enumerate(frames):
        rows = []
        for method, cube in relevance.items():
            kept = np.where(masks[method][t], cube[t], 0)
            row = {
                "input": frame,
                "optical flow": flow_colours(flow[t], scale=flow_scale),
                method: overlay(frame, cube[t], scale=scales[method], palette=palette),
                f"{method}, {selected}": overlay(frame, kept, scale=scales[method], palette=palette),
            }
            rows.append(_row(row))
        heading = f"{title}, frame {t + 1} of {len(frames)}"
        pictures.append(
            explained(np.concatenate(rows), scales, title=heading, flow_scale=flow_scale, palette=palette)
        )
    return np.stack(pictures)


def explained(
    picture: Image,
    scales: Mapping[str, float],
    *,
    title: str,
    flow_scale: float,
    palette: Palette = "red-blue",
) -> Image:
    """Put a title above a picture, and below it a legend of the colours of relevance and of flow.

    Parameters
    ----------
    picture : uint8, (y, x, 3)
        RGB.
    scales : mapping of method to float
        The relevance of full colour.
    title : str
        One line.
    flow_scale, palette
        As `film` takes them.

    Returns
    -------
    uint8, (y, x, 3)
        RGB, both sides even.
    """
    bar = relevance_legend(96, _LINE_HEIGHT - 6, palette=palette)
    legend = [
        _explanation(bar, f"{method}: against the class, none, for it; full colour is {scale:.2g}")
        for method, scale in scales.items()
    ]
    wheel = f"optical flow: hue is direction, full colour is {flow_scale:g} px/frame, grey is unknown"
    return _stacked(
        [_words(title, width=picture.shape[1]), picture, *legend, _explanation(flow_wheel(40), wheel)]
    )


def _row(pictures: Mapping[str, Image]) -> Image:
    """Put pictures side by side, enlarged by a whole number if they are small, their captions above."""
    captioned = []
    for caption, picture in pictures.items():
        zoom = max(1, -(-_PANEL // picture.shape[1]))
        large = np.repeat(np.repeat(picture, zoom, axis=0), zoom, axis=1)
        framed = cv2.copyMakeBorder(large, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=UNKNOWN)
        captioned.append(np.concatenate([_words(caption, width=framed.shape[1]), framed]))
        captioned.append(np.full((len(captioned[-1]), _GAP, 3), 255, dtype=np.uint8))
    return np.concatenate(captioned[:-1], axis=1)


def _words(text: str, *, width: int) -> Image:
    """Write a line, smaller where it would not fit."""
    line = np.full((_LINE_HEIGHT, width, 3), 255, dtype=np.uint8)
    (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _TEXT_SIZE, 1)
    size = _TEXT_SIZE * min(1.0, (width - 2 * _GAP) / max(1, wide))
    write_words(line, text, x=_GAP, y=_LINE_HEIGHT - 6, size=size)
    return line


def _stacked(parts: Sequence[Image]) -> Image:
    """Put pictures of any width under each other on white; both sides of the result are even."""
    width = max(part.shape[1] for part in parts)
    rows = [
        cv2.copyMakeBorder(p, 0, 0, 0, width - p.shape[1], cv2.BORDER_CONSTANT, value=(255,) * 3)
        for p in parts
    ]
    whole = np.concatenate(rows)
    height, width = whole.shape[:2]
    return np.asarray(
        cv2.copyMakeBorder(whole, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT, value=(255,) * 3),
        dtype=np.uint8,
    )


def _explanation(sign: Image, text: str) -> Image:
    height, width = max(_LINE_HEIGHT, len(sign)), 2 * _GAP + sign.shape[1] + _LEGEND_WIDTH
    line = np.full((height, width, 3), 255, dtype=np.uint8)
    top = (height - len(sign)) // 2
    line[top : top + len(sign), _GAP : _GAP + sign.shape[1]] = sign
    write_words(line, text, x=2 * _GAP + sign.shape[1], y=height // 2 + 5, size=_TEXT_SIZE)
    return line
