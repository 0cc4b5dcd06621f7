"""The transformer block: shared attention, one feed-forward expert per modality."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from one_peace.nn.attention import Attention
from one_peace.nn.drop_path import DropPath, Kept
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
        self.attention_scale: nn.Parameter | None = None
        self.ffn_scale: nn.Parameter | None = None
        if layer_scale is not None:
            self.attention_scale = nn.Parameter(torch.full((width,), float(layer_scale)))
            self.ffn_scale = nn.Parameter(torch.full((width,), float(layer_scale)))

    def forward(
        self, x: Tensor, bias: Tensor | None, segments: Sequence[tuple[str, int]], queries: int | None = None
    ) -> Tensor:
        """x (batch, tokens, width); `segments` lists (expert, number of tokens) in the order of the tokens.

        With `queries` only the first so many tokens come out, and `segments` covers just those.
        """
        kept = self.drop_path.draw(x)
        if kept is not None and bias is not None and bias.shape[0] > 1:
            bias = bias[kept.samples]
        branch = self.attend(x if kept is None else x[kept.samples], bias, queries)
        x = _add(x if queries is None else x[:, :queries], branch, self.attention_scale, kept)
        kept = self.drop_path.draw(x)
        branch = self.feed(x if kept is None else x[kept.samples], segments)
        return _add(x, branch, self.ffn_scale, kept)

    def attend(self, x: Tensor, bias: Tensor | None, queries: int | None) -> Tensor:
        """The attention branch, (batch, tokens or queries, width)."""
        branch: Tensor = self.attention(self.attention_norm(x), bias, queries)
        return branch

    def feed(self, x: Tensor, segments: Sequence[tuple[str, int]]) -> Tensor:
        """The feed-forward branch, each segment through its own expert, (batch, tokens, width)."""
        y = self.ffn_norm(x)
        if len(segments) == 1:
            branch: Tensor = self.ffn[segments[0][0]](y)
            return branch
        parts = y.split([length for _, length in segments], dim=1)
        return torch.cat([self.ffn[name](part) for (name, _), part in zip(segments, parts, strict=True)], dim=1)


def _add(x: Tensor, branch: Tensor, scale: Tensor | None, kept: Kept | None) -> Tensor:
    """x + scale * branch, the branch being that of the kept samples."""
    branch = branch.to(x.dtype)  # autocast may have it in another dtype than the residual
    if kept is None:  # one pass over memory
        return x + branch if scale is None else torch.addcmul(x, branch, scale.to(x.dtype))
    factor = kept.factor if scale is None else scale.to(x.dtype) * kept.factor
    return x.index_add(0, kept.samples, branch * factor)
