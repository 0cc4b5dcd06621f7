"""Depth: how near each pixel is, as a grey picture that takes the way of pictures.

The rule from one channel to three: the reciprocal of the depth (or the disparity as it is), 0 at its 2nd percentile and
1 at its 98th over the pixels that have a value, cut off there, three times the same; 0 where there is no value. So near
is bright, far is dark, and neither the unit nor the scale of the depth counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from one_peace.errors import InputError
from one_peace.media.cropping import STORED_MARGIN, cut_square
from one_peace.media.maps import MAP_ENDINGS, MapSource, read_map, resize_map
from one_peace.media.pictures import normalise_pixels
from one_peace.modalities.base import SMALL_WIDTH, Example, Modality
from one_peace.modalities.image import GridPositions, ImageAdapter, ImageConfig, PixelProcessor

FAR, NEAR = 2.0, 98.0  # percentiles of the usable pixels that become 0 and 1
KEYS = ("depth", "disparity", "arr_0")  # of arrays in an .npz


@dataclass(frozen=True)
class DepthConfig(ImageConfig):
    """As for pictures. `disparity`: values are disparities or inverse depths, greater for what is nearer.

    A file named `x.depth.png` or `x.disparity.png` (or .npy, ...), or an array of that name in an .npz, says so itself.
    """

    disparity: bool = False


def read_depth(source: MapSource, *, disparity: bool = False) -> np.ndarray:
    """Depth from any source that `read_map` takes, (height, width) float32, NaN where there is none.

    In the unit of the file: 16-bit PNGs mostly hold millimetres. Disparities become their reciprocals. A pixel has no
    depth if its value is 0, negative, NaN or infinite.

    Raises:
        InputError: not a map of one channel, or no pixel of it has a value.
    """
    raw = read_map(source, KEYS)
    values = raw.values
    if values.ndim == 3:
        colours = values[..., :3]
        if values.shape[2] < 3 or (colours != colours[..., :1]).any():
            raise InputError(raw.name, "has several channels: a coloured rendering does not say the depth any more")
        values = colours[..., 0]
    with np.errstate(over="ignore"):
        values = values.astype(np.float32)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        inverse = 1 / values
    usable = np.isfinite(values) & np.isfinite(inverse) & (values > 0) & (inverse > 0)
    if not usable.any():
        raise InputError(raw.name, "has no pixel with a depth: all are 0, negative, NaN or infinite")
    if raw.key == "disparity" or (disparity and raw.key != "depth"):
        values = inverse
    return np.where(usable, values, np.float32(np.nan))


def nearness(depth: np.ndarray) -> tuple[Tensor, Tensor]:
    """Depth (height, width) with NaN -> how near, in [0, 1], and where it is known: two (height, width) float32."""
    known = np.isfinite(depth)
    near = np.divide(1, depth, where=known, out=np.zeros_like(depth))
    far_end, near_end = np.percentile(near[known], (FAR, NEAR))
    if near_end - far_end > 1e-6 * near_end:
        near = np.clip((near - far_end) / (near_end - far_end), 0, 1)
    else:  # a wall
        near = np.full_like(near, 0.5)
    return torch.from_numpy(np.where(known, near, 0).astype(np.float32)), torch.from_numpy(known.astype(np.float32))


class DepthProcessor(PixelProcessor):
    """Any depth map -> examples `pixels` (3, size, size), as those of pictures. Pixels without depth are left out of
    the averages that resizing takes, and are black."""

    config: DepthConfig

    def __call__(self, source: Any) -> Example:
        return {"pixels": _grey(self._square(source, self.config.image_size))}

    def load(self, source: Any) -> Tensor:
        """A map to vary: (side, side) uint8, a quarter larger than the model takes."""
        near = self._square(source, int(self.config.image_size * STORED_MARGIN))
        return near.mul(255).round().to(torch.uint8)

    def vary(self, loaded: Tensor, generator: torch.Generator, strength: float) -> Example:
        """Another square of it, mirrored half of the time; at strength 0 the whole."""
        size = self.config.image_size
        zoom, left, top, mirror = torch.rand(4, generator=generator).tolist()
        piece = cut_square(loaded[None], size, strength, zoom, left, top).float().div(255)
        near = resize_map(piece, torch.ones_like(piece[0]), (size, size))[0][0]
        return {"pixels": _grey(near.flip(-1) if strength and mirror < 0.5 else near)}

    def _square(self, source: Any, side: int) -> Tensor:
        near, known = nearness(read_depth(source, disparity=self.config.disparity))
        return resize_map(near[None], known, (side, side))[0][0]


def _grey(near: Tensor) -> Tensor:
    return normalise_pixels(near.expand(3, -1, -1).clone())


class Depth(Modality):
    """The depth modality."""

    name = "depth"
    Config = DepthConfig
    fixed_length = True
    # PNG and the like alone are pictures, so the name says it; in shards, KEY.depth.png beside KEY.jpg
    endings = " ".join(f".{kind}.{form}" for kind in ("depth", "disparity") for form in MAP_ENDINGS)

    def adapter(self, config: DepthConfig, width: int, heads: int, tables: int) -> ImageAdapter:
        return ImageAdapter(config, width, heads, tables)

    def decoder_positions(self, config: DepthConfig, width: int) -> nn.Module:
        return GridPositions(config.grid, width)

    def processor(self, config: DepthConfig, folder: Path | None) -> DepthProcessor:
        return DepthProcessor(config)

    def frames(self, source: Any, count: int, *, by_time: bool = False) -> Iterator[Tensor]:
        yield nearness(read_depth(source))[0].expand(3, -1, -1)

    def preset(self, width: int) -> DepthConfig:
        """As for pictures: 256 pixels, 64 for models small enough to be trained on a laptop."""
        return DepthConfig(64, 4, 4) if width < SMALL_WIDTH else DepthConfig()

    def picture(self, source: Any) -> PIL.Image.Image:
        """Red is near, blue is far, black is unknown."""
        near, known = nearness(read_depth(source))
        # blue, cyan, green, yellow, red, evenly spaced
        ramp = torch.stack([4 * near - 2, 2 - (4 * near - 2).abs(), 2 - 4 * near], dim=-1).clamp(0, 1)
        pixels = (ramp * known[..., None]).mul(255).round().to(torch.uint8)
        return PIL.Image.fromarray(pixels.numpy())
