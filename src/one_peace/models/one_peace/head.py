"""Prediction heads: features of the encoder -> class scores, answer scores or box coordinates (paper, section 4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.models.one_peace.config import HeadConfig
from one_peace.nn.initialization import truncated_normal_
from one_peace.nn.linear import Linear


class AttentionPooling(nn.Module):
    """One learned, unscaled query per head over a sequence."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(truncated_normal_(torch.empty(1, 1, heads, width // heads)))
        self.key = Linear(width, width, bias=False)
        self.value = Linear(width, width)
        self.out = Linear(width, width)

    def forward(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """(batch, tokens, width), padding (batch, tokens) bool or None -> (batch, width)."""
        batch, tokens, width = features.shape
        query = self.query.transpose(1, 2).expand(batch, -1, -1, -1)  # (batch, heads, 1, head width)
        split = (batch, tokens, query.shape[1], query.shape[3])
        key = self.key(features).view(split).transpose(1, 2)
        value = self.value(features).view(split).transpose(1, 2)
        mask = None if padding is None else ~padding[:, None, None, :]
        pooled = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
        out: Tensor = self.out(pooled.transpose(1, 2).reshape(batch, width))
        return out


class PredictionHead(nn.Module):
    """Pooling, then a two-layer classifier or a linear one."""

    def __init__(self, config: HeadConfig, width: int, heads: int) -> None:
        super().__init__()
        self.config = config
        self.pooling = AttentionPooling(width, heads) if config.pooling == "attention" else None
        self.norm = None if config.pooling == "cls" else nn.LayerNorm(width)
        self.pooler = Linear(width, width) if config.pooler else None
        joined = config.pictures * width
        self.hidden = Linear(joined, config.hidden) if config.hidden else None
        self.hidden_norm = nn.LayerNorm(config.hidden) if config.hidden else None
        self.out = Linear(config.hidden or joined, config.outputs)

    def pool(self, features: Tensor, padding: Tensor | None) -> Tensor:
        """Features (batch, tokens, width), cls first, and their padding -> one vector each, (batch, width)."""
        rest, hidden = features[:, 1:], None if padding is None else padding[:, 1:]
        if self.pooling is not None:
            pooled = self.pooling(rest, hidden)
        elif self.config.pooling == "cls":
            pooled = features[:, 0]
        elif hidden is None:
            pooled = rest.mean(dim=1)
        else:
            pooled = rest.masked_fill(hidden[:, :, None], 0).sum(dim=1) / (~hidden).sum(dim=1, keepdim=True)
        if self.norm is not None:
            pooled = self.norm(pooled)
        return pooled if self.pooler is None else torch.tanh(self.pooler(pooled))

    def forward(self, pooled: list[Tensor]) -> Tensor:
        """The pooled vector of each picture's encoding, (batch, width) -> scores (batch, outputs)."""
        x = pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)
        if self.hidden is not None and self.hidden_norm is not None:
            x = F.gelu(self.hidden_norm(self.hidden(x)))
        scores: Tensor = self.out(x)
        return scores
