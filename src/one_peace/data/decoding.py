"""From a stored pair to examples: the partner read and augmented by its processor, tokens of the text."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator

from one_peace.data.source import RawPair, UnusablePair
from one_peace.errors import InputError, OnePeaceError
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.text import TextProcessor
from one_peace.modalities.tokenization import clean_caption


@dataclass(frozen=True)
class PairDecoder:
    """Raw pair -> (text example, partner example), augmented by an explicit generator. Picklable.

    `partner` reads and augments (`Processor.augmented`), within the limits that it was given (`Processor.limited`).
    `augmentation` is the strength; 0 prepares inputs as for encoding. `caption_tokens` bounds the text, its end token
    included; by default the model's own limit does. Captions are cleaned as published.
    """

    text: TextProcessor
    partner_name: str
    partner: Processor
    augmentation: float = 1.0
    caption_tokens: int | None = None

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
            return {"tokens": tokens}, self.partner.augmented(raw.partner, generator, self.augmentation)
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
