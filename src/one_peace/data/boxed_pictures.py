"""Pictures resized, cropped and mirrored together with the boxes in them, as OFA's pretraining does."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

MIRROR = Image.Transpose.FLIP_LEFT_RIGHT


@dataclass(frozen=True)
class BoxedPicture:
    """An RGB picture with boxes (n, 4) float32 x0, y0, x1, y1 in its pixels, and a label of each (may be none)."""

    image: Image.Image
    boxes: Tensor
    labels: tuple[str, ...] = ()


def mirror(picture: BoxedPicture) -> BoxedPicture:
    """Left for right."""
    x0, y0, x1, y1 = picture.boxes.unbind(1)
    width = picture.image.width
    boxes = torch.stack([width - x1, y0, width - x0, y1], dim=1)
    return BoxedPicture(picture.image.transpose(MIRROR), boxes, picture.labels)


def resized_sides(width: int, height: int, short: int, longest: int | None = None) -> tuple[int, int]:
    """(width, height) with the shorter side at `short` pixels, then each side at most `longest`.

    The cap acts on each side by itself, so a picture that is long enough loses its proportions; with `longest` equal
    to `short` every picture becomes a square (as published for referring expressions).
    """
    if min(width, height) != short:
        if width < height:
            width, height = short, int(short * height / width)
        else:
            width, height = int(short * width / height), short
    return (width, height) if longest is None else (min(width, longest), min(height, longest))


def resize(picture: BoxedPicture, short: int, longest: int | None = None) -> BoxedPicture:
    """Bicubic, to the sides of `resized_sides`; boxes go along."""
    width, height = picture.image.size
    return _stretch(picture, resized_sides(width, height, short, longest))


def crop_around(picture: BoxedPicture, width: int, height: int) -> BoxedPicture:
    """A window of (width, height) with the first box in its middle, as far as the picture reaches; boxes are cut to it.

    Boxes outside keep their place in the list, empty.
    """
    x0, y0, x1, y1 = picture.boxes[0].tolist()
    left = max(min((x0 + x1) / 2 - width / 2, picture.image.width - width), 0.0)
    upper = max(min((y0 + y1) / 2 - height / 2, picture.image.height - height), 0.0)
    return _crop(picture, left, upper, width, height)


def jitter_scale(
    picture: BoxedPicture, size: int, scales: tuple[float, float], generator: torch.Generator
) -> BoxedPicture:
    """Large-scale jitter (arXiv 2012.07177): a random scale at which the picture covers `size` x `size` times a number
    of `scales`, then a random crop of that size. Boxes that are left empty are dropped with their labels.
    """
    low, high = scales
    wanted = torch.round((torch.rand(1, generator=generator) * (high - low) + low) * size)
    sides = torch.tensor(picture.image.size, dtype=torch.float32)
    scaled = torch.round(sides * (wanted / sides).max()).int()
    width, height = scaled.tolist()
    larger = _stretch(picture, (width, height))
    room = (scaled - size).clamp(min=0).flip(0)
    upper, left = torch.floor(room * torch.rand(2, generator=generator)).int().tolist()
    cropped = _crop(larger, left, upper, size, size)
    kept = ((cropped.boxes[:, 2:] > cropped.boxes[:, :2]).all(dim=1)).nonzero()[:, 0]
    labels = tuple(picture.labels[i] for i in kept.tolist()) if picture.labels else ()
    return BoxedPicture(cropped.image, cropped.boxes[kept], labels)


def _stretch(picture: BoxedPicture, sides: tuple[int, int]) -> BoxedPicture:
    ratios = [new / old for new, old in zip(sides, picture.image.size, strict=True)]
    boxes = picture.boxes * torch.tensor([*ratios, *ratios], dtype=torch.float32)
    return BoxedPicture(picture.image.resize(sides, Image.Resampling.BICUBIC), boxes, picture.labels)


def _crop(picture: BoxedPicture, left: float, upper: float, width: int, height: int) -> BoxedPicture:
    image = picture.image.crop((int(left), int(upper), int(left) + width, int(upper) + height))
    shifted = picture.boxes - torch.tensor([left, upper, left, upper], dtype=torch.float32)
    limits = torch.tensor([width, height, width, height], dtype=torch.float32)
    return BoxedPicture(image, shifted.clamp(min=0).minimum(limits), picture.labels)
