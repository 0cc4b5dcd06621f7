"""What training keeps of inputs with pixels beyond what the model takes, and the squares that it cuts out of that."""

from __future__ import annotations

from torch import Tensor

STORED_FRAMES = 3  # times as many as the model takes
STORED_MARGIN = 5 / 4  # of the side


def cut_square(pixels: Tensor, size: int, strength: float, zoom: float, left: float, top: float) -> Tensor:
    """A square of (..., side, side) at least `size` wide, by three numbers in [0, 1); all of it at strength 0."""
    side = pixels.shape[-1]
    cut = side - round(min(strength, 1.0) * zoom * (side - size))
    x, y = int(left * (side - cut + 1)), int(top * (side - cut + 1))
    return pixels[..., y : y + cut, x : x + cut]
