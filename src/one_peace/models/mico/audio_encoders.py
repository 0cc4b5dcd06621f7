"""The audio encoders that the published captioners have beside the tower: BEATs and AST.

Both take spectrograms of slices of sound and give a sequence of features; they differ in where norms and positions are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.models.mico.config import AstConfig, BeatsConfig
from one_peace.models.mico.text import SelfAttention
from one_peace.nn.attention import attend
from one_peace.nn.feed_forward import PlainFeedForward
from one_peace.nn.linear import Linear

PATCH = 16  # mel bins and frames
AST_EPS = 1e-12
GATE_GROUP = 4  # values that are summed to one of the two gates of BEATs


def distance_buckets(tokens: int, buckets: int, max_distance: int) -> Tensor:
    """Buckets of key minus query for pairs of tokens, (tokens, tokens) int64: T5's, a half for each direction.

    The nearer half of each has a bucket for every distance, the others share logarithmically spaced ones.
    """
    places = torch.arange(tokens)
    offset = places[None, :] - places[:, None]
    half = buckets // 2
    exact = half // 2
    distance = offset.abs()
    # float32 throughout: the published buckets depend on its rounding
    scaled = torch.log(distance.float() / exact) / math.log(max_distance / exact) * (half - exact)
    far = (exact + scaled.clamp(min=0).to(torch.int64)).clamp(max=half - 1)
    return (offset > 0) * half + torch.where(distance < exact, distance, far)


class WeightNormConvolution(nn.Module):
    """Grouped convolution along a sequence whose kernel is `direction` of unit length per place, times `scale`."""

    def __init__(self, width: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.direction = nn.Parameter(torch.zeros(width, width // groups, kernel))
        self.scale = nn.Parameter(torch.ones(1, 1, kernel))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> the same."""
        kernel = self.direction.shape[2]
        weight = self.direction * (self.scale / self.direction.norm(dim=(0, 1), keepdim=True))
        y = F.conv1d(x.transpose(1, 2), weight, self.bias, padding=kernel // 2, groups=self.groups)
        return y[:, :, : x.shape[1]].transpose(1, 2)  # an even kernel gives one more


class GatedBiasAttention(nn.Module):
    """Self-attention with a position bias that each query weighs by a gate of its own."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width)
        self.gate = Linear(width // heads, 2 * GATE_GROUP)
        self.gate_scale = nn.Parameter(torch.ones(1, heads, 1, 1))
        self.out = Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x (batch, tokens, width), bias (heads, tokens, tokens) -> (batch, tokens, width)."""
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        gates = self.gate(q).unflatten(-1, (2, GATE_GROUP)).sum(-1).sigmoid()  # (batch, heads, tokens, 2)
        first, second = gates.chunk(2, dim=-1)
        strength = first * (second * self.gate_scale - 1.0) + 2.0
        bias = (strength * bias).to(q.dtype)  # which is autocast's and not that of x
        return self.out(attend(q, k, v, bias).transpose(1, 2).reshape(batch, tokens, width))


class BeatsBlock(nn.Module):
    """Attention and feed-forward network, the norm after each sum, in which the input counts `alpha` times."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.alpha = (2 * config.layers) ** 0.25
        self.attention = GatedBiasAttention(config.width, config.heads)
        self.attention_norm = nn.LayerNorm(config.width)
        self.ffn = PlainFeedForward(config.width, config.ffn_width)
        self.ffn_norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.attention_norm(x * self.alpha + self.attention(x, bias))
        y: Tensor = self.ffn_norm(x * self.alpha + self.ffn(x))
        return y


class Beats(nn.Module):
    """BEATs: patches of 16 x 16, a convolution for positions, blocks that share a table of relative positions."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(1, config.patch_width, PATCH, stride=PATCH, bias=False)
        self.patches_norm = nn.LayerNorm(config.patch_width)
        self.projection = Linear(config.patch_width, config.width)
        self.positions = WeightNormConvolution(config.width, config.position_kernel, config.position_groups)
        self.norm = nn.LayerNorm(config.width)
        # given its values, a table does not draw its own: on the meta device that would import PyTorch's compiler
        self.bias = nn.Embedding(config.buckets, config.heads, _weight=torch.zeros(config.buckets, config.heads))
        self.blocks = nn.ModuleList([BeatsBlock(config) for _ in range(config.layers)])

    def position_bias(self, tokens: int) -> Tensor:
        """(heads, tokens, tokens), before the gates."""
        buckets = distance_buckets(tokens, self.config.buckets, self.config.max_distance)
        table: Tensor = self.bias(buckets.to(self.bias.weight.device))
        return table.permute(2, 0, 1)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Spectrograms (n, frames, mel bins) -> (n, tokens, width), tokens in the order of time, then of mel."""
        patches = self.patches(spectrograms[:, None].to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        x = self.projection(self.patches_norm(patches))
        x = self.norm(x + F.gelu(self.positions(x)))
        bias = self.position_bias(x.shape[1])
        for block in self.blocks:
            x = block(x, bias)
        return x

    @staticmethod
    def pool(features: Tensor) -> Tensor:
        """(inputs, slices, tokens, width) -> (inputs, width): the mean of all."""
        return features.mean(dim=2).mean(dim=1)


class AstBlock(nn.Module):
    """Norm, attention, norm, feed-forward network, each branch added to its input."""

    def __init__(self, config: AstConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, eps=AST_EPS)
        self.attention = SelfAttention(config.width, config.heads)
        self.ffn_norm = nn.LayerNorm(config.width, eps=AST_EPS)
        self.ffn = PlainFeedForward(config.width, config.ffn_width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), None)
        y: Tensor = x + self.ffn(self.ffn_norm(x))
        return y


class Ast(nn.Module):
    """AST: patches of 16 x 16 with learned positions and a class token, as pictures."""

    def __init__(self, config: AstConfig) -> None:
        super().__init__()
        self.config = config
        tokens = 1 + config.mel_bins // PATCH * (config.frames // PATCH)
        self.patches = nn.Conv2d(1, config.width, PATCH, stride=PATCH)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(tokens, config.width))
        self.blocks = nn.ModuleList([AstBlock(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width, eps=AST_EPS)

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Spectrograms (n, frames, mel bins) -> (n, 1 + tokens, width), class token first, then in the order of mel."""
        pixels = spectrograms[:, None].transpose(2, 3).to(self.patches.weight.dtype)
        x = self.patches(pixels).flatten(2).transpose(1, 2)
        if x.shape[1] + 1 != self.positions.shape[0]:
            size = f"{self.config.frames} frames of {self.config.mel_bins} mel bins"
            raise ValueError(f"slices of {tuple(spectrograms.shape[1:])}: this model takes {size}")
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1) + self.positions.to(x.dtype)
        for block in self.blocks:
            x = block(x)
        features: Tensor = self.norm(x)
        return features

    @staticmethod
    def pool(features: Tensor) -> Tensor:
        """(inputs, slices, tokens, width) -> (inputs, width): the class token, mean over slices."""
        return features[:, :, 0].mean(dim=1)
