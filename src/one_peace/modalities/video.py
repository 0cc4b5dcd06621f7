"""Video: patches of sampled frames, positions in place and time, relative bias over both, masks through time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.configuration import within
from one_peace.errors import InputError
from one_peace.media.clip import Clip
from one_peace.media.cropping import STORED_FRAMES, STORED_MARGIN, cut_square
from one_peace.media.frame_choice import even_frames, frames_at, repeated_frames
from one_peace.media.pictures import image_tensor, normalise_pixels, pixels_of
from one_peace.media.sounds import windows
from one_peace.media.videos import open_video
from one_peace.modalities.base import SMALL_WIDTH, Adapter, Embedded, Example, Modality, Processor
from one_peace.modalities.image import PATCH, ImageAdapter, complementary_patch_mask, patch_mask, patch_stem
from one_peace.nn.initialization import truncated_normal_
from one_peace.nn.relative_position import CLS_ROWS, RelativeBias, grid_buckets, grid_rows, kept_table, with_cls

MAX_CHOSEN = 7200  # frames of a video by time: two hours of one a second, and 350 MiB prepared for a small model


@dataclass(frozen=True)
class VideoConfig:
    """At most `frames` frames of a video, each stretched to `frame_size` x `frame_size` pixels, a multiple of 16.

    By default they are spread evenly over the whole video (`even_frames`). With `frames_per_second` one is taken every
    so often from the beginning, and a longer video is covered by several windows of `frames` frames (`views`).
    """

    frame_size: int = 128
    frames: int = 8
    frames_per_second: float | None = None

    def __post_init__(self) -> None:
        if self.frame_size < PATCH or self.frame_size % PATCH:
            raise ValueError(f"frame_size must be a positive multiple of {PATCH}, got {self.frame_size}")
        within(self, "modalities.video", frames="[1, inf)", frames_per_second="(0, 1000]")

    @property
    def grid(self) -> int:
        """Patches along a side of a frame."""
        return self.frame_size // PATCH


class VideoProcessor(Processor):
    """Any video -> examples `frames` (frames, 3, frame_size, frame_size) float32, normalised as pictures are."""

    def __init__(self, config: VideoConfig) -> None:
        self.config = config

    def __call__(self, source: Any) -> Example:
        """The whole video, or with `frames_per_second` its first window; `views` covers all of it."""
        with open_video(source) as clip:
            return self._example(clip, self._chosen(clip)[: self.config.frames])

    def views(self, source: Any) -> list[Example]:
        with open_video(source) as clip:
            chosen = torch.tensor(self._chosen(clip))
            return [self._example(clip, window.tolist()) for window in windows(chosen, self.config.frames)]

    def _chosen(self, clip: Clip) -> list[int]:
        rate = self.config.frames_per_second
        if rate is None:
            return even_frames(clip.count, self.config.frames)
        times, seconds = clip.timing()
        if not seconds * rate <= MAX_CHOSEN:
            much = f"lasts {seconds:,.0f} s, {seconds * rate:,.0f} frames at {rate:g} a second"
            raise InputError(clip.name, f"{much} (at most {MAX_CHOSEN:,} are accepted); cut it first")
        return frames_at(times, [n / rate for n in range(max(1, math.ceil(seconds * rate)))])

    def _example(self, clip: Clip, indices: Sequence[int]) -> Example:
        return {"frames": torch.stack([image_tensor(p, self.config.frame_size) for p in clip.pick(indices)])}

    def load(self, source: Any) -> Tensor:
        """Frames to vary: (up to three times as many as the model takes, 3, side, side) uint8, larger by a quarter."""
        side = int(self.config.frame_size * STORED_MARGIN)
        most = STORED_FRAMES * self.config.frames
        with open_video(source) as clip:
            chosen = even_frames(clip.count, most) if self.config.frames_per_second is None else self._chosen(clip)
            pictures = [p.resize((side, side), PIL.Image.Resampling.BICUBIC) for p in clip.pick(chosen[:most])]
        return torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2).contiguous()

    def vary(self, loaded: Tensor, generator: torch.Generator, strength: float) -> Example:
        """Other frames of the same video, all of them cut out, mirrored and lit alike; at strength 0 none of it."""
        wanted, size = self.config.frames, self.config.frame_size
        zoom, left, top, mirror, contrast, light, first = torch.rand(7, generator=generator).tolist()
        if self.config.frames_per_second is None:
            frames = loaded[even_frames(len(loaded), wanted, generator if strength else None)]
        else:
            start = int(first * max(1, len(loaded) - wanted + 1)) if strength else 0
            frames = loaded[start : start + wanted]
        frames = cut_square(frames, size, strength, zoom, left, top).float().div(255)
        frames = F.interpolate(frames, (size, size), mode="bicubic", antialias=True)
        if strength and mirror < 0.5:
            frames = frames.flip(-1)
        mean = frames.mean()
        frames = (frames - mean) * (1 + strength * (0.4 * contrast - 0.2)) + mean * (1 + strength * (0.4 * light - 0.2))
        return {"frames": normalise_pixels(frames.clamp(0, 1))}

    def length(self, example: Example) -> int:
        frames, _, height, width = example["frames"].shape
        return frames * (height // PATCH) * (width // PATCH)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        counts = torch.tensor([len(e["frames"]) for e in examples])
        batch = {"frames": nn.utils.rnn.pad_sequence([e["frames"] for e in examples], batch_first=True)}
        if counts.min() < counts.max():
            batch["padding"] = torch.arange(int(counts.max())) >= counts[:, None]
        return batch

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        """The same patches in all frames, or a neighbouring frame would give them away; chosen as in pictures."""
        frames = len(example["frames"])
        patches = self.length(example) // frames
        if avoid is None:
            return patch_mask(patches, ratio, generator).repeat(frames)
        return complementary_patch_mask(avoid[:patches], ratio, generator).repeat(frames)


class VideoPositions(nn.Module):
    """Learned rows, added up: one for cls, one per patch of a frame, one per frame."""

    def __init__(self, config: VideoConfig, width: int) -> None:
        super().__init__()
        self.patches = config.grid**2
        self.weight = nn.Parameter(truncated_normal_(torch.empty(1 + self.patches + config.frames, width)))

    def forward(self, layout: tuple[int, ...]) -> Tensor:
        """Layout (frames, height, width) in patches -> (1 + frames * height * width, dim)."""
        cls, places, times = self.weight.split([1, self.patches, len(self.weight) - 1 - self.patches])
        return torch.cat([cls, (times[: layout[0], None] + places).flatten(0, 1)])


@kept_table
def video_buckets(frames: int, grid: int, most_frames: int) -> Tensor:
    """Rows of the bias table for pairs of patches, cls first: each offset in time and place has its own.

    -> (1 + frames * grid^2, the same) int64, row = query. The last three rows of the table are those of cls.
    """
    plane = grid_buckets(grid, grid, grid)
    offsets = grid_rows(grid) - CLS_ROWS  # in place, per offset in time
    numbers = torch.arange(frames, device="cpu")
    time = numbers[:, None] - numbers + most_frames - 1
    patches = time[:, None, :, None] * offsets + plane[None, 1:, None, 1:]  # (frames, patches, frames, patches)
    return with_cls(patches.reshape(frames * grid**2, -1), first_row=(2 * most_frames - 1) * offsets)


class VideoAdapter(Adapter):
    """The stem of pictures on every frame; positions and relative bias know the time as well.

    Inputs: `frames` (batch, frames, 3, frame_size, frame_size); `padding` (batch, frames) bool, absent when all videos
    of the batch have as many frames.
    """

    def __init__(self, config: VideoConfig, width: int, heads: int, tables: int) -> None:
        super().__init__(width)
        self.config = config
        self.patches = patch_stem(width)
        self.positions = VideoPositions(config, width)
        rows = (2 * config.frames - 1) * (grid_rows(config.grid) - CLS_ROWS) + CLS_ROWS
        self.bias = RelativeBias(rows, heads, tables)

    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        frames, padding = inputs["frames"], inputs.get("padding")
        batch, count, _, height, width = frames.shape
        size = self.config.frame_size
        if (height, width) != (size, size) or not 0 < count <= self.config.frames:
            limit = f"1 to {self.config.frames} of {size} x {size}"
            raise ValueError(f"{count} frames of {height} x {width} pixels: this model takes {limit}")
        pixels = frames.flatten(0, 1).to(self.cls.dtype, memory_format=torch.channels_last)
        features = self.patches(pixels).flatten(2).transpose(1, 2).reshape(batch, count * self.config.grid**2, -1)
        if padding is not None:
            padding = padding.repeat_interleave(self.config.grid**2, dim=1)
        return Embedded(features, padding, (count, self.config.grid, self.config.grid))

    def place(self, visible: Tensor, padding: Tensor | None, kept: Tensor | None, layout: tuple[int, ...]) -> Tensor:
        positions = self.positions(layout)
        return positions if kept is None else positions[kept]

    def attention_bias(self, layout: tuple[int, ...], kept: Tensor | None) -> list[Tensor]:
        return self.bias(video_buckets(layout[0], layout[1], self.config.frames), kept)

    @torch.no_grad()
    def start_from(self, other: Adapter) -> dict[str, Tensor]:
        """From pictures: stem, places and bias. At first, time makes no difference."""
        if not isinstance(other, ImageAdapter):
            return {}
        frames, grid = self.config.frames, self.config.grid
        places, times = other.positions((grid, grid)), torch.zeros(frames, other.cls.shape[-1])
        values = {f"patches.{name}": value for name, value in other.patches.state_dict().items()}
        values["positions.weight"] = torch.cat([places, times.to(places)])
        rows, offsets = video_buckets(1, grid, 1), grid_rows(grid) - CLS_ROWS
        for number, bias in enumerate(other.attention_bias((grid, grid), None)):
            plane = bias.new_zeros(grid_rows(grid), bias.shape[1])
            plane[rows] = bias[0].permute(1, 2, 0)
            values[f"bias.tables.{number}"] = torch.cat([plane[:offsets].repeat(2 * frames - 1, 1), plane[offsets:]])
        return values


class Video(Modality):
    """The video modality."""

    name = "video"
    Config = VideoConfig
    # Animated .gif, .webp and .png are videos when passed as such; in a folder such files are mostly pictures. Not .ts:
    # most files of this name are TypeScript.
    endings = ".mp4 .m4v .mov .webm .mkv .avi .mpg .mpeg .mts .m2ts .ogv .wmv .flv .3gp"

    def adapter(self, config: VideoConfig, width: int, heads: int, tables: int) -> VideoAdapter:
        return VideoAdapter(config, width, heads, tables)

    def decoder_positions(self, config: VideoConfig, width: int) -> VideoPositions:
        return VideoPositions(config, width)

    def processor(self, config: VideoConfig, folder: Path | None) -> VideoProcessor:
        return VideoProcessor(config)

    def frames(self, source: Any, count: int, *, by_time: bool = False) -> Iterator[Tensor]:
        """Spread by number (`even_frames`), or what is on screen in the middle of `count` equal spans of time."""
        with open_video(source) as clip:
            if by_time:
                times, seconds = clip.timing()
                chosen = frames_at(times, [(n + 0.5) * seconds / count for n in range(count)])
            else:
                chosen = repeated_frames(clip.count, min(count, max(2, clip.count)))
            for picture in clip.pick(chosen):
                yield pixels_of(picture)

    def preset(self, width: int) -> VideoConfig:
        """8 frames of 128 pixels; 4 of 64 for models small enough to be trained on a laptop."""
        return VideoConfig(64, 4) if width < SMALL_WIDTH else VideoConfig()

    def picture(self, source: Any) -> PIL.Image.Image:
        """Its middle frame."""
        with open_video(source) as clip:
            return next(clip.pick(even_frames(clip.count, 1)))
