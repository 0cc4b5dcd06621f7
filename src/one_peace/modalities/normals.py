"""Surface normals: which way each pixel faces, as the picture that such maps are usually drawn as.

A normal is a unit vector (x to the right, y up, z towards the viewer). As a picture its components are (n + 1) / 2 in
red, green and blue, so a wall seen head-on is (.5, .5, 1); where there is none all three are .5.
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

SHORTEST = 0.7  # of an encoded vector: rounding and resizing shorten them, unknown ones are 0 or far too long
LONGEST = 1.3
KEYS = ("normals", "normal", "arr_0")  # of arrays in an .npz


@dataclass(frozen=True)
class NormalsConfig(ImageConfig):
    """As for pictures. `axes` are signs that turn stored vectors into x right, y up, z towards the viewer:
    (1, -1, -1) for maps in the camera's axes of computer vision (y down, z forward)."""

    axes: tuple[int, int, int] = (1, 1, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "axes", tuple(self.axes))
        if len(self.axes) != 3 or not set(self.axes) <= {1, -1}:
            raise ValueError(f"axes are three signs, 1 or -1, got {self.axes}")


def read_normals(source: MapSource, *, axes: tuple[int, int, int] = (1, 1, 1)) -> np.ndarray:
    """Normals from any source that `read_map` takes, (height, width, 3) float32 of unit length, 0 where there are none.

    Floats are the vectors themselves, of any length but 0. Whole numbers of 8 or 16 bits stand for [-1, 1] over the
    range of their type: 0 is -1 if it is unsigned, and 0 if it is signed. A pixel has no normal if a component is NaN
    or infinite, or the vector has no length, or if it is encoded and its length is not about 1 (black, white, middle
    grey).

    Raises:
        InputError: not a map of three channels, of wider whole numbers, or no pixel of it has a normal.
    """
    raw = read_map(source, KEYS)
    if raw.values.ndim != 3 or raw.values.shape[2] < 3:
        raise InputError(raw.name, f"has the shape {raw.values.shape}; a map of normals has three channels")
    vectors = raw.values[..., :3].astype(np.float32)
    if raw.encoded:
        vectors = _decoded(vectors, raw.values.dtype, raw.name)
    lengths = np.linalg.norm(vectors, axis=2)
    with np.errstate(invalid="ignore"):
        shortest, longest = (SHORTEST, LONGEST) if raw.encoded else (1e-6, np.inf)
        usable = np.isfinite(lengths) & (lengths >= shortest) & (lengths <= longest)
    if not usable.any():
        raise InputError(raw.name, "has no pixel with a normal: none is a vector of about unit length")
    unit = vectors / np.where(usable, lengths, 1)[..., None] * np.array(axes, np.float32)
    return np.where(usable[..., None], unit, np.float32(0))


def _decoded(vectors: np.ndarray, dtype: np.dtype, name: str) -> np.ndarray:
    if dtype.itemsize > 2:
        raise InputError(name, f"holds {dtype} values, which say nothing of their range; pass uint8, int16 or floats")
    scaled = vectors / np.iinfo(dtype).max
    return np.maximum(scaled, -1) if dtype.kind == "i" else scaled * 2 - 1


def encode_normals(normals: np.ndarray) -> np.ndarray:
    """(..., 3) unit vectors, 0 where there are none -> uint8, as a picture holds them."""
    return np.rint((np.asarray(normals, np.float32) + 1) / 2 * 255).clip(0, 255).astype(np.uint8)


def mirror_normals(pixels: Tensor) -> Tensor:
    """(..., 3, height, width) in [0, 1] of the scene seen in a mirror: what faced left faces right."""
    mirrored = pixels.flip(-1).clone()
    mirrored[..., 0, :, :] = 1 - mirrored[..., 0, :, :]
    return mirrored


class NormalsProcessor(PixelProcessor):
    """Any map of normals -> examples `pixels` (3, size, size), as those of pictures. Resizing averages vectors and
    makes them unit length again."""

    config: NormalsConfig

    def __call__(self, source: Any) -> Example:
        return {"pixels": normalise_pixels(self._square(source, self.config.image_size))}

    def load(self, source: Any) -> Tensor:
        """A map to vary: (3, side, side) uint8, a quarter larger than the model takes."""
        return self._square(source, int(self.config.image_size * STORED_MARGIN)).mul(255).round().to(torch.uint8)

    def vary(self, loaded: Tensor, generator: torch.Generator, strength: float) -> Example:
        """Another square of it, and half of the time the mirrored scene; at strength 0 the whole."""
        size = self.config.image_size
        zoom, left, top, mirror = torch.rand(4, generator=generator).tolist()
        vectors = cut_square(loaded, size, strength, zoom, left, top).float().div(255) * 2 - 1
        pixels = _resized(vectors, size)
        return {"pixels": normalise_pixels(mirror_normals(pixels) if strength and mirror < 0.5 else pixels)}

    def _square(self, source: Any, side: int) -> Tensor:
        normals = read_normals(source, axes=self.config.axes)
        return _resized(torch.from_numpy(normals).permute(2, 0, 1), side)


def _resized(vectors: Tensor, side: int) -> Tensor:
    """Vectors (3, height, width), of no length where there are none -> pixels (3, side, side) in [0, 1]."""
    known = (vectors.norm(dim=0) > SHORTEST).float()
    averaged, _ = resize_map(vectors, known, (side, side))
    lengths = averaged.norm(dim=0)
    return (torch.where(lengths > 1e-3, averaged / lengths.clamp_min(1e-3), 0.0) + 1) / 2


class Normals(Modality):
    """The modality of surface normals."""

    name = "normals"
    Config = NormalsConfig
    fixed_length = True
    # PNG alone is a picture, so the name says it; in shards, KEY.normals.png beside KEY.jpg
    endings = " ".join(f".normals.{form}" for form in MAP_ENDINGS)

    def adapter(self, config: NormalsConfig, width: int, heads: int, tables: int) -> ImageAdapter:
        return ImageAdapter(config, width, heads, tables)

    def decoder_positions(self, config: NormalsConfig, width: int) -> nn.Module:
        return GridPositions(config.grid, width)

    def processor(self, config: NormalsConfig, folder: Path | None) -> NormalsProcessor:
        return NormalsProcessor(config)

    def frames(self, source: Any, count: int, *, by_time: bool = False) -> Iterator[Tensor]:
        yield (torch.from_numpy(read_normals(source)).permute(2, 0, 1) + 1) / 2

    def mirror(self, frames: Tensor) -> Tensor:
        return mirror_normals(frames)

    def preset(self, width: int) -> NormalsConfig:
        """As for pictures: 256 pixels, 64 for models small enough to be trained on a laptop."""
        return NormalsConfig(64, 4, 4) if width < SMALL_WIDTH else NormalsConfig()

    def picture(self, source: Any) -> PIL.Image.Image:
        return PIL.Image.fromarray(encode_normals(read_normals(source)))
