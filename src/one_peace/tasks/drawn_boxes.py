"""Predicted boxes drawn on their picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from one_peace.modalities.pictures import decode_picture

COLOUR = (230, 30, 60)


def draw_box(source: Any, box: Sequence[float], phrase: str) -> Image.Image:
    """A copy of the picture with a box (x0, y0, x1, y1 in pixels) and its phrase."""
    picture = decode_picture(source).copy()
    draw = ImageDraw.Draw(picture)
    thickness = max(2, round(max(picture.size) / 200))
    draw.rectangle([round(v) for v in box], outline=COLOUR, width=thickness)
    size = max(12, picture.height // 24)
    left, top = box[0] + thickness, max(0, box[1] - 1.3 * size)
    extent = draw.textbbox((left, top), phrase, font_size=size)
    draw.rectangle(extent, fill=COLOUR)
    draw.text((left, top), phrase, fill="white", font_size=size)
    return picture
