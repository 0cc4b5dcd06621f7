"""Drawn pictures in the order in which an embedding model finds them like their text (published: CLIP's)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image


def rank_drawings(encoder: Any, text: str, pictures: Sequence[Image.Image]) -> tuple[list[Image.Image], list[float]]:
    """The pictures, most like the text first, and how alike they are (cosine).

    `encoder` is any model with `encode_text` and `encode_image`, as `OnePeace` and `MiCo` are.
    """
    likeness = (encoder.encode_image(list(pictures)) @ encoder.encode_text(text).t()).flatten().tolist()
    order = sorted(range(len(pictures)), key=lambda index: -likeness[index])
    return [pictures[index] for index in order], [likeness[index] for index in order]
