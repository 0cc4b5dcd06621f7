"""A sound as a picture."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

BACKGROUND = (28, 38, 58)
_BAR = (120, 190, 255)


def draw_waveform(waveform: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Bars of the loudness of a mono waveform (n,) over time, on an RGB picture of `size` (width, height)."""
    width, height = size
    image = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(image)
    bars = max(1, width // 6)
    peaks = np.array([np.abs(part).max(initial=0.0) for part in np.array_split(waveform, bars)])
    heights = peaks / max(float(peaks.max(initial=0.0)), 1e-6) * (0.42 * height)
    for i, reach in enumerate(heights):
        left = (i + 0.5) * width / bars - 2
        reach = max(float(reach), 1.5)
        draw.rounded_rectangle((left, height / 2 - reach, left + 3, height / 2 + reach), 1.5, fill=_BAR)
    return image
