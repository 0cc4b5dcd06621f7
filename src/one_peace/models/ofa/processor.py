"""Pictures and texts as OFA reads them, one at a time and in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from one_peace.errors import InputError
from one_peace.media.pictures import decode_picture, pixels_of
from one_peace.modalities.tokenization import PAD_ID
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.trunk import STRIDE
from one_peace.models.ofa.vocabulary import OfaVocabulary

NO_VOCABULARY = (
    "this model was loaded without a vocabulary; pass from_pretrained(..., tokenizer=FOLDER), FOLDER holding "
    "tokenizer.json, or encoder.json, vocab.bpe and dict.txt, or vocab.json and merges.txt"
)


class Box(NamedTuple):
    """A rectangle in pixels of the picture, from its top left corner."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Request:
    """One input: tokens (length,) int64 with start and end, a picture (3, size, size) float32 or None, and the size of
    the original picture in pixels, (width, height)."""

    tokens: Tensor
    pixels: Tensor | None = None
    picture_size: tuple[int, int] = (0, 0)


class OfaProcessor:
    """Raw inputs to tensors and back. Picklable, no model inside."""

    def __init__(self, config: OfaConfig, vocabulary: OfaVocabulary | None) -> None:
        self.config = config
        self._vocabulary = vocabulary

    @property
    def vocabulary(self) -> OfaVocabulary:
        """The model's vocabulary. `InputError` for a model that was loaded without one."""
        if self._vocabulary is None:
            raise InputError("text", NO_VOCABULARY)
        return self._vocabulary

    def __call__(self, text: str, picture: Any = None) -> Request:
        """A prompt, with a picture in any form that `decode_picture` reads. `InputError` names what cannot be used."""
        tokens = self.vocabulary.source(self.vocabulary.encode(text))
        longest = self.config.longest_text
        if len(tokens) > longest:
            raise InputError(
                repr(text[:60]), f"has {len(tokens)} tokens, start and end included; {longest} can be read"
            )
        if picture is None:
            return Request(tokens)
        image = decode_picture(picture)
        return Request(tokens, self.picture_tensor(image), image.size)

    def picture_tensor(self, image: Image.Image) -> Tensor:
        """An RGB picture stretched to the model's square and normalised, (3, size, size) float32."""
        size = self.config.image_size
        pixels = pixels_of(image.resize((size, size), Image.Resampling.BICUBIC)).to(torch.float32).div_(255)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.config.image_mean, self.config.image_std))
        return pixels.sub_(mean).div_(std).contiguous()

    def length(self, request: Request) -> int:
        """Number of positions that the encoder gives it."""
        cells = 0 if request.pixels is None else request.pixels[0].numel() // STRIDE**2
        return len(request.tokens) + cells

    def collate(self, requests: Sequence[Request]) -> dict[str, Tensor]:
        """Arguments of `OfaModel.encode` for a batch: tokens padded on the right; requests without a picture get a
        grey one that is masked."""
        tokens = nn.utils.rnn.pad_sequence([r.tokens for r in requests], batch_first=True, padding_value=PAD_ID)
        pictured = torch.tensor([r.pixels is not None for r in requests])
        if not pictured.any():
            return {"tokens": tokens}
        blank = next(torch.zeros_like(r.pixels) for r in requests if r.pixels is not None)
        pixels = torch.stack([blank if r.pixels is None else r.pixels for r in requests])
        return {"tokens": tokens, "pixels": pixels} | ({} if pictured.all() else {"pictured": pictured})

    def box(self, ids: Sequence[int], picture_size: tuple[int, int]) -> Box:
        """The box of four ids of bins in the original picture (width, height), as `OfaVocabulary.box` says."""
        x0, y0, x1, y1 = self.vocabulary.box(ids, self.config.image_size).tolist()
        width, height = picture_size
        return Box(x0 * width, y0 * height, x1 * width, y1 * height)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json beside saved weights."""
        if self._vocabulary is not None:
            self._vocabulary.tokenizer.save(folder / "tokenizer.json")
