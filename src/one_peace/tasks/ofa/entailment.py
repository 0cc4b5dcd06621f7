"""Does a picture, with its caption if there is one, imply a statement? (SNLI-VE)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa.example import PromptKind, SequenceExample, with_target
from one_peace.tasks.ofa.figures import LabelFigures, WrittenFigures
from one_peace.tasks.ofa.task import PICTURES, PictureForm, SequenceTask, cleaned
from one_peace.tasks.task import BadRow, Row, has, text_of

ANSWERS = {"entailment": "yes", "contradiction": "no", "neutral": "maybe"}


class Entailment(SequenceTask):
    """Rows have `image`, `hypothesis`, `label` (entailment, contradiction or neutral) and, with `captions`,
    `caption`."""

    columns = ("image", "hypothesis")
    target_columns = ("label",)
    writing = GenerationSettings(EOS_ID, PAD_ID, beams=5, max_tokens=4, length_penalty=0.0)
    choices = tuple(ANSWERS.values())

    def __init__(
        self,
        vocabulary: OfaVocabulary,
        pictures: PictureForm = PICTURES,
        *,
        captions: bool = True,
        prompt: PromptKind = "open",
    ) -> None:
        super().__init__(vocabulary, pictures)
        self.captions, self.prompt = captions, prompt
        self.answers = self.trie(self.choices)

    def example(self, row: Row, key: str) -> SequenceExample:
        pixels = self.pictures(self.picture(row, key))
        statement = cleaned(row, "hypothesis", key, prompts.MAX_WORDS)
        source = prompts.MATCH.format(statement)
        if self.captions:
            caption = cleaned(row, "caption", key, prompts.MAX_WORDS)
            source = prompts.IMPLY.format(caption, statement)
        label = text_of(row, "label", key) if has(row, "label") else None
        if label is not None and label not in ANSWERS:
            raise BadRow(key, f"column 'label': {label!r:.60} is none of {', '.join(ANSWERS)}")
        answer = None if label is None else ANSWERS[label]
        ids = None if answer is None else self.vocabulary.encode(f" {answer}")
        parts = with_target(self.vocabulary.encode(source), ids, self.prompt)
        facts = {"statement": statement, "answer": answer}
        return SequenceExample(key, pixels=pixels, answers=self.answers, facts=facts, **parts)

    def figures(self, answers: Sequence[str] = ()) -> WrittenFigures:
        return LabelFigures(answers)

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        labels = {answer: label for label, answer in ANSWERS.items()}
        return {"statement": example.facts["statement"], "label": labels.get(value, value)}
