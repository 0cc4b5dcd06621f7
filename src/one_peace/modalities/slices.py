"""Sounds as log-mel slices of one size, for a tower that all modalities share (MiCo, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.errors import InputError
from one_peace.media.filter_bank import FRAME, log_mel
from one_peace.media.frame_choice import even_frames
from one_peace.media.resampling import resample
from one_peace.media.sounds import SAMPLE_RATE, decode_first_channel
from one_peace.media.sources import describe
from one_peace.modalities.base import Example, Processor


@dataclass(frozen=True)
class SliceConfig:
    """`count` slices of `frames` frames by `bins` mel bands; a band is resized to `size` values (None: stays).

    By `scale`, "kaldi" is what the model hears: 16 kHz, on the scale of 16-bit integers. "ast" is for the audio
    spectrogram transformer of VAST's captioner: at the sound's own rate and scale, its mean taken off, a Hann window.
    Values are (x - mean) / (2 * deviation).
    """

    bins: int = 224
    frames: int = 224
    count: int = 4
    size: int | None = None
    mean: float = 15.41663
    deviation: float = 6.55582
    scale: Literal["kaldi", "ast"] = "kaldi"

    def __post_init__(self) -> None:
        if self.frames < 1 or self.count < 1:
            raise ValueError(f"frames and count must be at least 1, got {self.frames} and {self.count}")
        if self.scale not in ("kaldi", "ast"):
            raise ValueError(f"scale must be 'kaldi' or 'ast', got {self.scale!r}")


class SliceProcessor(Processor):
    """Any sound -> examples `slices` (count, frames, size) float32. Of several channels the first counts, as published.

    The log-mel frames are filled up with zeros (after normalisation, so: with the average) to whole slices, by at
    least one frame, and to at least `count` of them; of more, `count` are chosen as frames of videos are.
    """

    def __init__(self, config: SliceConfig) -> None:
        self.config = config

    def __call__(self, source: Any) -> Example:
        return self.vary(self.load(source), torch.Generator(), 0.0)

    def load(self, source: Any) -> Tensor:
        """All slices of a sound, (n, frames, size) float32."""
        waveform, rate = decode_first_channel(source)
        samples, whole = torch.from_numpy(waveform), round(rate)
        if whole != rate:
            raise InputError(describe(source), f"has a sample rate of {rate} Hz; only whole numbers can be resampled")
        if self.config.scale == "kaldi":
            samples = resample(samples, whole, SAMPLE_RATE) * 2.0**15
            whole = SAMPLE_RATE
        else:
            samples = samples - samples.mean()
        if len(samples) < int(whole * FRAME):
            raise InputError(describe(source), f"is too short: {len(samples)} samples at {whole} Hz, less than 25 ms")
        window: Literal["povey", "hann"] = "povey" if self.config.scale == "kaldi" else "hann"
        return self._slices(log_mel(samples, self.config.bins, rate=whole, window=window))

    def vary(self, loaded: Tensor, generator: torch.Generator, strength: float) -> Example:
        """`count` of the slices; at strength 0 the middle ones of equal runs, else random ones of them."""
        return {"slices": loaded[even_frames(len(loaded), self.config.count, generator if strength else None)]}

    def length(self, example: Example) -> int:
        """Slices: the tower sees each on its own."""
        return len(example["slices"])

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        return {"slices": torch.stack([e["slices"] for e in examples])}

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        raise TypeError("slices of a shared tower are never masked: its objectives mask texts alone")

    def _slices(self, bank: Tensor) -> Tensor:
        config = self.config
        if config.size is not None and config.size != config.bins:
            bank = F.interpolate(bank[None], config.size, mode="linear", align_corners=False)[0]
        bank = (bank - config.mean) / (config.deviation * 2)
        short = max(config.frames * config.count - len(bank), config.frames - len(bank) % config.frames)
        return F.pad(bank, (0, 0, 0, short)).unflatten(0, (-1, config.frames))
