"""From a stored pair to examples: decoding and augmentation of the partner, tokens of the text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor

from one_peace.data.augmentation import augment_pictures, augment_waveform, random_crop, random_piece
from one_peace.data.source import RawPair, UnusablePair
from one_peace.errors import InputError, OnePeaceError
from one_peace.media.cropping import STORED_MARGIN
from one_peace.media.pictures import decode_picture, image_tensor, normalise_pixels
from one_peace.media.sounds import SAMPLE_RATE, decode_sound, prepare_waveform
from one_peace.media.sources import describe
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.image import ImageProcessor
from one_peace.modalities.text import TextProcessor
from one_peace.modalities.tokenization import clean_caption

SHORTEST = 160  # samples of a sound, 10 ms: less is a broken file


@dataclass(frozen=True)
class PairDecoder:
    """Raw pair -> (text example, partner example), augmented by an explicit generator. Picklable.

    `augmentation` is its strength; 0 prepares inputs as for encoding. `crop` are the smallest and largest share of a
    picture's area that is shown, None for all of it. Sounds longer than `clip_seconds` give a random piece, at
    strength 0 their beginning. `caption_tokens` bounds the text, its end token included; by default the model's own
    limit does. Captions are cleaned as published. Any other modality is read and augmented by its own processor.
    """

    text: TextProcessor
    partner_name: str
    partner: Processor
    augmentation: float = 1.0
    clip_seconds: float = 15.0
    caption_tokens: int | None = None
    crop: tuple[float, float] | None = None

    def __call__(self, raw: RawPair, generator: Generator) -> tuple[Example, Example]:
        """One pair. Raises `UnusablePair` naming it: an empty text, a partner that cannot be decoded."""
        caption = clean_caption(raw.text)
        if not caption:
            raise UnusablePair(raw.key, "its text is empty", "empty text")
        try:
            tokens = self.text(caption)["tokens"]
        except InputError as error:
            raise UnusablePair(raw.key, error.problem, "unreadable text") from error
        if self.caption_tokens is not None and len(tokens) > self.caption_tokens:
            tokens = torch.cat([tokens[: self.caption_tokens - 1], tokens[-1:]])
        try:
            return {"tokens": tokens}, self._partner(raw.partner, generator)
        except Exception as error:
            # Any kind: what a decoder of somebody else's modality raises on a damaged file is not ours to know.
            if isinstance(error, OnePeaceError) and not isinstance(error, InputError):
                raise  # a package that is missing, say, which no other file will mend
            # Not `Path.exists`, which fails itself on a name that no file can have.
            if isinstance(raw.partner, Path) and not os.path.exists(raw.partner):
                raise UnusablePair(raw.key, f"{raw.partner} does not exist", "missing file") from error
            problem = error.problem if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise UnusablePair(raw.key, problem, f"unreadable {self.partner_name}") from error

    def length(self, pair: tuple[Example, Example]) -> tuple[int, int]:
        """Tokens of the text and of the partner."""
        return self.text.length(pair[0]), self.partner.length(pair[1])

    def _partner(self, source: bytes | Path, generator: Generator) -> Example:
        if self.partner_name == "audio":
            return {"waveform": self._clip(source, generator)}
        if self.partner_name == "image":
            assert isinstance(self.partner, ImageProcessor)
            return {"pixels": self._picture(source, self.partner.config.image_size, generator)}
        return self.partner.vary(self.partner.load(source), generator, self.augmentation)

    def _picture(self, source: bytes | Path, size: int, generator: Generator) -> Tensor:
        picture = decode_picture(source)
        if self.crop is not None:
            picture = picture.crop(random_crop(picture.width, picture.height, self.crop, generator))
        if not self.augmentation:
            return image_tensor(picture, size)
        side = int(size * STORED_MARGIN)
        picture = picture.resize((side, side), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
        x = augment_pictures(pixels, size, generator, self.augmentation)[0]
        return normalise_pixels(x)

    def _clip(self, source: bytes | Path, generator: Generator) -> Tensor:
        waveform = torch.from_numpy(decode_sound(source))
        if len(waveform) < SHORTEST:
            raise InputError(describe(source), f"lasts only {len(waveform)} samples")
        if not self.augmentation:
            return prepare_waveform(waveform, max_seconds=self.clip_seconds)
        # A piece somewhat longer than wanted, since a faster tempo shortens it; only that piece is resampled.
        limit = int(self.clip_seconds * SAMPLE_RATE)
        waveform = augment_waveform(random_piece(waveform, limit * 5 // 4, generator), generator, self.augmentation)
        return prepare_waveform(random_piece(waveform, limit, generator), max_seconds=None)
