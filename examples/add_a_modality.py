"""A new modality in one file: accelerometer traces, registered, pretrained against frozen text, searched by text.

Run it: `python examples/add_a_modality.py`. Nothing else of the library knows of this file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from one_peace.errors import InputError
from one_peace.media.sources import describe
from one_peace.modalities import register_modality
from one_peace.modalities.base import Adapter, Embedded, Example, Modality, Processor, SequencePositions
from one_peace.modalities.image import patch_mask
from one_peace.nn.relative_position import RelativeBias, sequence_buckets, sequence_rows


@dataclass(frozen=True)
class MotionConfig:
    """Three axes at any rate, cut into tokens of `window` samples."""

    window: int = 8
    max_tokens: int = 64


class MotionAdapter(Adapter):
    """A linear projection of each window, learned positions, relative bias. Inputs: `trace`, `padding`."""

    def __init__(self, config: MotionConfig, width: int, heads: int, tables: int) -> None:
        super().__init__(width)
        self.project = nn.Linear(3 * config.window, width)
        self.positions = SequencePositions(config.max_tokens + 1, width)
        self.bias = RelativeBias(sequence_rows(32), heads, tables)

    def embed(self, inputs: Mapping[str, Tensor]) -> Embedded:
        trace = inputs["trace"]  # (batch, tokens, 3 * window)
        return Embedded(self.project(trace.to(self.cls.dtype)), inputs["padding"], (trace.shape[1],))

    def place(self, visible: Tensor, padding: Tensor | None, kept: Tensor | None, layout: tuple[int, ...]) -> Tensor:
        positions = self.positions(layout)
        return positions if kept is None else positions[kept]

    def attention_bias(self, layout: tuple[int, ...], kept: Tensor | None) -> list[Tensor]:
        return self.bias(sequence_buckets(32, layout[0] + 1), kept)


class MotionProcessor(Processor):
    """Arrays (samples, 3), or .npy files of such, by path or as bytes -> examples `trace` (tokens, 3 * window)."""

    def __init__(self, config: MotionConfig) -> None:
        self.config = config

    def __call__(self, source: Any) -> Example:
        if isinstance(source, str | Path | bytes):
            name = describe(source)
            try:
                source = np.load(BytesIO(source) if isinstance(source, bytes) else source)
            except (OSError, ValueError, EOFError) as error:
                raise InputError(name, f"holds no array ({error})") from error
        trace = torch.as_tensor(source, dtype=torch.float32)
        if trace.dim() != 2 or trace.shape[1] != 3 or len(trace) < self.config.window or not trace.isfinite().all():
            raise InputError(
                f"trace of shape {tuple(trace.shape)}",
                "needs (samples, 3) finite numbers, one window at least",
            )
        tokens = min(len(trace) // self.config.window, self.config.max_tokens)
        return {"trace": trace[: tokens * self.config.window].reshape(tokens, -1)}

    def length(self, example: Example) -> int:
        return len(example["trace"])

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        lengths = torch.tensor([self.length(e) for e in examples])
        trace = nn.utils.rnn.pad_sequence([e["trace"] for e in examples], batch_first=True)
        return {"trace": trace, "padding": torch.arange(trace.shape[1]) >= lengths[:, None]}

    def mask(self, example: Example, ratio: float, generator: torch.Generator, avoid: Tensor | None = None) -> Tensor:
        return patch_mask(self.length(example), ratio, generator)


class Motion(Modality):
    name = "motion"
    Config = MotionConfig
    endings = ".npy"

    def adapter(self, config: MotionConfig, width: int, heads: int, tables: int) -> MotionAdapter:
        return MotionAdapter(config, width, heads, tables)

    def decoder_positions(self, config: MotionConfig, width: int) -> SequencePositions:
        return SequencePositions(config.max_tokens + 1, width)

    def processor(self, config: MotionConfig, folder: Path | None) -> MotionProcessor:
        return MotionProcessor(config)


register_modality(Motion())


def main(steps: int = 25) -> float:
    """Pretrains three kinds of motion against frozen text; returns the share of new traces whose kind text finds."""
    from one_peace.modalities.text import TextConfig, TextProcessor
    from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
    from one_peace.models.one_peace.interface import OnePeace
    from one_peace.models.one_peace.presets import preset
    from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
    from one_peace.tasks.pretraining import (
        PretrainingStage,
        collate_pairs,
        freeze_for_stage,
        pretraining_losses,
    )

    kinds = {"standing still": 0.0, "walking slowly": 0.2, "running fast": 0.9}
    generator = torch.Generator().manual_seed(0)

    def trace(speed: float) -> Tensor:
        time = torch.arange(80)[:, None] * torch.tensor([1.0, 0.7, 0.4])
        return torch.sin(speed * time + 6 * torch.rand(3, generator=generator)) * (speed > 0) + 0.1 * torch.randn(
            80, 3, generator=generator
        )

    tokenizer = Tokenizer(train_tokenizer([" " + kind for kind in kinds] * 4, 300))
    text = TextConfig(vocab_size=tokenizer.vocab_size)
    config = dataclasses.replace(
        preset("nano", ("text", "motion"), decoder=True),
        layers=2,
        modalities={"text": text, "motion": MotionConfig()},
    )
    torch.manual_seed(0)
    model = OnePeaceForPretraining(config)
    processors = {"text": TextProcessor(text, tokenizer), "motion": MotionProcessor(MotionConfig())}
    stage = PretrainingStage("motion", False, partner_mask=0.5, joint_anchor_mask=0.4, joint_partner_mask=0.5)
    freeze_for_stage(model, stage)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(steps):
        pairs = [(processors["text"](kind), processors["motion"](trace(speed))) for kind, speed in kinds.items()]
        losses = pretraining_losses(model, collate_pairs(pairs, stage, processors, generator), stage)
        optimizer.zero_grad()
        losses["total"].backward()
        optimizer.step()

    embedder = OnePeace(model.encoder, processors)
    texts = embedder.encode_text(list(kinds))
    motions = embedder.encode_modality("motion", [trace(speed) for speed in kinds.values() for _ in range(20)])
    found = embedder.similarity(motions, texts).argmax(dim=1)
    return (found == torch.arange(3).repeat_interleave(20)).float().mean().item()


if __name__ == "__main__":
    print(f"kind of motion found by text: {main():.0%} of 60 new traces (chance 33 %)")
