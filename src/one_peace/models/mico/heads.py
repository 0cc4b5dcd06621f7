"""From features to embeddings, memories and matching scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.nn.linear import Linear
from one_peace.nn.resize import resize_frames

EPS = 1e-12
STD = 0.02


class Matching(nn.Module):
    """Whether a text and a memory belong together: logits of no and yes, from the state of the first token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.out = Linear(width, 2)

    def forward(self, cls: Tensor) -> Tensor:
        """(rows, width) -> (rows, 2)."""
        return self.out(self.norm(F.gelu(self.dense(cls))))


class MemoryProjection(nn.Module):
    """Features of one branch as a part of the memory: projected, normed, marked by frame and by branch."""

    def __init__(self, features: int, width: int, frames: int) -> None:
        """`frames`: rows of the table of frame embeddings, 0 for none."""
        super().__init__()
        self.projection = Linear(features, width)
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.frames = nn.Parameter(_normal(1, frames, width)) if frames else None
        self.kind = nn.Parameter(_normal(1, 1, width))

    def forward(self, features: Tensor) -> Tensor:
        """(inputs, frames, tokens, features) -> (inputs, frames * tokens, width)."""
        x = self.norm(self.projection(features))
        if self.frames is not None:
            x = x + resize_frames(self.frames, x.shape[1])[:, :, None]
        return x.flatten(1, 2) + self.kind


def _normal(*shape: int) -> Tensor:
    values = torch.empty(*shape)
    return values if values.is_meta else values.normal_(std=STD)  # on meta it would import PyTorch's compiler
