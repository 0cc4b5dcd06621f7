"""Attention, feed-forward and layers of OFA: pre-norm, with NormFormer's norms and head scales (arXiv 2110.09456)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.models.ofa.config import OfaConfig
from one_peace.nn.activation import gelu_reusing
from one_peace.nn.attention import attend
from one_peace.nn.drop_path import DropPath
from one_peace.nn.feed_forward import PlainFeedForward
from one_peace.nn.linear import Linear

KeysValues = tuple[Tensor, Tensor]
"""Keys and values, each (batch, heads, tokens, head width)."""


class AttentionHeads(nn.Module):
    """What self- and cross-attention share: the weighted sums, the factor per head, the output projection.

    Logits are divided by the root of `position_scale` times the width of a head: twice it, as the position bias has
    the other half.
    """

    def __init__(self, config: OfaConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.factor = config.position_scale**-0.5  # on top of the root that every backend divides by
        self.head_scale = nn.Parameter(torch.ones(config.heads)) if config.head_scale else None
        self.out = Linear(config.width, config.width)

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(batch, tokens, parts * width) -> `parts` times (batch, heads, tokens, head width)."""
        return x.unflatten(2, (parts, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)

    def attend(self, q: Tensor, keys_values: KeysValues, bias: Tensor | None) -> Tensor:
        """q (batch, heads, q, head width), bias broadcastable to (batch, heads, q, k) -> (batch, q, width)."""
        k, v = keys_values
        if bias is not None:
            bias = bias.to(q.dtype)
        heads = attend(q * self.factor, k, v, bias)
        if self.head_scale is not None:
            heads = heads * self.head_scale.to(heads.dtype)[:, None, None]
        return heads.transpose(1, 2).flatten(2)


class SelfAttention(AttentionHeads):
    """Attention of a sequence to itself."""

    def __init__(self, config: OfaConfig) -> None:
        super().__init__(config)
        self.qkv = Linear(config.width, 3 * config.width)

    def forward(self, x: Tensor, bias: Tensor | None, earlier: Callable[..., KeysValues] | None = None) -> Tensor:
        """x (batch, tokens, width), bias broadcastable to (batch, heads, tokens, keys) -> (batch, tokens, width).

        `earlier` takes the keys and values of x and gives those of all tokens so far, x the last of them.
        """
        q, k, v = self.split(self.qkv(x), 3)
        return self.out(self.attend(q, (k, v) if earlier is None else earlier(k, v), bias))


class CrossAttention(AttentionHeads):
    """Attention of the decoder to what the encoder made of an input."""

    def __init__(self, config: OfaConfig) -> None:
        super().__init__(config)
        self.query = Linear(config.width, config.width)
        self.key_value = Linear(config.width, 2 * config.width)

    def keys_values(self, features: Tensor) -> KeysValues:
        """Encoder features (batch, tokens, width) -> what `forward` attends to; once per input."""
        k, v = self.split(self.key_value(features), 2)
        return k, v

    def forward(self, x: Tensor, keys_values: KeysValues, bias: Tensor | None) -> Tensor:
        """x (rows, tokens, width) -> the same shape.

        The rows may be several times as many as the inputs, those of an input next to each other (beams): they share
        its keys and values. bias broadcastable to (inputs, heads, tokens, keys).
        """
        rows, tokens, _ = x.shape
        inputs = keys_values[0].shape[0]
        beams = rows // inputs
        (q,) = self.split(self.query(x).unflatten(0, (inputs, beams)).flatten(1, 2), 1)
        if beams > 1 and tokens > 1 and bias is not None and bias.shape[2] > 1:
            bias = bias[:, :, None].expand(-1, -1, beams, -1, -1).flatten(2, 3)
        return self.out(self.attend(q, keys_values, bias).view(rows, tokens, -1))


class Adapter(nn.Module):
    """A bottleneck with a residual, behind a feed-forward: what adapter tuning trains."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.down = Linear(width, hidden)
        self.up = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up(F.relu(self.down(x)))


class FeedForward(PlainFeedForward):
    """`down(norm(gelu(up(x))))`."""

    def __init__(self, config: OfaConfig) -> None:
        super().__init__(config.width, config.ffn_width)
        self.norm = nn.LayerNorm(config.ffn_width) if config.ffn_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.down(self.norm(gelu_reusing(self.up(x))))


class Layer(nn.Module):
    """What layers of encoder and decoder share: self-attention, feed-forward, and how branches are added."""

    def __init__(self, config: OfaConfig, drop_path: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config)
        self.attention_out_norm = _inner_norm(config)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.ffn = FeedForward(config)
        self.adapter = None if config.adapter_width is None else Adapter(config.width, config.adapter_width)
        self.residual_scale = nn.Parameter(torch.ones(config.width)) if config.residual_scale else None
        self.dropout = nn.Dropout(config.dropout)
        self.drop_path = DropPath(drop_path)

    def add(self, x: Tensor, branch: Callable[[Tensor, Tensor | None], Tensor], scale: Tensor | None = None) -> Tensor:
        """`scale * x` (1 where None) plus `branch(x, samples)`, `samples` being those of the batch that keep it."""
        kept = self.drop_path.draw(x)
        y = branch(x, None) if kept is None else branch(x[kept.samples], kept.samples)
        y = y.to(x.dtype)  # autocast may have it in another dtype than the residual
        x = x if scale is None else x * scale.to(x.dtype)
        return x + y if kept is None else x.index_add(0, kept.samples, y * kept.factor)

    def attend(self, x: Tensor, bias: Tensor | None, earlier: Callable[..., KeysValues] | None = None) -> Tensor:
        """x plus its self-attention branch."""

        def branch(y: Tensor, samples: Tensor | None) -> Tensor:
            y = self.attention(self.attention_norm(y), of_samples(bias, samples), earlier)
            return self.dropout(self.attention_out_norm(y))

        return self.add(x, branch)

    def feed(self, x: Tensor) -> Tensor:
        """x plus its feed-forward branch. The learned scale is on x, as published."""

        def branch(y: Tensor, samples: Tensor | None) -> Tensor:
            y = self.dropout(self.ffn(self.ffn_norm(y)))
            return y if self.adapter is None else self.adapter(y)

        return self.add(x, branch, self.residual_scale)


class EncoderLayer(Layer):
    """Self-attention, feed-forward."""

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (batch, tokens, width), bias (1 or batch, heads, tokens, tokens) -> (batch, tokens, width)."""
        return self.feed(self.attend(x, bias))


class DecoderLayer(Layer):
    """Self-attention, cross-attention, feed-forward."""

    def __init__(self, config: OfaConfig, drop_path: float) -> None:
        super().__init__(config, drop_path)
        self.cross_norm = nn.LayerNorm(config.width)
        self.cross = CrossAttention(config)
        self.cross_out_norm = _inner_norm(config)

    def forward(
        self,
        x: Tensor,
        bias: Tensor,
        inputs: KeysValues,
        input_bias: Tensor,
        earlier: Callable[..., KeysValues] | None = None,
    ) -> Tensor:
        """x (rows, tokens, width) -> the same shape; biases and inputs as the attentions take them."""
        x = self.attend(x, bias, earlier)

        def branch(y: Tensor, samples: Tensor | None) -> Tensor:
            k, v = inputs if samples is None else (inputs[0][samples], inputs[1][samples])
            y = self.cross(self.cross_norm(y), (k, v), of_samples(input_bias, samples))
            return self.dropout(self.cross_out_norm(y))

        return self.feed(self.add(x, branch))


def of_samples(bias: Tensor | None, samples: Tensor | None) -> Tensor | None:
    """The bias of some samples of a batch; one that is shared by all stays as it is."""
    return bias if samples is None or bias is None or bias.shape[0] == 1 else bias[samples]


def _inner_norm(config: OfaConfig) -> nn.Module:
    return nn.LayerNorm(config.width) if config.attention_norm else nn.Identity()
