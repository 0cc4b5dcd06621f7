"""An article in one line (Gigaword)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.vocabulary import OfaVocabulary, clean_text
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.ofa.figures import SummaryFigures, WrittenFigures
from one_peace.tasks.ofa.task import SequenceTask
from one_peace.tasks.task import BadRow, Row, has, text_of

MAX_SOURCE, MAX_TARGET = 512, 100  # words, and of the prompt also ids
FIRST_WORD = 4  # ids below are special


class Summarization(SequenceTask):
    """Rows have `source` and `target`."""

    columns = ("source",)
    target_columns = ("target",)
    writing = GenerationSettings(EOS_ID, PAD_ID, beams=6, max_tokens=32, length_penalty=0.7, no_repeat_ngram=3)

    def __init__(self, vocabulary: OfaVocabulary, noise: float = 0.0) -> None:
        """`noise`: share of the words that the decoder reads which are replaced in training (published: 0.2)."""
        super().__init__(vocabulary)
        self.noise = noise

    def draw(self, row: Row, key: str, generator: torch.Generator) -> SequenceExample:
        return self.noisy(self.example(row, key), self.noise, generator)

    def example(self, row: Row, key: str) -> SequenceExample:
        article = _cleaned(text_of(row, "source", key), MAX_SOURCE)
        if not article:
            raise BadRow(key, "column 'source' has nothing in it but punctuation")
        wanted = text_of(row, "target", key).lower() if has(row, "target") else ""
        summary = _cleaned(wanted, MAX_TARGET)
        prompt = f' what is the summary of article " {article} "?'
        ids = self.vocabulary.encode(summary) if summary else None  # published: no blank before the first word
        parts = with_target(self.vocabulary.encode(prompt, MAX_SOURCE), ids)
        return SequenceExample(key, facts={"reference": wanted}, **parts)

    def noisy(self, example: SequenceExample, share: float, generator: torch.Generator) -> SequenceExample:
        """The example as it is trained: each token that the decoder reads is, with probability `share`, another
        word."""
        previous: Tensor = example.previous
        drawn = torch.randint(FIRST_WORD, self.vocabulary.mask_id + 1, previous.shape, generator=generator)
        replaced = torch.rand(previous.shape, generator=generator) < share
        replaced[0] = False  # the start
        return dataclasses.replace(example, previous=torch.where(replaced, drawn, previous))

    def figures(self, answers: Sequence[str] = ()) -> WrittenFigures:
        return SummaryFigures(answers)

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        return {"summary": value}


def _cleaned(text: str, max_words: int) -> str:
    return clean_text(text.lower().replace("<unk>", "unk"), max_words)
