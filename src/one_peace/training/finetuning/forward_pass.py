"""The scores of a batch as one forward pass: of the whole model, or of its head on features that are computed once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from one_peace.models.one_peace.prediction import SECOND_PICTURE, OnePeaceForPrediction
from one_peace.tasks.task import TaskBatch
from one_peace.training.forward_pass import ForwardPass

CACHE_BYTES = 4 << 30  # of features kept in memory; those beyond are computed again


class PredictionPass(ForwardPass):
    """The scores of a batch by the whole model."""

    model: OnePeaceForPrediction

    def forward(self, batch: TaskBatch) -> Tensor:
        """(rows, outputs) float32."""
        with self.precision:
            scores: Tensor = self.model(batch.inputs)
        return scores.float()


class FrozenPredictionPass(PredictionPass):
    """The head on features of an encoder that does not change: each example's are computed the first time it comes.

    Features are kept in float16, by the example's key, without their padding.
    """

    def __init__(self, model: OnePeaceForPrediction) -> None:
        super().__init__(model)
        self.kept: dict[str, list[Tensor]] = {}  # row -> features (tokens, width) of each of its pictures
        self.room = CACHE_BYTES

    def forward(self, batch: TaskBatch) -> Tensor:
        rows = self._rows(batch)
        made: dict[str, list[Tensor]] = {}
        if any(row not in self.kept for row in rows):
            made = dict(zip(rows, self._features(batch), strict=True))
            for row, features in made.items():
                size = sum(f.numel() * f.element_size() for f in features)
                if row not in self.kept and size <= self.room:
                    self.kept[row] = [f.cpu() for f in features]
                    self.room -= size
        device = next(self.model.head.parameters()).device
        found = [self.kept.get(row) or made[row] for row in rows]
        with self.precision:
            pooled = [self._pool([features[k].to(device) for features in found]) for k in range(len(found[0]))]
            scores: Tensor = self.model.head(pooled)
        return scores.float()

    def _rows(self, batch: TaskBatch) -> list[str]:
        """A name for every row of the scores: examples with several candidate answers have several rows."""
        count = next(iter(next(iter(batch.inputs.values())).values())).shape[0]
        return [f"{key}#{number}" for key in batch.keys for number in range(count // len(batch.keys))]

    @torch.no_grad()
    def _features(self, batch: TaskBatch) -> list[list[Tensor]]:
        """Features of every row and picture, without padding."""
        inputs = {name: given for name, given in batch.inputs.items() if name != SECOND_PICTURE}
        variants = [(inputs, False)]
        if self.model.head.config.pictures == 2:
            variants.append(({**inputs, "image": batch.inputs[SECOND_PICTURE]}, True))
        training, made = self.model.training, []
        self.model.eval()
        for given, second in variants:
            with self.precision:
                features, padding = self.model.features(given, second)
            lengths = [features.shape[1]] * len(features) if padding is None else (~padding).sum(dim=1).tolist()
            made.append([row[:length].half() for row, length in zip(features, lengths, strict=True)])
        self.model.train(training)
        return [list(row) for row in zip(*made, strict=True)]

    def _pool(self, features: list[Tensor]) -> Tensor:
        lengths = torch.tensor([len(f) for f in features], device=features[0].device)
        padded = nn.utils.rnn.pad_sequence([f.float() for f in features], batch_first=True)
        places = torch.arange(padded.shape[1], device=padded.device)
        padding = places >= lengths[:, None]
        pooled: Tensor = self.model.head.pool(padded, padding if bool(padding.any()) else None)
        return pooled
