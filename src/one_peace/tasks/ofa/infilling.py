"""Filling in what was taken out: the middle of a picture, spans of a text (pretraining)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa.codes import CodeTask
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.ofa.task import PictureForm, SequenceTask
from one_peace.tasks.task import Row, text_of

MAX_TEXT, KEPT_TEXT = 512, 256  # ids of a text that are read, and of those the last that are used

SMALL_PICTURES = PictureForm(256)


class ImageInfilling(CodeTask):
    """Rows have `image` and `codes`, those of the middle quarter of the picture: half its width and height."""

    columns = ("image",)

    def __init__(self, vocabulary: OfaVocabulary, count: int = 256, pictures: PictureForm = SMALL_PICTURES) -> None:
        super().__init__(vocabulary, count, pictures)

    def example(self, row: Row, key: str) -> SequenceExample:
        return self.of(self.picture(row, key), self.codes_of(row, key), key)

    def of(self, image: Image.Image, codes: Sequence[int] | None, key: str) -> SequenceExample:
        """An example of a picture and the codes of its middle."""
        pixels = self.pictures(image)
        quarter = self.pictures.size // 4
        pixels[:, quarter:-quarter, quarter:-quarter] = 0  # mid-grey
        parts = with_target(self.vocabulary.encode(prompts.MIDDLE), self.ids(codes))
        return SequenceExample(key, pixels=pixels, codes=True, **parts)


class TextInfilling(SequenceTask):
    """Rows have `text`; spans of words are replaced by one `<mask>` each, as BART is trained (arXiv 1910.13461)."""

    columns = ("text",)
    share, mean_length = 0.3, 3.0

    def __init__(self, vocabulary: OfaVocabulary, starts: Tensor, longest: int = 1024) -> None:
        """`starts`: (words,) bool or uint8, which ids begin a word (`Tokenizer.whole_word_starts`). `longest`: tokens
        that the model can write, the start included."""
        super().__init__(vocabulary)
        self.starts, self.kept = starts.bool(), min(KEPT_TEXT, longest - 1)

    def example(self, row: Row, key: str) -> SequenceExample:
        return self.draw(row, key, torch.Generator().manual_seed(0))

    def draw(self, row: Row, key: str, generator: torch.Generator) -> SequenceExample:
        return self.of(text_of(row, "text", key), key, generator)

    def of(self, text: str, key: str, generator: torch.Generator) -> SequenceExample:
        """An example of a text, masked at random."""
        clean = torch.tensor(self.vocabulary.encode(f" {text.lower()}", MAX_TEXT)[-self.kept :], dtype=torch.int64)
        masked = mask_spans(clean, self.starts[clean], self.vocabulary.mask_id, self.share, self.mean_length, generator)
        prompt = self.vocabulary.encode(prompts.COMPLETE)
        source = [*prompt[:-2], *masked.tolist(), *prompt[-2:]]
        return SequenceExample(key, facts={"text": text}, **with_target(source, clean.tolist()))


def mask_spans(
    tokens: Tensor, starts: Tensor, mask: int, share: float, mean_length: float, generator: torch.Generator
) -> Tensor:
    """Tokens (n,) with a share of their words replaced, each span of words by one `mask`; shorter or longer than
    before.

    Span lengths are Poisson with mean `mean_length`; spans of no word insert a mask. starts: (n,) bool, where words
    begin; the first token always begins one.
    """
    if not len(tokens):
        return tokens
    words = starts.clone()
    words[0] = True
    first = words.nonzero().squeeze(1)  # (words,) where each begins
    wanted = int(torch.ceil(torch.tensor(len(first) * share)))
    lengths: list[int] = []
    while sum(lengths) < wanted:
        lengths.append(int(torch.poisson(torch.tensor(mean_length), generator=generator)))
    lengths[-1] -= sum(lengths) - wanted
    inserted = sum(length == 0 for length in lengths)
    hidden = torch.zeros(len(first) + 1, dtype=torch.bool)
    heads = torch.randperm(len(first), generator=generator)[: len(lengths) - inserted]
    for head, length in zip(heads.tolist(), [length for length in lengths if length], strict=False):
        hidden[head : head + length] = True
    hidden = hidden[:-1]
    word_of = words.cumsum(0) - 1  # (n,)
    begins = hidden & ~torch.cat([torch.zeros(1, dtype=torch.bool), hidden[:-1]])
    kept = ~hidden[word_of]
    kept[first[begins]] = True  # the mask's place
    result = tokens.clone()
    result[first[begins]] = mask
    result = result[kept]
    places = torch.randint(len(result) + 1, (inserted,), generator=generator).sort(descending=True).values
    for place in places.tolist():
        result = torch.cat([result[:place], result.new_tensor([mask]), result[place:]])
    return result
