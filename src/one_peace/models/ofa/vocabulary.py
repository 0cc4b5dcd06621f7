"""One vocabulary for words, boxes and image codes: ids of each, and back."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from one_peace.modalities.tokenization import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    SPECIALS,
    UNK_ID,
    Tokenizer,
    join_pieces,
)
from one_peace.models.ofa.config import OfaConfig

_SYMBOL = re.compile(r"<(code|bin)_(\d+)>")


class OfaVocabulary:
    """Words by byte-level BPE, then `<mask>`, `<code_0>`.., `<bin_0>`.. (paper, section 3.2).

    Words of a text are ids without start and end token; a prompt and a target begin with a blank. Picklable.
    """

    def __init__(self, tokenizer: Tokenizer, config: OfaConfig) -> None:
        if tokenizer.vocab_size != config.words:
            raise ValueError(
                f"the tokenizer has {tokenizer.vocab_size} ids, but the model has {config.words} rows before <mask>"
            )
        self.tokenizer = tokenizer
        self.codes, self.bins, self.box_size = config.codes, config.bins, config.box_size

    @property
    def mask_id(self) -> int:
        """The id of `<mask>`."""
        return self.tokenizer.vocab_size

    @property
    def first_code(self) -> int:
        """The id of `<code_0>`."""
        return self.mask_id + 1

    @property
    def first_bin(self) -> int:
        """The id of `<bin_0>`."""
        return self.first_code + self.codes

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.first_bin + self.bins

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """The ids of a text as it stands, at most `limit`. Symbols written in it are text like any other."""
        return self.tokenizer.encode_exact(text)[:limit]

    def symbols(self, text: str) -> list[int]:
        """The ids of symbols between blanks, such as `<bin_3> <code_7> <mask>`; the unknown id for any other."""
        return [self._symbol(word) for word in text.split()]

    def source(self, ids: Sequence[int]) -> Tensor:
        """What the encoder reads: start, ids, end. (n + 2,) int64."""
        return torch.tensor([BOS_ID, *ids, EOS_ID])

    def target(self, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What the decoder reads (start, ids) and what it is to write (ids, end): two of (n + 1,) int64."""
        return torch.tensor([BOS_ID, *ids]), torch.tensor([*ids, EOS_ID])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without start, end and padding; symbols are spelt out."""
        return join_pieces([self.name(i) for i in map(int, ids) if i not in (BOS_ID, PAD_ID, EOS_ID)])

    def name(self, number: int) -> str:
        """The symbol of an id; words are in byte-level symbols.

        Raises:
            ValueError: no such id.
        """
        if not 0 <= number < self.size:
            raise ValueError(f"id {number}: this vocabulary has {self.size}")
        if number < len(SPECIALS):
            return SPECIALS[number]
        if number >= self.first_bin:
            return f"<bin_{number - self.first_bin}>"
        if number >= self.first_code:
            return f"<code_{number - self.first_code}>"
        return "<mask>" if number == self.mask_id else self.tokenizer.piece(number) or SPECIALS[UNK_ID]

    def check_boxes(self, size: int) -> None:
        """`ValueError` for pictures resized to more pixels than boxes reach."""
        if size > self.box_size:
            raise ValueError(f"boxes reach {self.box_size} pixels, so pictures have at most as many, not {size}")

    def boxes_to_ids(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) x0, y0, x1, y1 in pixels of the resized picture -> ids of bins (..., 4) int64.

        Coordinates beyond `box_size` have no bin and become the unknown id, as published.
        """
        bins = (boxes.to(torch.float32) / self.box_size * (self.bins - 1)).round().to(torch.int64)
        return torch.where((bins >= 0) & (bins < self.bins), bins + self.first_bin, UNK_ID)

    def ids_to_boxes(self, ids: Tensor) -> Tensor:
        """Ids of bins (..., 4) -> coordinates in the resized picture (..., 4) float32; any id counts from `<bin_0>`."""
        return (ids - self.first_bin).to(torch.float32) / (self.bins - 1) * self.box_size

    def box(self, ids: Sequence[int], size: int) -> Tensor:
        """The box of four ids in a picture resized to `size`: x0, y0, x1, y1 as shares of its sides, (4,) float32.

        It lies in the picture with its corners in order: nothing keeps a model from writing the other two.

        Raises:
            ValueError: not four ids.
        """
        if len(ids) != 4:
            raise ValueError(f"a box is four coordinates, got {len(ids)}")
        corners = self.ids_to_boxes(torch.tensor([int(i) for i in ids])).div(size).clamp(0.0, 1.0).view(2, 2)
        return corners.sort(dim=0).values.flatten()

    def _symbol(self, word: str) -> int:
        if word == "<mask>":
            return self.mask_id
        if word in SPECIALS:
            return SPECIALS.index(word)
        match = _SYMBOL.fullmatch(word)
        if match is None:
            return UNK_ID
        first, count = (self.first_code, self.codes) if match[1] == "code" else (self.first_bin, self.bins)
        return first + int(match[2]) if int(match[2]) < count else UNK_ID


def clean_text(text: str, max_words: int | None = None, *, caption: bool = True) -> str:
    """The published cleaning: lower case, no leading punctuation, no hyphens and slashes, single blanks.

    At most `max_words` words. In a caption `<person>` becomes `person`; in a question it stays.
    """
    text = text.lower().lstrip(",.!?*#:;~").replace("-", " ").replace("/", " ")
    if caption:
        text = text.replace("<person>", "person")
    text = re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")
    return text if max_words is None else " ".join(text.split(" ")[:max_words])
