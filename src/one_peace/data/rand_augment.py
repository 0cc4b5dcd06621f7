"""Augmentation of single pictures for fine-tuning: RandAugment (arXiv 1909.13719) as published, blur, colour jitter."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

Pixels = np.ndarray
"""(height, width, 3) uint8."""

Operation = Callable[[Pixels, int], Pixels]
"""Pixels and a sign, for operations that have a direction -> pixels."""

FILL = 128  # grey level of what comes in over the edge
LEVEL = 0.7  # of the full strength: the published 7 of 10
SHEAR, TRANSLATION, ROTATION = 0.3 * LEVEL, 10 * LEVEL, math.radians(30 * LEVEL)  # -, pixels, radians
ENHANCEMENT = 1.8 * LEVEL + 0.1
_BLUR = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13


def warp(pixels: Pixels, matrix: np.ndarray) -> Pixels:
    """Moves each point (x, y, 1) to `matrix` (2, 3) times it: bilinear in float32, grey where nothing comes from."""
    height, width = pixels.shape[:2]
    back = np.linalg.inv(np.vstack([matrix, [0, 0, 1]]))[:2].astype(np.float32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    source_x, source_y = (row[0] * x + row[1] * y + row[2] for row in back)
    left, top = np.floor(source_x).astype(int), np.floor(source_y).astype(int)
    across, down = (source_x - left)[..., None], (source_y - top)[..., None]

    def at(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        values = np.full((*rows.shape, 3), FILL, np.float32)
        values[inside] = pixels[rows[inside], columns[inside]]
        return values

    def between(rows: np.ndarray) -> np.ndarray:
        first, second = at(rows, left), at(rows, left + 1)
        return first + (second - first) * across

    above, below = between(top), between(top + 1)
    return np.clip(np.rint(above + (below - above) * down), 0, 255).astype(np.uint8)


def shear_x(pixels: Pixels, sign: int) -> Pixels:
    return warp(pixels, np.array([[1, sign * SHEAR, 0], [0, 1, 0]]))


def shear_y(pixels: Pixels, sign: int) -> Pixels:
    return warp(pixels, np.array([[1, 0, 0], [sign * SHEAR, 1, 0]]))


def translate_x(pixels: Pixels, sign: int) -> Pixels:
    return warp(pixels, np.array([[1, 0, sign * TRANSLATION], [0, 1, 0]]))


def translate_y(pixels: Pixels, sign: int) -> Pixels:
    return warp(pixels, np.array([[1, 0, 0], [0, 1, sign * TRANSLATION]]))


def rotate(pixels: Pixels, sign: int) -> Pixels:
    """About the middle; a positive sign turns counter-clockwise."""
    x, y = pixels.shape[1] / 2, pixels.shape[0] / 2
    cos, sin = math.cos(ROTATION), sign * math.sin(ROTATION)
    return warp(pixels, np.array([[cos, sin, (1 - cos) * x - sin * y], [-sin, cos, sin * x + (1 - cos) * y]]))


def identity(pixels: Pixels, sign: int) -> Pixels:
    return pixels


def equalize(pixels: Pixels, sign: int) -> Pixels:
    """A flat histogram per channel."""
    return np.asarray(ImageOps.equalize(Image.fromarray(pixels)))


def auto_contrast(pixels: Pixels, sign: int) -> Pixels:
    """Each channel stretched to the full range. The published code overflows for channels without black: all 255."""
    return np.asarray(ImageOps.autocontrast(Image.fromarray(pixels)))


def brightness(pixels: Pixels, sign: int) -> Pixels:
    return np.clip(pixels * np.float32(ENHANCEMENT), 0, 255).astype(np.uint8)


def sharpness(pixels: Pixels, sign: int) -> Pixels:
    """Away from the blurred picture; the border stays. The published code wraps over at black and white, this stops."""
    height, width = pixels.shape[:2]
    blurred = pixels.astype(np.float64)
    if height > 2 and width > 2:
        shifted = [pixels[r : height - 2 + r, c : width - 2 + c] * _BLUR[r, c] for r in range(3) for c in range(3)]
        blurred[1:-1, 1:-1] = np.rint(sum(shifted))
    return np.clip(blurred + ENHANCEMENT * (pixels - blurred), 0, 255).astype(np.uint8)


OPERATIONS: tuple[Operation, ...] = (
    identity,
    equalize,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    rotate,
)
OFA_OPERATIONS = (*OPERATIONS, auto_contrast)
"""Those of OFA's pretraining."""


def rand_augment(
    image: Image.Image,
    generator: torch.Generator,
    operations: Sequence[Operation] = OPERATIONS,
) -> Image.Image:
    """Two random operations, each applied half the time and in a random direction."""
    pixels = np.asarray(image)
    for _ in range(2):
        operation = operations[int(torch.randint(len(operations), (), generator=generator))]
        chance, direction = torch.rand(2, generator=generator).tolist()
        if chance < 0.5:
            pixels = operation(pixels, 1 if direction < 0.5 else -1)
    return Image.fromarray(pixels)


def random_blur(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """Half the time, Gaussian blur with a radius of 0.1 to 2 pixels."""
    chance, strength = torch.rand(2, generator=generator).tolist()
    return image.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * strength)) if chance < 0.5 else image


def color_jitter(image: Image.Image, generator: torch.Generator, probability: float = 0.5) -> Image.Image:
    """Brightness, contrast and saturation each times 0.6 to 1.4, in random order."""
    chance, *strengths = torch.rand(4, generator=generator).tolist()
    if chance >= probability:
        return image
    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for k in torch.randperm(3, generator=generator).tolist():
        image = enhancers[k](image).enhance(1 + 0.4 * (2 * strengths[k] - 1))
    return image


def augment_for_reasoning(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """The published augmentation of NLVR2: jitter, blur, flip, RandAugment."""
    image = random_blur(color_jitter(image, generator), generator)
    if torch.rand((), generator=generator) < 0.5:
        image = ImageOps.mirror(image)
    return rand_augment(image, generator)


def augment_for_labels(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """A random piece of the picture, flipped, jittered, RandAugment: OFA's augmentation of ImageNet, without its
    erasing of rectangles."""
    image = random_piece(image, generator)
    if torch.rand((), generator=generator) < 0.5:
        image = ImageOps.mirror(image)
    return rand_augment(color_jitter(image, generator, 1.0), generator, operations=OFA_OPERATIONS)


def random_piece(image: Image.Image, generator: torch.Generator, least: float = 0.08) -> Image.Image:
    """A rectangle of `least` to all of the picture's area, with sides of 3:4 to 4:3; all of it where none fits."""
    width, height = image.size
    for _ in range(10):
        share, skew, left, top = torch.rand(4, generator=generator).tolist()
        area, ratio = width * height * (least + (1 - least) * share), (4 / 3) ** (2 * skew - 1)
        wide, high = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
        if 0 < wide <= width and 0 < high <= height:
            x, y = int(left * (width - wide + 1)), int(top * (height - high + 1))
            return image.crop((x, y, x + wide, y + high))
    return image
