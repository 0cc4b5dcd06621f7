"""Whether a statement about two pictures is true (NLVR2, paper section 4.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from one_peace.modalities.tokenization import clean_caption
from one_peace.models.one_peace.config import HeadConfig
from one_peace.models.one_peace.prediction import SECOND_PICTURE
from one_peace.objectives.classification import classification_loss
from one_peace.tasks.classification import Accuracy
from one_peace.tasks.task import BadRow, Figures, Row, Task, TaskBatch, TaskExample, column, prepare, text_of

TRUTH = {"true": 0, "false": 1}  # the published numbers of the classes


class Reasoning(Task):
    """Rows have `text`, `image1`, `image2` and `label`, True or False."""

    modalities = ("text", "image")
    columns = ("text", "image1", "image2")
    target_columns = ("label",)

    def head(self, width: int) -> HeadConfig:
        return HeadConfig(2, "text", "attention", hidden=2 * width, pictures=2)

    def example(self, row: Row, key: str) -> TaskExample:
        statement = clean_caption(text_of(row, "text", key))
        if not statement:
            raise BadRow(key, "column 'text' is empty")
        image = self.processors["image"]
        inputs = {
            "text": [prepare(self.processors["text"], statement, "text", key)],
            "image": [prepare(image, column(row, "image1", key), "image1", key)],
            SECOND_PICTURE: [prepare(image, column(row, "image2", key), "image2", key)],
        }
        target = None
        if "label" in row:
            label = text_of(row, "label", key).lower()
            if label not in TRUTH:
                raise BadRow(key, f"column 'label': {label[:40]!r} is neither True nor False")
            target = torch.tensor(TRUTH[label])
        return TaskExample(key, inputs, target, {"statement": statement})

    def loss(self, scores: Tensor, batch: TaskBatch) -> Tensor:
        assert batch.target is not None
        return classification_loss(scores, batch.target)

    def figures(self) -> Figures:
        return Truth()

    def predictions(self, scores: Tensor, batch: TaskBatch) -> list[dict[str, Any]]:
        """Whether the statement holds, and the probability that it does."""
        shares = scores.float().softmax(dim=1)[:, TRUTH["true"]].tolist()
        return [
            {"statement": facts["statement"], "true": share >= 0.5, "probability": round(share, 4)}
            for share, facts in zip(shares, batch.facts, strict=True)
        ]


class Truth(Accuracy):
    """Share of statements judged right."""

    def result(self) -> dict[str, float]:
        return {"accuracy": super().result()["accuracy"]}
