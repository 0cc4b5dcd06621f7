"""The class that users of ONE-PEACE hold: raw inputs in, unit-length embeddings out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from one_peace.modalities.base import Processor
from one_peace.models.inputs import list_inputs
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.published_interface import PublishedInterface


class OnePeace(PublishedInterface):
    """A ONE-PEACE encoder with its processors.

    Every `encode_*` method takes one input or a list of them and returns float32 unit-length rows (n, dim) on the
    CPU. Inputs of different lengths are batched together by length; padding never changes a result.
    """

    def __init__(self, encoder: OnePeaceEncoder, processors: Mapping[str, Processor]) -> None:
        self.encoder = encoder.eval().requires_grad_(False)
        self.processors = dict(processors)

    @property
    def config(self) -> OnePeaceConfig:
        """Shape and name of the model."""
        return self.encoder.config

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return self.config.width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.logit_scale.device

    @property
    def dtype(self) -> torch.dtype:
        """That of the weights; embeddings are float32 whatever it is."""
        return self.encoder.logit_scale.dtype

    @torch.no_grad()  # no inference_mode: a head may be trained on what comes out
    def features(self, **inputs: Any) -> dict[str, Tensor]:
        """Joint encoding: token features (n, tokens, dim) of each modality, cls first, after its final norm.

        Every modality gets the same number of inputs; row i of all of them is encoded as one sequence. Of an input over
        the model's limit the beginning counts alone. Padded positions hold arbitrary values.
        """
        batches, counts = {}, set()
        for name, given in inputs.items():
            sources = list_inputs(given)
            counts.add(len(sources))
            batches[name] = self._collated(name, sources)
        if len(counts) != 1:
            raise ValueError(f"joint encoding needs equally many inputs of every modality, got {sorted(counts)}")
        joint: dict[str, Tensor] = self.encoder(batches)
        return joint
