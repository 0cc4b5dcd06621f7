"""A picture described in words (COCO captions)."""

from __future__ import annotations

from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.sequence.example import SequenceExample, with_target
from one_peace.tasks.sequence.task import DESCRIBE, PICTURES, PictureForm, SequenceTask, without_punctuation
from one_peace.tasks.task import Row

SEPARATOR = "&&"  # of the references of a picture


class Captioning(SequenceTask):
    """Rows have `image` and `caption`.

    With `references` a caption is several, joined by `&&`, and all are kept, for self-critical training and evaluation;
    without, it is one, of which the first `max_words` words are trained.
    """

    columns = ("image", "caption")

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
        caption = str(row.get("caption") or "")
        texts = [without_punctuation(text) for text in (caption.split(SEPARATOR) if self.references else [caption])]
        texts = [text for text in texts if text]
        words = texts if self.references else [" ".join(text.split(" ")[: self.max_words]) for text in texts]
        answer = self.vocabulary.encode(f" {SEPARATOR.join(words)}") if words else None
        parts = with_target(self.vocabulary.encode(DESCRIBE), answer)
        return SequenceExample(key, pixels=pixels, facts={"references": texts}, **parts)
