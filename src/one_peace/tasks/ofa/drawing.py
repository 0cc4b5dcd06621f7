"""A caption drawn as image codes (text-to-image on COCO)."""

from __future__ import annotations

from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa.codes import CodeTask
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.task import Row, text_of


class Drawing(CodeTask):
    """Rows have `caption`, and `codes` of the whole picture."""

    columns = ("caption",)

    def __init__(self, vocabulary: OfaVocabulary, count: int = 1024) -> None:
        super().__init__(vocabulary, count)

    def example(self, row: Row, key: str) -> SequenceExample:
        caption = text_of(row, "caption", key)
        parts = with_target(self.vocabulary.encode(prompts.draw(caption)), self.ids(self.codes_of(row, key)))
        return SequenceExample(key, codes=True, facts={"caption": caption}, **parts)
