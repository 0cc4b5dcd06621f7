"""A picture described in words (COCO captions)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.caption_metrics.ptb import without_punctuation
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.ofa.figures import CaptionFigures, WrittenFigures
from one_peace.tasks.ofa.task import PICTURES, PictureForm, SequenceTask
from one_peace.tasks.task import BETWEEN, Row, has, text_of, texts_of


class Captioning(SequenceTask):
    """Rows have `image` and `caption`.

    With `references` a caption is several, joined by `&&`, and all are kept, for self-critical training and evaluation;
    without, it is one, of which the first `max_words` words are trained.
    """

    columns = ("image", "caption")
    target_columns = ("caption",)
    reads = "image"
    writing = GenerationSettings(EOS_ID, PAD_ID, beams=5, max_tokens=16, no_repeat_ngram=3)

    def __init__(
        self,
        vocabulary: OfaVocabulary,
        pictures: PictureForm = PICTURES,
        *,
        references: bool = False,
        max_words: int = 20,
    ) -> None:
        super().__init__(vocabulary, pictures)
        self.references, self.max_words = references, max_words

    def example(self, row: Row, key: str) -> SequenceExample:
        pixels = self.pictures(self.picture(row, key))
        given: list[str] = []
        if has(row, "caption"):
            given = texts_of(row, "caption", key) if self.references else [text_of(row, "caption", key)]
        given = [text for text in given if without_punctuation(text)]
        texts = [without_punctuation(text) for text in given]
        words = texts if self.references else [" ".join(text.split(" ")[: self.max_words]) for text in texts]
        answer = self.vocabulary.encode(f" {BETWEEN.join(words)}") if words else None
        parts = with_target(self.vocabulary.encode(prompts.DESCRIBE), answer)
        return SequenceExample(key, pixels=pixels, facts={"references": given}, **parts)

    def figures(self, answers: Sequence[str] = ()) -> WrittenFigures:
        return CaptionFigures(answers)

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        return {"caption": value}
