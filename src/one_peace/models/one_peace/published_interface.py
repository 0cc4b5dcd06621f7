"""The methods of the published package's model object, so that its README runs unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from one_peace.models.embedding import EmbeddingModel
from one_peace.models.inputs import several_texts


class PublishedInterface(EmbeddingModel):
    """`process_*` makes batches, `extract_*_features` unit-length embeddings, both on the model's device."""

    def process_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> token ids (n, longest) int64, padded with 1."""
        return self._collated("text", several_texts(texts))["tokens"]

    def process_image(self, images: Sequence[Any]) -> Tensor:
        """Pictures -> (n, 3, size, size) in the model's dtype."""
        return self._collated("image", images)["pixels"].to(self.encoder.logit_scale.dtype)

    def process_audio(self, sounds: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Sounds -> waveforms (n, samples), first 15 s, and padding masks (n, 1 + frames), True = padding."""
        batch = self._collated("audio", sounds)
        waveform = batch["waveform"].to(self.encoder.logit_scale.dtype)
        padding = batch.get("padding")
        if padding is None:
            frames = self.processors["audio"].length({"waveform": waveform[0]})
            padding = torch.zeros(len(waveform), frames + 1, dtype=torch.bool, device=self.device)
        return waveform, padding

    def extract_text_features(self, src_tokens: Tensor) -> Tensor:
        """Token ids -> (n, dim)."""
        return self.encoder.embed("text", {"tokens": src_tokens})

    def extract_image_features(self, src_images: Tensor) -> Tensor:
        """Pictures -> (n, dim)."""
        return self.encoder.embed("image", {"pixels": src_images})

    def extract_audio_features(self, src_audios: Tensor, audio_padding_masks: Tensor) -> Tensor:
        """Waveforms and padding masks -> (n, dim)."""
        return self.encoder.embed("audio", {"waveform": src_audios, "padding": audio_padding_masks})
