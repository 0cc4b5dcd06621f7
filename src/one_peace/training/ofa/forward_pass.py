"""What is computed of an OFA model in training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from one_peace.models.ofa.layers import Layer
from one_peace.models.ofa.model import OfaModel
from one_peace.tasks.ofa.example import SequenceBatch
from one_peace.training.forward_pass import ForwardPass


class OfaPass(ForwardPass):
    """The logits of targets."""

    model: OfaModel
    others = ("within",)
    recomputed = (Layer,)

    def __init__(self, model: OfaModel, freeze_norms: bool = False) -> None:
        super().__init__(model)
        self.freeze_norms = freeze_norms

    def forward(self, batch: SequenceBatch, patches: Tensor | None = None, copies: int = 1) -> Tensor:
        """(rows, length, vocabulary). With `copies` each input has so many targets, next to each other."""
        with self.precision:
            encoded = self.model.encode(batch.source, batch.pixels, batch.pictured, patches)
            if copies > 1:
                rows = torch.arange(len(batch.source), device=batch.source.device)
                encoded = encoded.rows(rows.repeat_interleave(copies))
            codes = batch.codes if bool(batch.codes.any()) else None
            return self.model.decode(batch.previous, encoded, codes)

    def within(self, work: Callable[[], list[Any]]) -> list[Any]:
        """Work on the whole weights, as generation is, which is no single forward pass."""
        with self.precision:
            return work()

    def train(self, mode: bool = True) -> OfaPass:
        """As for any module, but frozen norms go on using the statistics that they have."""
        super().train(mode)
        if self.freeze_norms:
            for norm in norms_of(self.model):
                norm.eval()
        return self


def norms_of(model: nn.Module) -> Iterator[nn.BatchNorm2d]:
    """The batch norms of the image trunk."""
    return (module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
