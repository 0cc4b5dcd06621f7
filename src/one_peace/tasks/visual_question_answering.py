"""Questions about a picture, answered by one of a fixed set of answers (VQAv2, paper section 4.3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from one_peace.modalities.base import Processor
from one_peace.modalities.tokenization import clean_caption
from one_peace.models.one_peace.config import HeadConfig
from one_peace.objectives.classification import classification_loss
from one_peace.tasks.given_answers import ANSWER_COLUMNS, annotators_of, answer_scores
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.metrics import consensus_accuracy
from one_peace.tasks.retrieval import best_candidates
from one_peace.tasks.task import BadRow, Figures, Row, Task, TaskBatch, TaskExample, column, prepare, text_of

SHOWN = 5  # answers of a prediction


class VisualQuestionAnswering(Task):
    """Rows have `image`, `question`, and answers with their confidences as of `answer_scores`; `annotators`, answers
    joined by `&&`, turns the figure into the benchmark's own. Answers that are not in the set cannot be given: a
    question that has no others is not learnt from, and is measured as one answered wrongly."""

    modalities = ("text", "image")
    columns = ("image", "question")
    target_columns = (*ANSWER_COLUMNS, "annotators")

    def __init__(self, processors: Mapping[str, Processor], answers: LabelMap) -> None:
        super().__init__(processors)
        self.answers = answers

    def head(self, width: int) -> HeadConfig:
        return HeadConfig(len(self.answers), "text", "attention", hidden=2 * width, pooler=True)

    def example(self, row: Row, key: str) -> TaskExample:
        question = clean_caption(text_of(row, "question", key))
        if not question:
            raise BadRow(key, "column 'question' is empty")
        inputs = {
            "text": [prepare(self.processors["text"], question, "question", key)],
            "image": [prepare(self.processors["image"], column(row, "image", key), "image", key)],
        }
        facts = {"question": question, **annotators_of(row, key)}
        return TaskExample(key, inputs, self._target(row, key), facts)

    def taught(self, row: Row, key: str) -> TaskExample:
        made = super().taught(row, key)
        if made.target is not None and not bool(made.target.any()):
            raise BadRow(key, "none of its answers is in the set of answers")
        return made

    def _target(self, row: Row, key: str) -> Tensor | None:
        """Confidence of each answer of the set, (answers,) float32; other answers count for nothing."""
        scores = answer_scores(row, key)
        if scores is None:
            return None
        return torch.tensor([scores.get(name, 0.0) for name in self.answers.names])

    def loss(self, scores: Tensor, batch: TaskBatch) -> Tensor:
        assert batch.target is not None
        return classification_loss(scores, batch.target, multiple=True)

    def figures(self) -> Figures:
        return AnswerAccuracy(self.answers)

    def predictions(self, scores: Tensor, batch: TaskBatch) -> list[dict[str, Any]]:
        """The best answer and the next ones, each with its own probability."""
        values, places = scores.float().sigmoid().topk(min(SHOWN, len(self.answers)), dim=1)
        made = []
        for row, shown, facts in zip(places.tolist(), values.tolist(), batch.facts, strict=True):
            answers = [(self.answers.names[place], round(value, 4)) for place, value in zip(row, shown, strict=True)]
            made.append({"question": facts["question"], "answer": answers[0][0], "answers": answers})
        return made


class AnswerAccuracy(Figures):
    """`accuracy` is the confidence that the references give the best answer; where all annotators' answers are known,
    `consensus` is the benchmark's accuracy over the ten of them."""

    def __init__(self, answers: LabelMap) -> None:
        self.answers = answers
        self.soft: list[float] = []
        self.consensus: list[float] = []

    def add(self, scores: Tensor, batch: TaskBatch) -> None:
        assert batch.target is not None
        best = best_candidates(scores, 1)[:, 0]
        self.soft += batch.target.gather(1, best[:, None]).squeeze(1).tolist()
        for place, facts in zip(best.tolist(), batch.facts, strict=True):
            if "annotators" in facts:
                self.consensus.append(consensus_accuracy(self.answers.names[place], facts["annotators"]))

    def result(self) -> dict[str, float]:
        if not self.soft:
            raise ValueError("no examples were scored")
        figures = {"accuracy": sum(self.soft) / len(self.soft)}
        if self.consensus:
            figures["consensus"] = sum(self.consensus) / len(self.consensus)
        return figures

    def counted(self, figure: str, examples: int) -> int:
        return len(self.consensus) if figure == "consensus" else examples
