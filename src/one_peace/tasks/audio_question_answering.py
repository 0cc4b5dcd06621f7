"""Questions about a sound with candidate answers (AVQA, paper section 4.2): each is scored together with the sound."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from one_peace.modalities.text import TextProcessor
from one_peace.models.one_peace.config import HeadConfig
from one_peace.objectives.hinge import answer_hinge
from one_peace.tasks.classification import Accuracy
from one_peace.tasks.task import BadRow, Figures, Row, Task, TaskBatch, TaskExample, column, prepare, text_of


class AudioQuestionAnswering(Task):
    """Rows have `audio` and `text`, as published: question, the candidate answers and the number of the right one from
    0, joined by `&&&`. A number behind two candidates or more is always that of the right one, so in predictions too it
    is none of the candidates."""

    modalities = ("text", "audio")
    columns = ("audio", "text")

    def head(self, width: int) -> HeadConfig:
        return HeadConfig(1, "text", "attention", hidden=2 * width)

    def example(self, row: Row, key: str) -> TaskExample:
        question, *candidates = (part.strip() for part in text_of(row, "text", key).split("&&&"))
        target = None
        if candidates and candidates[-1].isdecimal() and len(candidates) > 2:
            target = torch.tensor(int(candidates.pop()))
        if not question or len(candidates) < 2 or not all(candidates):
            raise BadRow(key, "column 'text' is no question&&&answer&&&answer...&&&number of the right one")
        if target is not None and not 0 <= int(target) < len(candidates):
            raise BadRow(
                key, f"column 'text': there is no answer {int(target)} among {len(candidates)}, counted from 0"
            )
        text = self.processors["text"]
        assert isinstance(text, TextProcessor)
        encoded = [text.tokenizer.encode_answer(question, answer) for answer in candidates]
        inputs = {
            "text": [prepare(text.of_tokens, tokens, "text", key) for tokens in encoded],
            "audio": [prepare(self.processors["audio"], column(row, "audio", key), "audio", key)],
        }
        return TaskExample(key, inputs, target, {"question": question, "candidates": candidates})

    def choices(self, scores: Tensor, batch: TaskBatch) -> Tensor:
        """Scores of all candidates, (examples * candidates, 1) -> (examples, candidates)."""
        return scores.view(len(batch.keys), -1)

    def loss(self, scores: Tensor, batch: TaskBatch) -> Tensor:
        assert batch.target is not None
        return answer_hinge(self.choices(scores, batch), batch.target)

    def figures(self) -> Figures:
        return ChoiceAccuracy()

    def predictions(self, scores: Tensor, batch: TaskBatch) -> list[dict[str, Any]]:
        """The best candidate, and the probability of each among them."""
        made = []
        for row, facts in zip(self.choices(scores, batch).float().softmax(dim=1).tolist(), batch.facts, strict=True):
            answers = sorted(zip(facts["candidates"], row, strict=True), key=lambda pair: -pair[1])
            shown = [(answer, round(value, 4)) for answer, value in answers]
            made.append({"question": facts["question"], "answer": shown[0][0], "answers": shown})
        return made


class ChoiceAccuracy(Accuracy):
    """Share of questions whose right answer scores highest."""

    def add(self, scores: Tensor, batch: TaskBatch) -> None:
        super().add(scores.view(len(batch.keys), -1), batch)

    def result(self) -> dict[str, float]:
        return {"accuracy": super().result()["accuracy"]}
