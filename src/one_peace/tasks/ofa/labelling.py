"""The class of a picture, written in words (ImageNet-1k)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa.answering import MAX_ANSWER
from one_peace.tasks.ofa.example import SequenceExample, with_target
from one_peace.tasks.ofa.figures import LabelFigures, WrittenFigures
from one_peace.tasks.ofa.task import PictureForm, SequenceTask
from one_peace.tasks.task import BadRow, Row, has, text_of

IMAGENET_PICTURES = PictureForm(imagenet=True)


class Labelling(SequenceTask):
    """Rows have `image` and `label`, one of `labels`."""

    columns = ("image",)
    target_columns = ("label",)
    reads = "image"
    writing = GenerationSettings(EOS_ID, PAD_ID, beams=5, max_tokens=MAX_ANSWER, length_penalty=0.0)

    def __init__(
        self, vocabulary: OfaVocabulary, labels: Sequence[str], pictures: PictureForm = IMAGENET_PICTURES
    ) -> None:
        super().__init__(vocabulary, pictures)
        self.labels, self.answers = frozenset(labels), self.trie(labels)

    def example(self, row: Row, key: str) -> SequenceExample:
        pixels = self.pictures(self.picture(row, key))
        label = text_of(row, "label", key) if has(row, "label") else None
        if label is not None and label not in self.labels:
            raise BadRow(key, f"column 'label': {label!r:.60} is not among the {len(self.labels)} classes")
        ids = self.vocabulary.encode(f" {label}") if label is not None else None
        parts = with_target(self.vocabulary.encode(prompts.DESCRIBE), ids)
        return SequenceExample(key, pixels=pixels, answers=self.answers, facts={"answer": label}, **parts)

    def figures(self, answers: Sequence[str] = ()) -> WrittenFigures:
        return LabelFigures(answers)

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        return {"label": value}
