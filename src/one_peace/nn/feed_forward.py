"""The gated feed-forward network: one per modality in every block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class FeedForward(nn.Module):
    """GeGLU with a layer norm on the hidden features: `down(norm(gelu(gate(x)) * up(x)))` (paper, section 3.2)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.down(self.norm(F.gelu(self.gate(x)) * self.up(x)))
