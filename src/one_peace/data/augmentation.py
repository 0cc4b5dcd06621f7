"""Augmentation of whole batches with an explicit generator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

LONGEST_SILENCE = 4000  # samples before a sound, at strength 1


def augment_pictures(pictures: Tensor, size: int, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Random flip, zoom, shift, rotation and colour, all but the flip in proportion to `strength`.

    uint8 (batch, 3, h, w) -> float32 in [0, 1], (batch, 3, size, size).
    """
    batch = pictures.shape[0]

    def uniform(low: float, high: float) -> Tensor:
        return strength * (torch.rand(batch, generator=generator) * (high - low) + low)

    zoom, aspect, angle = 1.0 + uniform(-0.3, 0.08), uniform(-0.15, 0.15).exp(), uniform(-0.12, 0.12)
    flip = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    scale_x, scale_y = flip * zoom * aspect, zoom / aspect
    cos, sin = angle.cos(), angle.sin()
    rows = [
        cos * scale_x,
        -sin * scale_y,
        uniform(-0.1, 0.1),
        sin * scale_x,
        cos * scale_y,
        uniform(-0.1, 0.1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1).view(batch, 2, 3), [batch, 3, size, size], align_corners=False)
    x = F.grid_sample(pictures.float().div_(255), grid, padding_mode="border", align_corners=False)

    def factor(spread: float) -> Tensor:
        return 1.0 + uniform(-spread, spread)[:, None, None, None]

    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    x = (x - mean) * factor(0.2) + mean * factor(0.2)
    grey = x.mean(dim=1, keepdim=True)
    return ((x - grey) * factor(0.3) + grey).clamp_(0.0, 1.0)


def random_crop(
    width: int, height: int, area: tuple[float, float], generator: torch.Generator
) -> tuple[int, int, int, int]:
    """A random box (left, upper, right, lower) in pixels, of a share of the area between both ends of `area`.

    The published crop: sides between 3:4 and 4:3, evenly in logarithms; where no such box fits in ten attempts, the
    largest in the middle with sides between those.
    """
    low, high = math.log(3 / 4), math.log(4 / 3)
    for _ in range(10):
        share, shape = torch.rand(2, generator=generator).tolist()
        pixels = width * height * (area[0] + (area[1] - area[0]) * share)
        aspect = math.exp(low + (high - low) * shape)
        w, h = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < w <= width and 0 < h <= height:
            left = int(torch.randint(width - w + 1, (), generator=generator))
            upper = int(torch.randint(height - h + 1, (), generator=generator))
            return left, upper, left + w, upper + h
    w, h = min(width, round(height * 4 / 3)), min(height, round(width * 4 / 3))
    left, upper = (width - w) // 2, (height - h) // 2
    return left, upper, left + w, upper + h


def random_piece(waveform: Tensor, samples: int, generator: torch.Generator) -> Tensor:
    """A random piece of at most so many samples: (n,) -> (at most `samples`,)."""
    surplus = waveform.shape[0] - samples
    if surplus <= 0:
        return waveform
    start = int(torch.randint(surplus + 1, (), generator=generator))
    return waveform[start : start + samples]


def augment_waveform(waveform: Tensor, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Random tempo with pitch (up to 12 % times `strength`), another microphone's tilt, silence before, faint noise.

    (samples,) float32 at 16 kHz -> (other samples,); at most a quarter of a second of silence times `strength`.
    """
    tempo, noise, tilt, silence = torch.rand(4, generator=generator).tolist()
    if strength == 0:
        return waveform
    samples = int(waveform.shape[0] / (1 + strength * (0.24 * tempo - 0.12)))
    x = F.interpolate(waveform[None, None], size=samples, mode="linear", align_corners=False)[0, 0]
    # One tap of a filter raises or lowers high frequencies against low ones; below 1 it cancels none.
    x = x + min(0.5 * strength, 0.9) * (2 * tilt - 1) * F.pad(x, (1, 0))[:-1]
    x = F.pad(x, (int(silence * strength * LONGEST_SILENCE), 0))
    level = strength * x.std().item() * math.exp(-2.5 - 4.0 * noise)
    return x + level * torch.randn(x.shape, generator=generator)
