"""ONE-PEACE: adapters, the fusion encoder, projections into the shared space (arXiv 2305.11172, section 3)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.modalities import get_modality
from one_peace.modalities.base import Adapter, Embedded, Tokens
from one_peace.models.inputs import check_modalities
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.encoder import FusionEncoder
from one_peace.nn.initialization import initialize_linear_layers
from one_peace.nn.linear import Linear

Inputs = Mapping[str, Mapping[str, Tensor]]
"""Modality name -> batch of that modality, as its processor collates it."""

MAX_LOGIT_SCALE = math.log(100)


class Backbone(nn.Module):
    """Adapters and the fusion encoder: single-device mathematics, tensors in, tensors out.

    Models are built on it; each of them initialises its linear layers once all of them exist.
    """

    def __init__(self, config: OnePeaceConfig) -> None:
        super().__init__()
        if not config.modalities:
            raise ValueError("a model needs at least one modality")
        self.config = config
        names = list(config.modalities)
        self.adapters = nn.ModuleDict(
            {
                name: get_modality(name).adapter(settings, config.width, config.heads, config.bias_tables)
                for name, settings in config.modalities.items()
            }
        )
        self.fusion = FusionEncoder(
            config.width,
            config.layers,
            config.heads,
            config.ffn_width,
            names,
            config.layer_scale,
            config.drop_path,
        )

    def adapter(self, name: str) -> Adapter:
        """The adapter of one modality."""
        found = self.adapters[name]
        assert isinstance(found, Adapter)
        return found

    def embeddings(self, inputs: Inputs) -> dict[str, Embedded]:
        """Each modality's token features, in the model's order of concatenation."""
        check_modalities(inputs, self.adapters, self.config.name)
        return {name: self.adapter(name).embed(inputs[name]) for name in self.adapters if name in inputs}

    def arrange(
        self, embeddings: Mapping[str, Embedded], keep: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tokens]:
        """Token features -> the fusion encoder's input; `keep` as in `Adapter.arrange`, per modality."""
        keep = keep or {}
        return {name: self.adapter(name).arrange(e, keep.get(name)) for name, e in embeddings.items()}

    def forward(self, inputs: Inputs) -> dict[str, Tensor]:
        """Joint encoding of one or more modalities -> features (batch, tokens, width) of each, cls first."""
        features: dict[str, Tensor] = self.fusion(self.arrange(self.embeddings(inputs)))
        return features

    def patch_grids(self, pixels: Tensor, blocks: Collection[int]) -> list[Tensor]:
        """Dense features of pictures (batch, 3, height, width), for segmentation, detection and the like.

        Sides are multiples of 16, square or not. One map (batch, width, height / 16, width / 16) for each of the
        blocks, which count from 0, in their order; they come before the final norm.

        Raises:
            ValueError: no block is asked for, or one that is not there.
        """
        layers = len(self.fusion.blocks)
        if not blocks or not all(0 <= number < layers for number in blocks):
            raise ValueError(f"blocks are some of 0 to {layers - 1}, not {sorted(blocks)}")
        tokens = self.arrange(self.embeddings({"image": {"pixels": pixels}}))["image"]
        height, width = tokens.layout
        found = self.fusion.after_blocks("image", tokens, blocks)
        return [x[:, 1:].transpose(1, 2).unflatten(2, (height, width)) for x in found]


class OnePeaceEncoder(Backbone):
    """The backbone with a projection of every modality into the shared space, and the temperature of its contrast."""

    def __init__(self, config: OnePeaceConfig) -> None:
        super().__init__(config)
        self.projections = nn.ModuleDict({name: Linear(config.width, config.width) for name in config.modalities})
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        initialize_linear_layers(self, config.width)

    def embed(self, name: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """Unit-length embeddings (batch, width) of one modality in the shared space."""
        tokens = self.arrange(self.embeddings({name: inputs}))[name]
        return self.project(name, self.fusion.cls(name, tokens))

    def project(self, name: str, features: Tensor) -> Tensor:
        """Features (batch, tokens, width) -> the cls position in the shared space, unit length."""
        return F.normalize(self.projections[name](features[:, 0]), dim=1)

    def temperature(self) -> Tensor:
        """The factor on cosine similarities, exp(logit_scale), with logit_scale clamped in place to [0, ln 100]."""
        with torch.no_grad():
            self.logit_scale.clamp_(0.0, MAX_LOGIT_SCALE)
        return self.logit_scale.exp()
