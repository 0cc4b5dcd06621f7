"""Feed-forward networks: the gated one, one per modality in every block, and the plain one."""

from __future__ import annotations

from torch import Tensor, nn

from one_peace.nn.activation import gelu_reusing
from one_peace.nn.linear import Linear


class FeedForward(nn.Module):
    """GeGLU with a layer norm on the hidden features: `down(norm(gelu(gate(x)) * up(x)))` (paper, section 3.2)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = Linear(width, hidden, bias=False)
        self.up = Linear(width, hidden, bias=False)
        self.norm = nn.LayerNorm(hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        gate, up = gelu_reusing(self.gate(x)), self.up(x)
        # in place where autograd keeps neither factor: the hidden features are the largest tensors of a block
        hidden = gate * up if gate.requires_grad or up.requires_grad else up.mul_(gate)
        return self.down(self.norm(hidden))


class PlainFeedForward(nn.Module):
    """`down(gelu(up(x)))`, exact GELU, with biases."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = Linear(width, hidden)
        self.down = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.down(gelu_reusing(self.up(x)))
