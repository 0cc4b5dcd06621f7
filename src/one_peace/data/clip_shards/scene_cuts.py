"""Where one scene of a video ends and the next begins: frames whose colours differ at once."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from PIL import Image

SIDE = 64  # pixels of the longer side of a frame as compared: noise and small motion average out


def scene_cuts(pictures: Iterable[Image.Image], threshold: float = 11.5, shortest: int = 15) -> list[tuple[int, int]]:
    """Scenes as (first frame, frame after the last), in order, without gaps.

    A cut is where hue, saturation and value change by more than `threshold` on average over the three and the pixels
    (of 255; hue of 180, around its circle, and as far as there is colour), `shortest` frames after the last one or
    more. The measure and its defaults are those with which MiCo's videos were cut.

    Args:
        pictures: all frames of a video, RGB.

    Raises:
        ValueError: a threshold or a length that is not positive.
    """
    if threshold <= 0 or shortest < 1:
        raise ValueError(f"threshold and shortest must be positive, got {threshold} and {shortest}")
    starts, before, count = [0], None, 0
    for number, picture in enumerate(pictures):
        now = _colours(picture)
        if before is not None and number - starts[-1] >= shortest and _change(before, now) > threshold:
            starts.append(number)
        before, count = now, number + 1
    return [(start, end) for start, end in zip(starts, [*starts[1:], count], strict=True) if end > start]


def _colours(picture: Image.Image) -> np.ndarray:
    """(height, width, 3) float32: hue of 180, saturation and value of 255."""
    scale = SIDE / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    colours = np.asarray(picture.resize(size, Image.Resampling.BOX).convert("HSV"), np.float32)
    return colours * np.array([180 / 256, 1, 1], np.float32)


def _change(before: np.ndarray, now: np.ndarray) -> float:
    if before.shape != now.shape:  # a video that changes its size starts a new scene
        return np.inf
    difference = np.abs(now - before)
    around = np.minimum(difference[..., 0], 180 - difference[..., 0])
    colourful = np.minimum(before[..., 1], now[..., 1]) / 255  # the hue of grey pixels is noise
    return float((around * colourful + difference[..., 1] + difference[..., 2]).mean() / 3)
