"""Augmentation of pictures and sounds with an explicit generator."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.media.sounds import SAMPLE_RATE

TEMPO, LONGEST_SILENCE = 0.2, 4000  # change of tempo, and samples before a sound, at strength 1
TAPS = 31  # samples that a microphone's response lasts


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
    """Random tempo with pitch (up to 20 % times `strength`), silence before it, and another recording of it.

    (samples,) float32 at 16 kHz -> (other samples,); at most a quarter of a second of silence times `strength`.
    """
    tempo, silence = torch.rand(2, generator=generator).tolist()
    if strength == 0:
        return waveform
    x = stretch(waveform, 1 + strength * TEMPO * (2 * tempo - 1))
    return change_recording(F.pad(x, (int(silence * strength * LONGEST_SILENCE), 0)), generator, strength)


def stretch(waveform: Tensor, tempo: float) -> Tensor:
    """The same sound faster and higher, or slower and lower: (samples,) -> (samples / tempo,)."""
    samples = int(waveform.shape[0] / tempo)
    return F.interpolate(waveform[None, None], size=samples, mode="linear", align_corners=False)[0, 0]


def change_recording(waveform: Tensor, generator: torch.Generator, strength: float) -> Tensor:
    """The same sound by another microphone, often in a room with an echo, with faint noise: (samples,) float32 each."""
    tilt, echo, seconds, loudness, noise = torch.rand(5, generator=generator).tolist()
    # One tap raises or lowers high frequencies against low ones; the fading random ones colour what lies between.
    taps = 0.15 * strength * torch.randn(TAPS, generator=generator) * torch.exp(-torch.arange(TAPS) / 6.0)
    taps[0], taps[1] = 1.0, taps[1] + min(0.6 * strength, 0.9) * (2 * tilt - 1)
    if echo < 0.5 * strength:
        samples = int(SAMPLE_RATE * (0.05 + 0.2 * seconds))
        room = torch.randn(samples, generator=generator) * torch.exp(-torch.arange(samples) * (5.0 / samples))
        taps = F.pad(taps, (0, samples - TAPS)) + 0.3 * loudness * room / room.norm()
    x = _filter(waveform, taps)
    level = strength * x.std().item() * math.exp(-2.0 - 4.5 * noise)
    return x + level * torch.randn(x.shape, generator=generator)


def _filter(waveform: Tensor, taps: Tensor) -> Tensor:
    """Convolution with a response, by Fourier transform; as long as the waveform."""
    size = 1 << (len(waveform) + len(taps)).bit_length()
    return torch.fft.irfft(torch.fft.rfft(waveform, size) * torch.fft.rfft(taps, size), size)[: len(waveform)]
