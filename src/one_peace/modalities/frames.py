"""Any modality as square pictures for one tower that all share (MiCo, section 3): resized, cropped, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.media.cropping import STORED_FRAMES, STORED_MARGIN
from one_peace.media.frame_choice import even_frames
from one_peace.media.pictures import CLIP, IMAGENET
from one_peace.modalities.base import Example, Modality, Processor

STATISTICS = {"clip": CLIP, "imagenet": IMAGENET}

SMALLEST_CROP = 0.8  # of the picture's area, in training


@dataclass(frozen=True)
class FrameConfig:
    """`count` frames of `size` x `size` pixels, chosen by number or by time, normalised by the statistics of CLIP or
    ImageNet; one of a still input.

    A frame is stretched to the square, or with `crop` its middle square is taken; then training takes other squares of
    it, mirrored or not.
    """

    size: int = 224
    count: int = 8
    by_time: bool = False
    crop: bool = False
    statistics: Literal["clip", "imagenet"] = "clip"

    def __post_init__(self) -> None:
        if self.size < 1 or self.count < 1:
            raise ValueError(f"size and count must be at least 1, got {self.size} and {self.count}")
        if self.statistics not in STATISTICS:
            raise ValueError(f"statistics must be one of {', '.join(STATISTICS)}, got {self.statistics!r}")


class FrameProcessor(Processor):
    """An input of a modality that defines `Modality.frames` -> examples `frames` (n, 3, size, size) float32.

    n is 1 of still inputs and `count` of others, so batches are of one shape.
    """

    def __init__(self, modality: Modality, config: FrameConfig) -> None:
        self.modality, self.config = modality, config

    def __call__(self, source: Any) -> Example:
        frames = self.modality.frames(source, self.config.count, by_time=self.config.by_time)
        return {"frames": self._filled(torch.stack([prepare_frame(frame, self.config) for frame in frames]))}

    def load(self, source: Any) -> Tensor:
        """Frames to vary: (n, 3, side, side) uint8, of moving inputs up to three times as many as the model takes."""
        side = int(self.config.size * STORED_MARGIN)
        stored = []
        for frame in self.modality.frames(source, STORED_FRAMES * self.config.count, by_time=self.config.by_time):
            square = _resize(middle_square(_floats(frame), side) if self.config.crop else _floats(frame), side, side)
            stored.append(square.mul(255).round().to(torch.uint8))
        return torch.stack(stored)

    def vary(self, loaded: Tensor, generator: torch.Generator, strength: float) -> Example:
        """Other frames, and with `crop` another square of them, mirrored half of the time; at strength 0 none of it."""
        frames = loaded
        if len(frames) > 1:
            frames = frames[even_frames(len(frames), self.config.count, generator if strength else None)]
        frames = _floats(self._filled(frames))
        area, left, top, mirror = torch.rand(4, generator=generator).tolist()
        if self.config.crop and strength:
            side = frames.shape[-1]
            cut = round(side * (1 - min(strength, 1.0) * (1 - SMALLEST_CROP) * area) ** 0.5)
            x, y = int(left * (side - cut + 1)), int(top * (side - cut + 1))
            frames = frames[..., y : y + cut, x : x + cut]
            frames = self.modality.mirror(frames) if mirror < 0.5 else frames
        size = self.config.size
        return {"frames": normalise_frames(_resize(frames, size, size), self.config.statistics)}

    def _filled(self, frames: Tensor) -> Tensor:
        """As many frames as the model takes: those of a short video are followed by its last one, as published."""
        short = self.config.count - len(frames)
        return torch.cat([frames, frames[-1:].expand(short, -1, -1, -1)]) if len(frames) > 1 and short > 0 else frames

    def length(self, example: Example) -> int:
        """Frames: the tower sees each on its own."""
        return len(example["frames"])

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        return {"frames": torch.stack([e["frames"] for e in examples])}

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        raise TypeError("frames of a shared tower are never masked: its objectives mask texts alone")


def prepare_frame(frame: Tensor, config: FrameConfig) -> Tensor:
    """(3, height, width) uint8, or floats in [0, 1] -> (3, size, size), normalised: float32 of uint8, else as given.

    The resize is bilinear without a filter against aliasing, as published.
    """
    pixels, size = _floats(frame), config.size
    pixels = middle_square(pixels, size) if config.crop else _resize(pixels, size, size)
    return normalise_frames(pixels, config.statistics)


def middle_square(pixels: Tensor, size: int) -> Tensor:
    """(..., 3, height, width) with the shorter side resized to `size` -> the middle (..., 3, size, size)."""
    height, width = pixels.shape[-2:]
    longer = int(size * max(height, width) / min(height, width))
    height, width = (size, longer) if height <= width else (longer, size)
    top, left = round((height - size) / 2), round((width - size) / 2)
    return _resize(pixels, height, width)[..., top : top + size, left : left + size]


def normalise_frames(pixels: Tensor, statistics: str) -> Tensor:
    """(..., 3, height, width) in [0, 1], minus the mean, over the deviation."""
    mean, deviation = (pixels.new_tensor(values).view(3, 1, 1) for values in STATISTICS[statistics])
    return (pixels - mean) / deviation


def _floats(pixels: Tensor) -> Tensor:
    return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels


def _resize(pixels: Tensor, height: int, width: int) -> Tensor:
    if tuple(pixels.shape[-2:]) == (height, width):
        return pixels
    batch = pixels if pixels.dim() == 4 else pixels[None]
    resized = F.interpolate(batch, (height, width), mode="bilinear", align_corners=False)
    return resized if pixels.dim() == 4 else resized[0]
