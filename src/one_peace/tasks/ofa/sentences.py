"""Questions about one sentence or two, answered by a word (GLUE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from one_peace.generation.settings import GenerationSettings
from one_peace.modalities.tokenization import EOS_ID, PAD_ID
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa.example import PromptKind, SequenceExample, with_target
from one_peace.tasks.ofa.figures import LabelFigures, WrittenFigures
from one_peace.tasks.ofa.task import SequenceTask
from one_peace.tasks.task import BadRow, Row, has, text_of

MAX_WORDS = 512


@dataclass(frozen=True)
class SentenceQuestion:
    """A GLUE task: the columns of its sentences, the prompt that they go into, and what labels are called."""

    columns: tuple[str, ...]
    prompt: str
    answers: Mapping[str, str]


_YES_NO = {"0": "no", "1": "yes"}
_IMPLIES = ' can text1 " {} " imply text2 " {} "?'

QUESTIONS = {
    "cola": SentenceQuestion(("sentence",), ' is the text " {} " grammatically correct?', _YES_NO),
    "sst2": SentenceQuestion(
        ("sentence",), ' is the sentiment of text " {} " positive or negative?', {"0": "negative", "1": "positive"}
    ),
    "qqp": SentenceQuestion(("question1", "question2"), ' is question " {} " and question " {} " equivalent?', _YES_NO),
    "qnli": SentenceQuestion(
        ("sentence", "question"),
        ' does " {} " contain the answer to question " {} "?',
        {"not_entailment": "no", "entailment": "yes"},
    ),
    "mrpc": SentenceQuestion(
        ("sentence1", "sentence2"), ' does text1 " {} " and text2 " {} " have the same semantics?', _YES_NO
    ),
    "rte": SentenceQuestion(("sentence1", "sentence2"), _IMPLIES, {"not_entailment": "no", "entailment": "yes"}),
    "mnli": SentenceQuestion(("premise", "hypothesis"), _IMPLIES, {"0": "maybe", "1": "yes", "2": "no"}),
}


class SentenceAnswering(SequenceTask):
    """Rows have the columns of the question's sentences, named as in GLUE, and `label`. The answer's first token is
    trained alone, without an end."""

    target_columns = ("label",)
    writing = GenerationSettings(EOS_ID, PAD_ID, max_tokens=1)
    first_token = True

    def __init__(
        self,
        vocabulary: OfaVocabulary,
        question: SentenceQuestion,
        *,
        prompt: PromptKind = "source",
        answers: Sequence[str] = (),
    ) -> None:
        """`answers`: what may be said, by default what the question's labels are called."""
        super().__init__(vocabulary)
        self.columns = question.columns  # type: ignore[misc]  # of this question
        self.question, self.prompt = question, prompt
        self.choices = tuple(dict.fromkeys(question.answers.values()))
        self.answers = self.trie(answers or self.choices)

    def example(self, row: Row, key: str) -> SequenceExample:
        texts = [text_of(row, name, key).lower() for name in self.question.columns]
        texts = [" ".join(text.split()[:MAX_WORDS]) for text in texts]
        label = text_of(row, "label", key) if has(row, "label") else None
        if label is not None and label not in self.question.answers:
            raise BadRow(key, f"column 'label': {label!r:.60} is none of {', '.join(self.question.answers)}")
        answer = None if label is None else self.question.answers[label]
        ids = None if answer is None else self.vocabulary.encode(f" {answer}")[:1]
        source = self.vocabulary.encode(self.question.prompt.format(*texts))
        parts = with_target(source, ids, self.prompt, end=False)
        return SequenceExample(key, answers=self.answers, facts={"answer": answer}, **parts)

    def figures(self, answers: Sequence[str] = ()) -> WrittenFigures:
        return LabelFigures(answers)

    def shown(self, value: Any, example: SequenceExample) -> dict[str, Any]:
        labels = {answer: label for label, answer in self.question.answers.items()}
        return {"answer": value, "label": labels[value]}
