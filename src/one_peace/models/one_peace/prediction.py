"""The model of fine-tuned tasks: an encoder of the modalities that the task reads, and a prediction head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.head import PredictionHead
from one_peace.models.one_peace.model import Backbone, Inputs
from one_peace.nn.initialization import initialize_linear_layers

SECOND_PICTURE = "second_image"  # the key of an example's second picture


class OnePeaceForPrediction(nn.Module):
    """Joint encoding of all modalities of the config, then the head on the features of one of them.

    With two pictures the text is encoded twice, once with each, and embeddings of their role are added to all tokens
    of the text, of both pictures, and once more of the second picture (published for NLVR2).
    """

    def __init__(self, config: OnePeaceConfig) -> None:
        super().__init__()
        head = config.head
        if head is None:
            raise ValueError(f"model {config.name!r} has no head config; prediction needs one")
        if head.reads not in config.modalities:
            raise ValueError(f"the head reads {head.reads!r}; the model has {', '.join(config.modalities)}")
        if head.pictures == 2 and "image" not in config.modalities:
            raise ValueError(f"two pictures need the modality 'image'; the model has {', '.join(config.modalities)}")
        self.config = config
        self.encoder = Backbone(config)
        if head.pooling == "mean":  # the published image classifier pools what the last block gives, before any norm
            self.encoder.fusion.norms[head.reads] = nn.Identity()
        self.roles = nn.ParameterDict()
        if head.pictures == 2:
            names = [*config.modalities, SECOND_PICTURE]
            self.roles.update({name: nn.Parameter(torch.zeros(1, 1, config.width)) for name in names})
        self.head = PredictionHead(head, config.width, config.heads)
        initialize_linear_layers(self, config.width)

    def features(self, inputs: Inputs, second: bool = False) -> tuple[Tensor, Tensor | None]:
        """Features (batch, tokens, width) of the modality that the head reads, and their padding."""
        tokens = self.encoder.arrange(self.encoder.embeddings(inputs))
        for name, part in tokens.items():
            if name in self.roles:
                part.features = part.features + self.roles[name]
            if second and name == "image":
                part.features = part.features + self.roles[SECOND_PICTURE]
        reads = self.head.config.reads
        return self.encoder.fusion(tokens)[reads], tokens[reads].padding

    def forward(self, inputs: Inputs) -> Tensor:
        """Batches by modality, and under `second_image` the other pictures of a pair -> scores (batch, outputs)."""
        first = {name: batch for name, batch in inputs.items() if name != SECOND_PICTURE}
        missing = [name for name in self.config.modalities if name not in first]
        if self.head.config.pictures == 2 and SECOND_PICTURE not in inputs:
            missing.append(SECOND_PICTURE)
        if missing:
            needed = ", ".join(self.config.modalities)
            raise ValueError(f"this model predicts from {needed}; missing: {', '.join(missing)}")
        pooled = [self.head.pool(*self.features(first))]
        if self.head.config.pictures == 2:
            other = {**first, "image": inputs[SECOND_PICTURE]}
            pooled.append(self.head.pool(*self.features(other, second=True)))
        scores: Tensor = self.head(pooled)
        return scores
