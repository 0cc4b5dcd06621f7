"""A random pretraining model that takes a step in milliseconds, and pairs to train it on."""

from __future__ import annotations

import torch

from one_peace.modalities.audio import AudioConfig, AudioProcessor, wave_convolutions
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.image import ImageConfig, ImageProcessor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models.one_peace.config import DecoderConfig, OnePeaceConfig
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining

CAPTIONS = (
    "a red apple on a tree",
    "two boats",
    "the old white horse runs",
    "lamp",
    "blue shoes on the floor",
)

CONFIG = OnePeaceConfig(
    "tiny",
    width=32,
    layers=2,
    heads=2,
    ffn_width=32,
    modalities={
        "text": TextConfig(vocab_size=300),
        "image": ImageConfig(64, 4, 4),
        "audio": AudioConfig(wave_convolutions(8, 7), 2, 6, 4, 16),
    },
    layer_scale=1.0,
    decoder=DecoderConfig(16, 1, 2, 32),
)


def tiny_model(seed: int = 0, config: OnePeaceConfig = CONFIG) -> OnePeaceForPretraining:
    torch.manual_seed(seed)
    return OnePeaceForPretraining(config)


def tiny_processors() -> dict[str, Processor]:
    text, image, audio = (CONFIG.modalities[name] for name in ("text", "image", "audio"))
    tokenizer = Tokenizer(train_tokenizer([f" {c}" for c in CAPTIONS] * 3, 300))
    return {
        "text": TextProcessor(text, tokenizer),
        "image": ImageProcessor(image),
        "audio": AudioProcessor(audio),
    }


def tiny_pairs(processors: dict[str, Processor], partner: str, seed: int = 0) -> list[tuple[Example, Example]]:
    """Each caption with its own constant colour or pitch, and some noise; sounds differ in length."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for number, caption in enumerate(CAPTIONS):
        if partner == "image":
            colour = torch.randn(3, 1, 1, generator=torch.Generator().manual_seed(number))
            made = {"pixels": 2 * colour + 0.2 * torch.randn(3, 64, 64, generator=generator)}
        else:
            time = torch.arange(16000 + 2000 * number) / 16000
            tone = torch.sin(6.28 * 100 * 2**number * time)
            made = {"waveform": tone + 0.1 * torch.randn(len(time), generator=generator)}
        pairs.append((processors["text"](caption), made))
    return pairs
