"""The transformer block: shared attention, one feed-forward expert per modality."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from one_peace.nn.attention import Attention
from one_peace.nn.drop_path import DropPath
from one_peace.nn.feed_forward import FeedForward


class Block(nn.Module):
    """Pre-norm block (paper, figure 2): attention over all tokens, then each segment through its own expert."""

    def __init__(
        self,
        width: int,
        heads: int,
        ffn_width: int,
        experts: Sequence[str],
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn = nn.ModuleDict({name: FeedForward(width, ffn_width) for name in experts})
        self.drop_path = DropPath(drop_path)
        if layer_scale is None:
            self.register_parameter("attention_scale", None)
            self.register_parameter("ffn_scale", None)
        else:
            self.attention_scale = nn.Parameter(torch.full((width,), layer_scale))
            self.ffn_scale = nn.Parameter(torch.full((width,), layer_scale))

    def forward(self, x: Tensor, bias: Tensor | None, segments: Sequence[tuple[str, int]]) -> Tensor:
        """x (batch, tokens, width); `segments` lists (expert, number of tokens) in the order of the tokens."""
        branch = self.attention(self.attention_norm(x), bias)
        x = x + self.drop_path(branch if self.attention_scale is None else self.attention_scale * branch)
        y = self.ffn_norm(x)
        parts = y.split([length for _, length in segments], dim=1)
        outputs = [self.ffn[name](part) for (name, _), part in zip(segments, parts, strict=True)]
        branch = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)
        return x + self.drop_path(branch if self.ffn_scale is None else self.ffn_scale * branch)
