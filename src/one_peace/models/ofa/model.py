"""The model: one table of words, boxes and codes, the encoder that reads and the decoder that writes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from one_peace.modalities.tokenization import PAD_ID
from one_peace.models.ofa.cache import OfaCache
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.decoder import OfaDecoder
from one_peace.models.ofa.encoder import Encoded, OfaEncoder
from one_peace.nn.linear import linear
from one_peace.nn.relative_position import RelativeBias

STD = 0.02  # of initial weights


class OfaModel(nn.Module):
    """OFA: tensors in, tensors out. Encoder, decoder and output share the token table."""

    def __init__(self, config: OfaConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width, padding_idx=PAD_ID)
        self.encoder = OfaEncoder(config)
        self.decoder = OfaDecoder(config)
        for module in self.modules():
            initialize(module)

    def encode(
        self,
        tokens: Tensor,
        pixels: Tensor | None = None,
        pictured: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> Encoded:
        """What the decoder reads of a batch of texts, with or without pictures; arguments as for `OfaEncoder`."""
        encoded: Encoded = self.encoder(self.tokens(tokens), tokens, pixels, pictured, patches)
        return encoded

    def decode(self, previous: Tensor, encoded: Encoded, codes: Tensor | None = None) -> Tensor:
        """Logits (batch, length, vocabulary) of the token after each of `previous` (batch, length), start token first.

        codes: (batch,) bool, True for rows that are image codes.
        """
        return linear(self.decoder(self.tokens(previous), previous, encoded, codes), self.tokens.weight)

    def forward(
        self,
        tokens: Tensor,
        previous: Tensor,
        pixels: Tensor | None = None,
        pictured: Tensor | None = None,
        codes: Tensor | None = None,
        patches: Tensor | None = None,
    ) -> Tensor:
        """Logits (batch, length, vocabulary) of targets, from a source and the targets before them."""
        return self.decode(previous, self.encode(tokens, pixels, pictured, patches), codes)

    def start(self, encoded: Encoded, codes: bool = False) -> OfaCache:
        """A decoder for generation, with one row per input and no tokens yet."""
        return OfaCache(self.decoder, self.tokens.weight, encoded, codes)


def part_of(name: str) -> str:
    """The part that a parameter is in, by its name: token table, image trunk, encoder, decoder."""
    if name.startswith("encoder.trunk."):
        return "image trunk"
    return "token table" if name.startswith("tokens.") else name.partition(".")[0]


def initialize(module: nn.Module) -> None:
    """The published initial values of a layer: normal weights and tables, relative ones included, no bias."""
    with torch.no_grad():
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.normal_(std=STD)
        if isinstance(module, nn.Linear):
            module.bias.zero_()
        if isinstance(module, nn.Embedding) and module.padding_idx is not None:
            module.weight[module.padding_idx].zero_()
        if isinstance(module, RelativeBias):
            for table in module.tables:
                table.normal_(std=STD)
