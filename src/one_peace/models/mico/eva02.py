"""What EVA-02 towers (arXiv 2303.11331) have in place of the plain feed-forward network."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from one_peace.nn.linear import Linear


class GatedFeedForward(nn.Module):
    """SwiGLU with a norm on the hidden features: `down(norm(silu(gate(x)) * up(x)))`, with biases."""

    def __init__(self, width: int, hidden: int, eps: float) -> None:
        super().__init__()
        self.gate = Linear(width, hidden)
        self.up = Linear(width, hidden)
        self.norm = nn.LayerNorm(hidden, eps=eps)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.down(self.norm(F.silu(self.gate(x)) * self.up(x)))
