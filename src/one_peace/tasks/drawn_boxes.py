"""Predicted boxes drawn on their picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw

from one_peace.media.pictures import decode_picture

COLOUR = (230, 30, 60)


def draw_box(source: Any, box: Sequence[float], phrase: str) -> Image.Image:
    """A copy of the picture with a box (x0, y0, x1, y1 in pixels, two opposite corners) and its phrase."""
    picture = decode_picture(source).copy()
    draw = ImageDraw.Draw(picture)
    thickness = max(2, round(max(picture.size) / 200))
    (x0, x1), (y0, y1) = sorted(box[::2]), sorted(box[1::2])
    draw.rectangle([round(v) for v in (x0, y0, x1, y1)], outline=COLOUR, width=thickness)
    size = max(12, picture.height // 24)
    left, top = x0 + thickness, max(0, y0 - 1.3 * size)
    extent = draw.textbbox((left, top), phrase, font_size=size)
    draw.rectangle(extent, fill=COLOUR)
    draw.text((left, top), phrase, fill="white", font_size=size)
    return picture
