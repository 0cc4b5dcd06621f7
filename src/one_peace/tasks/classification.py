"""Classification of pictures, sounds or texts, with one label per example or several (ImageNet, VGGSound, FSD50K)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from one_peace.media.pictures import center_crop, decode_picture, normalise
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.image import ImageProcessor
from one_peace.models.one_peace.config import HeadConfig, Pooling
from one_peace.objectives.classification import classification_loss
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.metrics import average_precision
from one_peace.tasks.retrieval import best_candidates
from one_peace.tasks.task import BadRow, Figures, Row, Task, TaskBatch, TaskExample, column, prepare, text_of, texts_of

SHOWN = 5  # labels of a prediction


class Classification(Task):
    """Rows have the input under the name of its modality, and `label`: a name, or for several labels names in a list
    or with commas between them. Numbers that are no names are those of the labels, from `first_number` on (1 in the
    published tables of ImageNet). `center_crop` shows the middle of a picture instead of stretching all of it to a
    square."""

    def __init__(
        self,
        processors: Mapping[str, Processor],
        modality: str,
        labels: LabelMap,
        *,
        multiple: bool = False,
        smoothing: float = 0.0,
        label_column: str = "label",
        pooling: Pooling = "attention",
        first_number: int = 0,
        center_crop: bool = False,
    ) -> None:
        self.modalities, self.columns = (modality,), (modality, label_column)  # type: ignore[misc]
        self.target_columns = (label_column,)  # type: ignore[misc]
        super().__init__(processors)
        self.modality, self.labels, self.multiple, self.smoothing = modality, labels, multiple, smoothing
        self.label_column, self.pooling, self.first_number = label_column, pooling, first_number
        self.center_crop = center_crop
        if center_crop and modality != "image":
            raise ValueError(f"center_crop is for pictures, not for {modality}")

    def head(self, width: int) -> HeadConfig:
        hidden = 2 * width if self.pooling == "attention" else None  # the published image classifier is linear
        return HeadConfig(len(self.labels), self.modality, self.pooling, hidden=hidden)

    def example(self, row: Row, key: str) -> TaskExample:
        made = self._input(column(row, self.modality, key), key)
        target = self._target(row, key) if self.label_column in row else None
        return TaskExample(key, {self.modality: [made]}, target)

    def _input(self, value: Any, key: str) -> Example:
        processor = self.processors[self.modality]
        if not self.center_crop:
            return prepare(processor, value, self.modality, key)
        assert isinstance(processor, ImageProcessor)
        size = processor.config.image_size

        def cropped(source: Any) -> Example:
            return {"pixels": normalise(center_crop(decode_picture(source), size))}

        return prepare(cropped, value, self.modality, key)

    def _target(self, row: Row, key: str) -> Tensor:
        names = labels_of(row, self.label_column, key, self.multiple)
        try:
            numbers = [self.labels.find(name, self.first_number) for name in names]
        except ValueError as error:
            raise BadRow(key, f"column {self.label_column!r}: {error}") from error
        if not self.multiple:
            return torch.tensor(numbers[0])
        target = torch.zeros(len(self.labels))
        target[numbers] = 1.0
        return target

    def loss(self, scores: Tensor, batch: TaskBatch) -> Tensor:
        assert batch.target is not None
        return classification_loss(scores, batch.target, multiple=self.multiple, smoothing=self.smoothing)

    def figures(self) -> Figures:
        return MeanAveragePrecision() if self.multiple else Accuracy()

    def predictions(self, scores: Tensor, batch: TaskBatch) -> list[dict[str, Any]]:
        """Labels with scores: probabilities, of each label for itself when there are several."""
        shares = scores.float().sigmoid() if self.multiple else scores.float().softmax(dim=1)
        values, places = shares.topk(min(SHOWN, len(self.labels)), dim=1)
        return [
            {"labels": [(self.labels.names[place], round(value, 4)) for place, value in zip(row, shown, strict=True)]}
            for row, shown in zip(places.tolist(), values.tolist(), strict=True)
        ]


def labels_of(row: Row, name: str, key: str, multiple: bool) -> list[str]:
    """The labels of a row in a column: one, or several (`multiple`) with commas between them or as a list."""
    if not multiple:
        return [text_of(row, name, key)]
    labels = [label for label in texts_of(row, name, key, ",") if label]
    if not labels:
        raise BadRow(key, f"column {name!r} is empty")
    return labels


class Accuracy(Figures):
    """Share of examples whose highest score is the target's, and whose target is among the five highest."""

    def __init__(self) -> None:
        self.first = self.fifth = 0.0
        self.examples = 0

    def add(self, scores: Tensor, batch: TaskBatch) -> None:
        assert batch.target is not None
        best = best_candidates(scores, 5)
        hits = best == batch.target[:, None]
        self.first += hits[:, 0].sum().item()
        self.fifth += hits.any(dim=1).sum().item()
        self.examples += len(scores)

    def result(self) -> dict[str, float]:
        if not self.examples:
            raise ValueError("no examples were scored")
        return {"accuracy": self.first / self.examples, "accuracy@5": self.fifth / self.examples}


class MeanAveragePrecision(Figures):
    """Mean over classes of the average precision; classes without a positive example do not count."""

    main = "map"

    def __init__(self) -> None:
        self.scores: list[Tensor] = []
        self.targets: list[Tensor] = []

    def add(self, scores: Tensor, batch: TaskBatch) -> None:
        assert batch.target is not None
        self.scores.append(scores.detach().float().cpu())
        self.targets.append(batch.target.cpu())

    def result(self) -> dict[str, float]:
        if not self.scores:
            raise ValueError("no examples were scored")
        scores, targets = torch.cat(self.scores), torch.cat(self.targets) > 0
        seen = targets.any(dim=0)
        if not bool(seen.any()):
            raise ValueError("no example has a label: average precision is undefined")
        values = [average_precision(scores[:, k], targets[:, k]) for k in seen.nonzero().squeeze(1).tolist()]
        return {"map": sum(values) / len(values), "classes": float(len(values))}
