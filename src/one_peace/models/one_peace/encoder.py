"""The fusion encoder: one transformer over the tokens of any mix of modalities."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from one_peace.modalities.base import Tokens
from one_peace.nn.block import Block


class FusionEncoder(nn.Module):
    """Blocks with shared attention and an expert per modality, then a final norm per modality (paper, figure 2)."""

    def __init__(
        self,
        width: int,
        layers: int,
        heads: int,
        ffn_width: int,
        modalities: Sequence[str],
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        rates = torch.linspace(0, drop_path, layers, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(width, heads, ffn_width, modalities, layer_scale, rate) for rate in rates)
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name in modalities})

    def forward(self, sequences: Mapping[str, Tokens]) -> dict[str, Tensor]:
        """Tokens of one or more modalities -> features (batch, tokens, width) of each, after its final norm."""
        segments = [(name, tokens.features.shape[1]) for name, tokens in sequences.items()]
        x, biases = self._start(sequences)
        for block, bias in zip(self.blocks, biases, strict=True):
            x = block(x, bias, segments)
        parts = x.split([length for _, length in segments], dim=1)
        return {name: self.norms[name](part) for (name, _), part in zip(segments, parts, strict=True)}

    def cls(self, name: str, tokens: Tokens, first: int = 0) -> Tensor:
        """Tokens of one modality -> its cls feature (batch, 1, width): the last block computes nothing else.

        The features of `tokens` are what goes into the block of number `first`.
        """
        x, biases = self._start({name: tokens})
        for block, bias in zip(self.blocks[first:-1], biases[first:-1], strict=True):
            x = block(x, bias, [(name, x.shape[1])])
        feature: Tensor = self.norms[name](self.blocks[-1](x, biases[-1], [(name, 1)], queries=1))
        return feature

    def after_blocks(self, name: str, tokens: Tokens, numbers: Collection[int]) -> list[Tensor]:
        """Tokens of one modality -> what comes out of some blocks, counted from 0, in the order of the blocks: each
        (batch, tokens, width), before any final norm. Nothing is computed beyond the last of them. Number -1 is what
        goes into the first block."""
        x, biases = self._start({name: tokens})
        found = [x] if -1 in numbers else []
        for number in range(max(numbers) + 1):
            x = self.blocks[number](x, biases[number], [(name, x.shape[1])])
            if number in numbers:
                found.append(x)
        return found

    def _start(self, sequences: Mapping[str, Tokens]) -> tuple[Tensor, list[Tensor | None]]:
        """The joint sequence (batch, tokens, width) and the attention bias of every block."""
        parts = list(sequences.values())
        x = parts[0].features if len(parts) == 1 else torch.cat([part.features for part in parts], dim=1)
        padding = joint_padding(parts)
        if padding is not None:
            x = x.masked_fill(padding[:, :, None], 0.0)
        biases = joint_bias(parts, padding, x.dtype)
        return x, biases if len(biases) > 1 else biases * len(self.blocks)


def joint_padding(sequences: Sequence[Tokens]) -> Tensor | None:
    """Padding of the concatenated sequences (batch, tokens), or None when nothing is padded."""
    if all(s.padding is None for s in sequences):
        return None
    masks = [
        s.features.new_zeros(s.features.shape[:2], dtype=torch.bool) if s.padding is None else s.padding
        for s in sequences
    ]
    padding = torch.cat(masks, dim=1)
    # Looking at the values would stall an accelerator; on a CPU it saves a bias per sample.
    return None if padding.device.type == "cpu" and not padding.any() else padding


def joint_bias(sequences: Sequence[Tokens], padding: Tensor | None, dtype: torch.dtype) -> list[Tensor | None]:
    """Attention bias of the concatenation per table: blocks on the diagonal, 0 elsewhere, -inf on padded keys."""
    tables = max(len(s.bias) for s in sequences)
    hidden = None if padding is None else padding[:, None, None, :]
    if not tables:
        if hidden is None:
            return [None]
        return [torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, -math.inf)]
    joined: list[Tensor | None] = []
    for table in range(tables):
        bias = block_diagonal(sequences, table).to(dtype)
        joined.append(bias if hidden is None else bias.masked_fill(hidden, -math.inf))
    return joined


def block_diagonal(sequences: Sequence[Tokens], table: int) -> Tensor:
    """(1 or batch, heads, tokens, tokens) with each modality's bias in its own block."""
    if len(sequences) == 1:
        return sequences[0].bias[table]
    lengths = [s.features.shape[1] for s in sequences]
    like = next(s.bias[table] for s in sequences if s.bias)
    batch = max(s.bias[table].shape[0] for s in sequences if s.bias)
    bias = like.new_zeros(batch, like.shape[1], sum(lengths), sum(lengths))
    start = 0
    for sequence, length in zip(sequences, lengths, strict=True):
        if sequence.bias:
            bias[:, :, start : start + length, start : start + length] = sequence.bias[table]
        start += length
    return bias
