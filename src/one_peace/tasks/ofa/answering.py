"""Questions about a picture, answered in words (VQAv2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa import prompts
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.given_answers import ANSWER_COLUMNS, annotators_of, answer_scores
from one_peace.tasks.ofa.example import PromptKind, SequenceExample, with_target
from one_peace.tasks.ofa.figures import AnswerFigures, WrittenFigures
from one_peace.tasks.ofa.task import PICTURES, PictureForm, SequenceTask, cleaned
from one_peace.tasks.task import Row, has, texts_of

MAX_OBJECTS, MAX_ANSWER = 30, 30  # objects named to a question, tokens of an answer


class Answering(SequenceTask):
    """Rows have `image`, `question`, and answers with their confidences as of `answer_scores`; `objects` in the
    picture, joined by `&&`, if wanted.

    The best answer is trained, as strongly as its confidence says; `answers` are all that may be given.
    """

    columns = ("image", "question")
    target_columns = (*ANSWER_COLUMNS, "annotators")
    writing = GenerationSettings(EOS_ID, PAD_ID, beams=5, max_tokens=MAX_ANSWER, length_penalty=0.0)

    def __init__(
        self,
        vocabulary: OfaVocabulary,
        pictures: PictureForm = PICTURES,
        *,
        answers: Sequence[str] = (),
        objects: bool = True,
        prompt: PromptKind = "open",
    ) -> None:
        super().__init__(vocabulary, pictures)
        self.answers = self.trie(answers) if answers else None
        self.objects, self.prompt = objects, prompt

    def example(self, row: Row, key: str) -> SequenceExample:
        pixels = self.pictures(self.picture(row, key))
        question = prompts.with_mark(cleaned(row, "question", key, prompts.MAX_WORDS, caption=False))
        source = f" {question}"
        if self.objects and has(row, "objects"):
            named = texts_of(row, "objects", key)[:MAX_OBJECTS]
            source += f" object: {' '.join(named)}"
        scores = answer_scores(row, key)
        answer, confidence = max(scores.items(), key=lambda item: item[1]) if scores else (None, 1.0)
        ids = None if answer is None else self.vocabulary.encode(f" {answer}", MAX_ANSWER)
        parts = with_target(self.vocabulary.encode(source), ids, self.prompt)
        facts = {"question": question, "scores": scores, **annotators_of(row, key)}
        return SequenceExample(key, pixels=pixels, confidence=confidence, answers=self.answers, facts=facts, **parts)

    def measurable(self, example: SequenceExample) -> bool:
        """Also where no answer that may be given is right: whatever is answered counts as wrong."""
        return example.facts["scores"] is not None

    def figures(self, answers: Sequence[str] = ()) -> WrittenFigures:
        return AnswerFigures(answers)

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        return {"question": example.facts["question"], "answer": value}
