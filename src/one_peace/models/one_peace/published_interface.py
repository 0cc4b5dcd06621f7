"""The methods of the published package's model object, so that its README runs unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from one_peace.modalities.base import Processor
    from one_peace.models.one_peace.model import OnePeaceEncoder


class PublishedInterface:
    """`process_*` makes batches, `extract_*_features` unit-length embeddings, both on the model's device."""

    encoder: OnePeaceEncoder
    processors: dict[str, Processor]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.logit_scale.device

    def process_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> token ids (n, longest) int64, padded with 1."""
        return self._process("text", texts)["tokens"]

    def process_image(self, images: Sequence[Any]) -> Tensor:
        """Pictures -> (n, 3, size, size) in the model's dtype."""
        return self._process("image", images)["pixels"].to(self.encoder.logit_scale.dtype)

    def process_audio(self, sounds: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Sounds -> waveforms (n, samples), first 15 s, and padding masks (n, 1 + frames), True = padding."""
        batch = self._process("audio", sounds)
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

    def _process(self, name: str, sources: Sequence[Any]) -> dict[str, Tensor]:
        if name not in self.processors:
            raise ValueError(f"this model has no modality {name!r}; it has {', '.join(self.processors)}")
        processor = self.processors[name]
        examples = [processor(source) for source in sources]
        if not examples:
            raise ValueError(f"nothing to encode: the list for {name!r} is empty")
        batch = processor.collate(examples)
        return {key: value.to(self.device) for key, value in batch.items()}
