"""Sound: a convolutional front end on the waveform, convolutional positions, relative bias, block masking."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.errors import InputError
from one_peace.media.augmentation import augment_waveform, random_piece
from one_peace.media.sounds import SAMPLE_RATE, decode_sound, frame_count, prepare_waveform, windows
from one_peace.media.sources import describe
from one_peace.modalities.base import (
    SMALL_WIDTH,
    Adapter,
    Embedded,
    Example,
    Modality,
    Processor,
    SequencePositions,
)
from one_peace.nn.activation import gelu_reusing
from one_peace.nn.initialization import truncated_normal_
from one_peace.nn.linear import Linear
from one_peace.nn.relative_position import RelativeBias, sequence_buckets, sequence_rows
from one_peace.nn.wave_frames import WaveFrames

DECODER_POSITIONS = 1026
SHORTEST = 160  # samples of a sound to learn from, 10 ms: less is a broken file
BLOCK = 5  # frames hidden together
SURPLUS = 0.1  # of the ratio by which centres of blocks are drawn, as blocks overlap


def wave_convolutions(channels: int, halvings: int = 6) -> tuple[tuple[int, int, int], ...]:
    """(channels, kernel, stride) rows: stride 5, then `halvings` times 2; 6 of them make 50 frames a second."""
    kernels = [3, 3, 3, 3] + [2] * (halvings - 4)
    return ((channels, 10, 5), *((channels, kernel, 2) for kernel in kernels))


@dataclass(frozen=True)
class AudioConfig:
    """`convs` lists (channels, kernel, stride); `position_width` is divided among `position_depth` layers.

    `exact_padding` keeps padded frames out of the position convolutions, so that a clip in a padded batch has the
    features of the clip alone. The published code lets them leak in; False reproduces it.
    """

    convs: tuple[tuple[int, int, int], ...] = field(default_factory=lambda: wave_convolutions(512))
    position_depth: int = 5
    position_width: int = 95
    position_groups: int = 16
    bias_buckets: int = 512
    max_seconds: float = 15.0
    exact_padding: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "convs", tuple(tuple(int(n) for n in conv) for conv in self.convs))
        sizes = self.position_depth, self.position_width, self.position_groups, self.bias_buckets
        if not self.convs or min(*sizes, *(min(conv) for conv in self.convs)) < 1 or self.max_seconds <= 0:
            raise ValueError(f"convs, sizes and max_seconds of sounds must be above 0, got {self}")


class PositionConvolution(nn.Conv1d):
    """A grouped convolution over (batch, frames, width) that keeps the number of frames."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__(width, width, kernel, padding=kernel // 2, groups=groups)

    def forward(self, frames: Tensor) -> Tensor:
        # As a picture one pixel high in channels-last layout, which (batch, frames, width) already is: twice as fast
        # on CPUs as a one-dimensional convolution between two transposes.
        picture = frames[:, None].permute(0, 3, 1, 2)
        padding = (0, self.kernel_size[0] // 2)
        y = F.conv2d(picture, self.weight[:, :, None], self.bias, padding=padding, groups=self.groups)
        # An even kernel yields one frame too many: the last one is cut.
        return y[:, :, 0, : frames.shape[1]].transpose(1, 2)


class ConvolutionalPositions(nn.Module):
    """Position features computed from the frames themselves by stacked grouped convolutions."""

    def __init__(self, width: int, depth: int, total_width: int, groups: int) -> None:
        super().__init__()
        kernel = max(3, total_width // depth)
        self.convs = nn.ModuleList(PositionConvolution(width, kernel, groups) for _ in range(depth))

    def forward(self, frames: Tensor, padding: Tensor | None = None) -> Tensor:
        """frames (batch, frames, width); `padding` (batch, frames) bool zeroes frames before every layer."""
        for conv in self.convs:
            if padding is not None:
                frames = frames.masked_fill(padding[:, :, None], 0.0)
            frames = gelu_reusing(F.layer_norm(conv(frames), (frames.shape[2],)))
        return frames


class AudioAdapter(Adapter):
    """Waveform frames + convolutional positions + relative bias (paper, section 3.1).

    Inputs: `waveform` (batch, samples) float, or `frames` (batch, frames, channels), what the convolutions make of it;
    `padding` (batch, 1 + frames) bool, cls first, absent when all clips of the batch have the same length.
    """

    def __init__(self, config: AudioConfig, width: int, heads: int, tables: int) -> None:
        super().__init__(width)
        channels = config.convs[-1][0]
        self.bias_buckets = config.bias_buckets
        self.exact_padding = config.exact_padding
        self.cls_position = nn.Parameter(truncated_normal_(torch.empty(1, 1, width)))
        self.frames = WaveFrames(config.convs)
        self.frames_norm = nn.LayerNorm(channels)
        self.frames_proj = Linear(channels, width)
        self.positions = ConvolutionalPositions(
            width, config.position_depth, config.position_width, config.position_groups
        )
        self.bias = RelativeBias(sequence_rows(config.bias_buckets), heads, tables)

    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        heard = inputs.get("frames")
        frames = self.frames(inputs["waveform"].to(self.cls.dtype)) if heard is None else heard.to(self.cls.dtype)
        padding = inputs.get("padding")
        features = self.frames_proj(self.frames_norm(frames))
        return Embedded(features, None if padding is None else padding[:, 1:], (frames.shape[1],))

    def place(self, visible: Tensor, padding: Tensor | None, kept: Tensor | None, layout: tuple[int, ...]) -> Tensor:
        hidden = padding[:, 1:] if self.exact_padding and padding is not None else None
        positions = self.positions(visible[:, 1:], hidden)
        return torch.cat([self.cls_position.to(positions.dtype).expand(visible.shape[0], -1, -1), positions], dim=1)

    def attention_bias(self, layout: tuple[int, ...], kept: Tensor | None) -> list[Tensor]:
        return self.bias(sequence_buckets(self.bias_buckets, layout[0] + 1), kept)


class AudioProcessor(Processor):
    """Any sound -> mono, 16 kHz, normalised over the clip, at least 1 s. Examples: `waveform` (samples,) float32.

    Where a front end is kept while a model trains, `frames` (frames, channels) take its place.
    """

    def __init__(self, config: AudioConfig) -> None:
        self.config = config

    def __call__(self, source: Any) -> Example:
        """The first `max_seconds` of a sound, as published; `views` covers the whole of it."""
        return {"waveform": prepare_waveform(decode_sound(source), max_seconds=self.config.max_seconds)}

    def views(self, source: Any) -> list[Example]:
        waveform = prepare_waveform(decode_sound(source), max_seconds=None)
        return [{"waveform": w} for w in windows(waveform, self._limit)]

    def limited(self, *, seconds: float | None = None, crop: tuple[float, float] | None = None) -> AudioProcessor:
        return self if seconds is None else AudioProcessor(dataclasses.replace(self.config, max_seconds=seconds))

    def longest(self) -> Example:
        return {"waveform": torch.zeros(self._limit)}

    def load(self, source: Any) -> Tensor:
        """A sound to vary: up to twice `max_seconds` from its beginning, (samples,) float16 at 16 kHz."""
        return torch.from_numpy(decode_sound(source)[: 2 * self._limit]).half()

    def loaded_length(self, loaded: Tensor) -> int:
        return len(loaded)

    def vary(self, loaded: Tensor, generator: torch.Generator, strength: float) -> Example:
        """Another recording of it at another tempo (`augment_waveform`); of a long one a random piece of `max_seconds`,
        at strength 0 too."""
        waveform = augment_waveform(loaded.float(), generator, strength)
        return {"waveform": prepare_waveform(random_piece(waveform, self._limit, generator), max_seconds=None)}

    def augmented(self, source: Any, generator: torch.Generator, strength: float) -> Example:
        """A random piece of a sound of any length, varied; at strength 0 its beginning, as for encoding."""
        waveform = torch.from_numpy(decode_sound(source))
        if len(waveform) < SHORTEST:
            raise InputError(describe(source), f"lasts only {len(waveform)} samples")
        if not strength:
            return {"waveform": prepare_waveform(waveform, max_seconds=self.config.max_seconds)}
        # A piece somewhat longer than wanted, since a faster tempo shortens it; only that piece is resampled.
        return self.vary(random_piece(waveform, self._limit * 5 // 4, generator), generator, strength)

    @property
    def _limit(self) -> int:
        """Samples of the longest example."""
        return int(self.config.max_seconds * SAMPLE_RATE)

    def length(self, example: Example) -> int:
        if "frames" in example:
            return example["frames"].shape[0]
        return frame_count(example["waveform"].shape[0], self.config.convs)

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        name = "frames" if "frames" in examples[0] else "waveform"
        batch = {name: nn.utils.rnn.pad_sequence([e[name] for e in examples], batch_first=True)}
        lengths = torch.tensor([self.length(e) for e in examples], device="cpu")
        if lengths.min() < lengths.max():
            batch["padding"] = torch.arange(int(lengths.max()) + 1, device="cpu") > lengths[:, None]
        return batch

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        """Blocks of frames, independent of other masks (published rule)."""
        return block_mask(self.length(example), ratio, generator)


def block_mask(frames: int, ratio: float, generator: torch.Generator) -> Tensor:
    """Hides exactly `int(frames * ratio)` frames, mostly in blocks of `BLOCK` -> (frames,) bool.

    Centres are drawn for a ratio raised by `SURPLUS`; single frames then make up the difference.
    """
    wanted = int(frames * ratio)
    centres = torch.randint(0, frames, (int(frames * (ratio + SURPLUS) / BLOCK),), generator=generator)
    reach = torch.arange(BLOCK) - BLOCK // 2
    masked = torch.zeros(frames, dtype=torch.bool)
    masked[(centres[:, None] + reach).clamp(0, frames - 1)] = True
    excess = int(masked.sum()) - wanted
    if excess:
        pool = masked if excess > 0 else ~masked
        changed = torch.multinomial(pool.float(), abs(excess), replacement=False, generator=generator)
        masked[changed] = excess < 0
    return masked


class Audio(Modality):
    """The audio modality."""

    name = "audio"
    Config = AudioConfig
    endings = ".wav .flac .ogg .oga .opus .mp3 .aif .aiff .au .caf .m4a .aac .wma .amr .weba .mka"

    def adapter(self, config: AudioConfig, width: int, heads: int, tables: int) -> AudioAdapter:
        return AudioAdapter(config, width, heads, tables)

    def decoder_positions(self, config: AudioConfig, width: int) -> SequencePositions:
        return SequencePositions(DECODER_POSITIONS, width)

    def processor(self, config: AudioConfig, folder: Path | None) -> AudioProcessor:
        return AudioProcessor(config)

    def preprocessing(self, config: AudioConfig) -> dict[str, Any]:
        return {"sampling_rate": SAMPLE_RATE, "channels": 1, "normalize": True, "max_seconds": config.max_seconds}

    def preset(self, width: int) -> AudioConfig:
        """A front end a third as wide as the model, at most the published 512; small models halve the frame rate."""
        channels = min(512, width // 24 * 8)
        return AudioConfig(convs=wave_convolutions(channels, 7 if width < SMALL_WIDTH else 6))
