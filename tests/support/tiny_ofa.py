"""A random OFA model that answers in milliseconds, with a vocabulary of its own."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import torch

from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.interface import Ofa
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.processor import OfaProcessor
from one_peace.models.ofa.vocabulary import OfaVocabulary

WORDS = 300
CODES, BINS = 32, 20

CONFIG = OfaConfig(
    "tiny",
    width=32,
    heads=2,
    ffn_width=48,
    encoder_layers=2,
    decoder_layers=2,
    trunk=(1, 1, 1),
    vocabulary=WORDS + 1 + CODES + BINS,
    codes=CODES,
    bins=BINS,
    image_size=48,
    box_size=48,
    code_grid=3,
    text_positions=66,
    image_grid=8,
)


@lru_cache
def vocabulary() -> OfaVocabulary:
    texts = ["what does the image describe?", "which region does the text describe?", "a red apple", "two dogs"] * 9
    table = train_tokenizer(texts, WORDS)
    spare = WORDS - table.get_vocab_size()
    assert spare == 0, f"{spare} rows of the vocabulary were not learned"
    return OfaVocabulary(Tokenizer(table), CONFIG)


def tiny_model(seed: int = 0, **changes: Any) -> OfaModel:
    """A model in evaluation mode whose every tensor is random: nothing may be left out unnoticed."""
    torch.manual_seed(seed)
    model = OfaModel(dataclasses.replace(CONFIG, **changes)).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                spread = 0.3 if tensor.dim() > 1 else 0.1
                tensor.copy_(spread * torch.randn(tensor.shape) + (tensor.dim() == 1 and name.endswith("weight")))
                if name.endswith("running_var"):
                    tensor.abs_().add_(0.5)
    return model


def tiny_ofa(**changes: Any) -> Ofa:
    model = tiny_model(**changes)
    return Ofa(model, OfaProcessor(model.config, vocabulary()))
