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
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.metrics import consensus_accuracy
from one_peace.tasks.retrieval import best_candidates
from one_peace.tasks.task import BadRow, Figures, Row, Task, TaskBatch, TaskExample, column, prepare

SHOWN = 5  # answers of a prediction


class VisualQuestionAnswering(Task):
    """Rows have `image`, `question`, and one of `refs` (published: `answer|!+confidence` or `answer|!+id|!+confidence`,
    joined by `&&`) and `answer`; `annotators`, answers joined by `&&`, turns the figure into the benchmark's own."""

    modalities = ("text", "image")
    columns = ("image", "question")

    def __init__(self, processors: Mapping[str, Processor], answers: LabelMap) -> None:
        super().__init__(processors)
        self.answers = answers

    def head(self, width: int) -> HeadConfig:
        return HeadConfig(len(self.answers), "text", "attention", hidden=2 * width, pooler=True)

    def example(self, row: Row, key: str) -> TaskExample:
        question = clean_caption(str(column(row, "question", key)))
        if not question:
            raise BadRow(key, "column 'question' is empty")
        inputs = {
            "text": [prepare(self.processors["text"], question, "question", key)],
            "image": [prepare(self.processors["image"], column(row, "image", key), "image", key)],
        }
        facts: dict[str, Any] = {"question": question}
        if row.get("annotators"):
            facts["annotators"] = [answer.strip() for answer in str(row["annotators"]).split("&&")]
        return TaskExample(key, inputs, self._target(row, key), facts)

    def _target(self, row: Row, key: str) -> Tensor | None:
        """Confidence of each answer of the set, (answers,) float32; other answers count for nothing."""
        if not row.get("refs") and not row.get("answer"):
            return None
        target = torch.zeros(len(self.answers))
        if not row.get("refs"):
            try:
                target[self.answers.number(str(row["answer"]).strip())] = 1.0
            except ValueError as error:
                raise BadRow(key, f"column 'answer': {error}") from error
            return target
        for reference in str(row["refs"]).split("&&"):
            parts = reference.split("|!+")
            try:
                answer, confidence = parts[0].strip(), float(parts[-1])
            except ValueError:
                answer, confidence = "", -1.0
            if len(parts) not in (2, 3) or not answer or not 0.0 <= confidence <= 1.0:
                raise BadRow(key, f"column 'refs': {reference[:60]!r} is no answer|!+confidence with one of 0 to 1")
            if answer in self.answers.names:
                target[self.answers.number(answer)] = confidence
        if not bool(target.any()):
            raise BadRow(key, "column 'refs': none of its answers is in the set of answers")
        return target

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
