"""The vision transformer that all knowledge modalities share: EVA-CLIP's (arXiv 2303.15389)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from one_peace.models.mico.config import TowerConfig
from one_peace.models.mico.eva02 import GatedFeedForward
from one_peace.nn.attention import Attention
from one_peace.nn.drop_path import DropPath
from one_peace.nn.feed_forward import PlainFeedForward
from one_peace.nn.rotary import Rotary, grid_rotary

EPS = 1e-6  # of all norms of the tower
STD = 0.02
PUBLISHED_WIDTH = 1408


class TowerBlock(nn.Module):
    """Attention and feed-forward network, each added to its input; the norm comes before or after the branch."""

    def __init__(self, config: TowerConfig, drop_path: float) -> None:
        super().__init__()
        self.norm_first = config.kind != "post_norm"
        eva02 = config.kind == "eva02"
        self.attention_norm = nn.LayerNorm(config.width, eps=EPS)
        self.attention = Attention(config.width, config.heads, norm_eps=EPS if eva02 else None)
        self.ffn_norm = nn.LayerNorm(config.width, eps=EPS)
        self.ffn: nn.Module = (
            GatedFeedForward(config.width, config.ffn_width, EPS)
            if eva02
            else PlainFeedForward(config.width, config.ffn_width)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, rotary: Rotary | None, queries: int | None = None) -> Tensor:
        """x (batch, tokens, width) -> (batch, tokens or the first `queries` of them, width)."""

        def attend(kept: Tensor) -> Tensor:
            if self.norm_first:
                branch: Tensor = self.attention(self.attention_norm(kept), queries=queries, rotary=rotary)
                return branch
            normed: Tensor = self.attention_norm(self.attention(kept, queries=queries, rotary=rotary))
            return normed

        def feed(kept: Tensor) -> Tensor:
            branch: Tensor = self.ffn(self.ffn_norm(kept)) if self.norm_first else self.ffn_norm(self.ffn(kept))
            return branch

        x = self._add(x, attend, queries)
        return self._add(x, feed, None)

    def _add(self, x: Tensor, branch: Callable[[Tensor], Tensor], queries: int | None) -> Tensor:
        kept = self.drop_path.draw(x)
        rest = x if queries is None else x[:, :queries]
        if kept is None:
            return rest + branch(x)
        return rest.index_add(0, kept.samples, (branch(x[kept.samples]) * kept.factor).to(rest.dtype))


class Tower(nn.Module):
    """Patches with learned positions, blocks, a final norm. The class token stands first."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(3, config.width, config.patch, stride=config.patch)
        self.cls = nn.Parameter(torch.zeros(1, 1, config.width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.width))
        rates = [config.drop_path * i / max(1, config.layers - 1) for i in range(config.layers)]
        self.blocks = nn.ModuleList([TowerBlock(config, rate) for rate in rates])
        self.norm = nn.LayerNorm(config.width, eps=EPS)
        self._rotary: Rotary | None = None

    @torch.no_grad()
    def initialise(self) -> None:
        """The published initial values: normal weights of 0.02, the last layer of each branch less with depth.

        Towers of other widths have weights that pass on as much of their input: with 0.02 narrow ones begin slowly.
        """
        std = STD * math.sqrt(PUBLISHED_WIDTH / self.config.width)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.cls, std=STD)
        nn.init.trunc_normal_(self.positions, std=STD)
        for depth, block in enumerate(self.blocks, start=1):
            assert isinstance(block, TowerBlock)
            block.attention.out.weight.div_(math.sqrt(2 * depth))
            last = block.ffn.down
            assert isinstance(last, nn.Linear)
            last.weight.div_(math.sqrt(2 * depth))

    def embed_patches(self, pixels: Tensor) -> Tensor:
        """Pixels (n, 3, size, size) -> patches row by row, (n, grid^2, width), without positions."""
        size = self.config.image_size
        if pixels.shape[1:] != (3, size, size):
            raise ValueError(f"frames of {tuple(pixels.shape[1:])}: this model takes (3, {size}, {size})")
        patches: Tensor = self.patches(pixels.to(self.patches.weight.dtype)).flatten(2).transpose(1, 2)
        return patches

    def forward(self, pixels: Tensor, cls_only: bool = False) -> Tensor:
        """Pixels (n, 3, size, size) -> features after the final norm, (n, 1 + grid^2, width).

        With `cls_only` (n, 1, width): the last block computes the class token alone.
        """
        x = self.embed_patches(pixels)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1).to(x.dtype), x], dim=1) + self.positions.to(x.dtype)
        rotary = self.rotary(x.device)
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x, rotary, 1 if cls_only and number == last else None)
        features: Tensor = self.norm(x)
        return features

    def rotary(self, device: torch.device) -> Rotary | None:
        """The angles of the rotary positions, None for towers without."""
        config = self.config
        if config.kind != "eva02":
            return None
        if self._rotary is None or self._rotary[0].device != device:
            self._rotary = grid_rotary(config.grid, config.width // config.heads, config.rotary_grid, device)
        return self._rotary
