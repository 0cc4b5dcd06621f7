"""What is computed of a model in pretraining."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import Contrast, PretrainingBatch, PretrainingStage, pretraining_losses
from one_peace.training.forward_pass import ForwardPass


class PretrainingPass(ForwardPass):
    """The pretraining losses of a batch."""

    model: OnePeaceForPretraining
    others = ("embed",)

    def __init__(self, model: OnePeaceForPretraining, stage: PretrainingStage) -> None:
        super().__init__(model)
        self.stage = stage

    def forward(self, batch: PretrainingBatch, contrast: Contrast, denoise: bool) -> dict[str, Tensor]:
        with self.precision:
            return pretraining_losses(self.model, batch, self.stage, contrast, denoise)

    def embed(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit-length embeddings (batch, dim) of one modality; as a forward pass, so it works on sharded weights."""
        encoder = self.model.encoder
        with self.precision:
            # The blocks run as in training; `encoder.embed` computes the last one in a way that sharding cannot see.
            return encoder.project(name, encoder({name: inputs})[name])
