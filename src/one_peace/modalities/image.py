"""Images: a convolutional patch stem, interpolated grid positions, two-dimensional relative bias, patch masking."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor, nn

from one_peace.media.augmentation import augment_pictures, random_crop
from one_peace.media.cropping import STORED_MARGIN
from one_peace.media.pictures import CLIP, decode_picture, image_tensor, normalise_pixels, pixels_of
from one_peace.modalities.base import SMALL_WIDTH, Adapter, Embedded, Example, Modality, Processor
from one_peace.nn.initialization import truncated_normal_
from one_peace.nn.relative_position import RelativeBias, grid_buckets, grid_rows
from one_peace.nn.resize import resize_bias_table, resize_positions

PATCH = 16  # pixels; fixed by the strides of the stem


@dataclass(frozen=True)
class ImageConfig:
    """`grid` is the side, in patches, of the absolute position table; `bias_grid` that of the relative one."""

    image_size: int = 256
    grid: int = 16
    bias_grid: int = 16

    def __post_init__(self) -> None:
        for name in ("image_size", "grid", "bias_grid"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (batch, channels, height, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def patch_stem(width: int) -> nn.Sequential:
    """Hierarchical MLP stem, three steps from 16 x 16 pixels to a token (paper, section 3.1)."""
    return nn.Sequential(
        nn.Conv2d(3, width // 4, 4, 4),
        ChannelNorm(width // 4),
        nn.GELU(),
        nn.Conv2d(width // 4, width // 4, 2, 2),
        ChannelNorm(width // 4),
        nn.GELU(),
        nn.Conv2d(width // 4, width, 2, 2),
    )


class GridPositions(nn.Module):
    """A learned row per patch of a square grid, cls first, resized for other grids."""

    def __init__(self, grid: int, width: int) -> None:
        super().__init__()
        self.grid = grid
        self.weight = nn.Parameter(truncated_normal_(torch.empty(grid * grid + 1, width)))

    def forward(self, layout: tuple[int, ...]) -> Tensor:
        """Layout (height, width) in patches -> (1 + height * width, dim)."""
        height, width = layout
        return self.weight if layout == (self.grid, self.grid) else resize_positions(self.weight, (height, width))


class ImageAdapter(Adapter):
    """A patch stem, positions and relative bias on the grid (paper, section 3.1).

    Inputs: `pixels` (batch, 3, height, width), sides multiples of 16. Other grids than the trained one, square or
    not, use resized positions.
    """

    def __init__(self, config: ImageConfig, width: int, heads: int, tables: int) -> None:
        super().__init__(width)
        self.bias_grid = config.bias_grid
        self.patches = patch_stem(width)
        self.positions = GridPositions(config.grid, width)
        self.bias = RelativeBias(grid_rows(config.bias_grid), heads, tables)

    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        pixels = inputs["pixels"]
        height, width = pixels.shape[2:]
        if height % PATCH or width % PATCH or not height or not width:
            raise ValueError(f"image of {height} x {width} pixels: both sides must be multiples of {PATCH}")
        # channels last: the norms read contiguous memory and no layout change is needed at the end
        features = self.patches(pixels.to(self.cls.dtype, memory_format=torch.channels_last))
        return Embedded(features.flatten(2).transpose(1, 2), None, (height // PATCH, width // PATCH))

    def place(self, visible: Tensor, padding: Tensor | None, kept: Tensor | None, layout: tuple[int, ...]) -> Tensor:
        positions = self.positions(layout)
        return positions if kept is None else positions[kept]

    def attention_bias(self, layout: tuple[int, ...], kept: Tensor | None) -> list[Tensor]:
        side = max(layout)
        if side <= self.bias_grid:  # offsets of a smaller grid are a subset of the table's
            return self.bias(grid_buckets(*layout, self.bias_grid), kept)
        resized = [resize_bias_table(table, side) for table in self.bias.tables]
        return self.bias(grid_buckets(*layout, side), kept, resized)

    def start_from(self, other: Adapter) -> dict[str, Tensor]:
        """All that fits, from another modality that is drawn as pictures (depth, normals) or from pictures."""
        if not isinstance(other, ImageAdapter):
            return {}
        own = self.state_dict()
        values = {name: value for name, value in other.state_dict().items() if name != "cls"}
        return {name: value for name, value in values.items() if own[name].shape == value.shape}


class PixelProcessor(Processor):
    """What all inputs have in common that become one square of pixels: examples `pixels` (3, size, size) float32.

    A subclass says how an input becomes an example, and if it is to be augmented, how it is loaded and varied.
    """

    def __init__(self, config: ImageConfig) -> None:
        self.config = config

    def length(self, example: Example) -> int:
        height, width = example["pixels"].shape[1:]
        return (height // PATCH) * (width // PATCH)

    def longest(self) -> Example:
        return {"pixels": torch.zeros(3, self.config.image_size, self.config.image_size)}

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        return {"pixels": torch.stack([e["pixels"] for e in examples])}

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        """Random patches; with `avoid`, all its visible patches and then random ones of the rest (published rule)."""
        patches = self.length(example)
        if avoid is None:
            return patch_mask(patches, ratio, generator)
        return complementary_patch_mask(avoid, ratio, generator)


class ImageProcessor(PixelProcessor):
    """Any picture -> RGB, resized to the model's square, CLIP normalisation.

    `crop` are the smallest and largest share of a picture's area that `augmented` shows, None for all of it.
    """

    def __init__(self, config: ImageConfig, crop: tuple[float, float] | None = None) -> None:
        super().__init__(config)
        self.crop = crop

    def __call__(self, source: Any) -> Example:
        return self._example(decode_picture(source))

    def limited(self, *, seconds: float | None = None, crop: tuple[float, float] | None = None) -> ImageProcessor:
        return self if crop is None else ImageProcessor(self.config, crop)

    def load(self, source: Any) -> Tensor:
        """All of a picture, to vary: (3, side, side) uint8, a quarter larger than the model takes."""
        return self._stored(decode_picture(source))

    def vary(self, loaded: Tensor, generator: torch.Generator, strength: float) -> Example:
        """Turned, moved, scaled and coloured in proportion to `strength`, and mirrored half of the time, at 0 too."""
        return self.vary_batch([loaded], generator, strength)[0]

    def vary_batch(self, loaded: Sequence[Tensor], generator: torch.Generator, strength: float) -> list[Example]:
        pixels = augment_pictures(torch.stack(list(loaded)), self.config.image_size, generator, strength)
        return [{"pixels": each} for each in normalise_pixels(pixels)]

    def augmented(self, source: Any, generator: torch.Generator, strength: float) -> Example:
        """A random piece of a picture (`crop`), varied; at strength 0 the piece as it is for encoding."""
        picture = decode_picture(source)
        if self.crop is not None:
            picture = picture.crop(random_crop(picture.width, picture.height, self.crop, generator))
        return self.vary(self._stored(picture), generator, strength) if strength else self._example(picture)

    def _example(self, picture: PIL.Image.Image) -> Example:
        return {"pixels": image_tensor(picture, self.config.image_size)}

    def _stored(self, picture: PIL.Image.Image) -> Tensor:
        side = int(self.config.image_size * STORED_MARGIN)
        return pixels_of(picture.resize((side, side), PIL.Image.Resampling.BICUBIC)).contiguous()


def patch_mask(patches: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Hides `int(patches * ratio)` random patches -> (patches,) bool."""
    masked = torch.zeros(patches, dtype=torch.bool)
    masked[torch.randperm(patches, generator=generator)[: int(patches * ratio)]] = True
    return masked


def complementary_patch_mask(avoid: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Hides `int(patches * ratio)` patches, those visible under `avoid` (patches,) bool first -> (patches,) bool."""
    patches = avoid.shape[0]
    noise = torch.randn(patches, generator=generator).masked_fill(~avoid, math.inf)
    masked = torch.zeros(patches, dtype=torch.bool)
    masked[noise.topk(int(patches * ratio)).indices] = True
    return masked


class Image(Modality):
    """The image modality."""

    name = "image"
    Config = ImageConfig
    endings = ".jpg .jpeg .jpe .png .webp .gif .bmp .tif .tiff .avif .jp2 .ppm .pgm .pbm .qoi .ico"
    fixed_length = True

    def adapter(self, config: ImageConfig, width: int, heads: int, tables: int) -> ImageAdapter:
        return ImageAdapter(config, width, heads, tables)

    def decoder_positions(self, config: ImageConfig, width: int) -> GridPositions:
        return GridPositions(config.grid, width)

    def processor(self, config: ImageConfig, folder: Path | None) -> ImageProcessor:
        return ImageProcessor(config)

    def frames(self, source: Any, count: int, *, by_time: bool = False) -> Iterator[Tensor]:
        yield pixels_of(decode_picture(source))

    def preprocessing(self, config: ImageConfig) -> dict[str, Any]:
        mean, deviation = CLIP
        return {
            "size": config.image_size,
            "resample": "bicubic",
            "patch_size": PATCH,
            "image_mean": list(mean),
            "image_std": list(deviation),
        }

    def preset(self, width: int) -> ImageConfig:
        """The published 256 pixels; 64 for models small enough to be trained on a laptop."""
        return ImageConfig(64, 4, 4) if width < SMALL_WIDTH else ImageConfig()
