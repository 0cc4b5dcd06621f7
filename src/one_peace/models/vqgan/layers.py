"""What encoder and decoder are built of."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.models.vqgan.config import GROUPS


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(GROUPS, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside a shortcut, (batch, inputs, h, w) -> (batch, outputs, h, w)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class PixelAttention(nn.Module):
    """Every place attends to every other, one head, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.query, self.key = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.value, self.out = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        q, k, v = (part(y).flatten(2).mT for part in (self.query, self.key, self.value))  # (batch, h * w, channels)
        mixed = F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        return x + self.out(mixed.mT.unflatten(2, x.shape[2:]))


class Halving(nn.Conv2d):
    """Half the resolution; a row and a column of zeros are added on the right and below, as published."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (0, 1, 0, 1)))


class Doubling(nn.Conv2d):
    """Twice the resolution, each pixel repeated and then convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """Blocks of one resolution, each with attention behind it where the level has any, and the step to the next."""

    def __init__(self, inputs: int, outputs: int, blocks: int, attention: bool, step: nn.Module) -> None:
        super().__init__()
        widths = [inputs] + [outputs] * blocks
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.attention = nn.ModuleList(PixelAttention(outputs) for _ in range(blocks if attention else 0))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        for index, block in enumerate(self.blocks):
            x = block(x)
            if len(self.attention):
                x = self.attention[index](x)
        return self.step(x)


class Middle(nn.Module):
    """Block, attention, block at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.attention = ResidualBlock(channels, channels), PixelAttention(channels)
        self.second = ResidualBlock(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.attention(self.first(x)))
