"""Low-rank changes to linear layers (LoRA, arXiv 2106.09685): the weights stay, two thin matrices beside them learn."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from one_peace.nn.linear import Linear, linear


class LoRALinear(Linear):
    """A linear layer whose weight is fixed, plus `scale * up @ down`: `down` (rank, in), `up` (out, rank).

    It starts as the layer that it is made of: `up` is 0. The parameters `weight` and `bias` are that layer's own.
    """

    def __init__(self, layer: nn.Linear, rank: int, scale: float) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.scale = scale
        self.low_rank_down = nn.Parameter(torch.empty(rank, self.in_features, device=layer.weight.device))
        nn.init.normal_(self.low_rank_down, std=self.in_features**-0.5)  # keeps the size of what it is given
        self.low_rank_up = nn.Parameter(torch.zeros(self.out_features, rank, device=layer.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return super().forward(x) + self.change(x)

    def change(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """What is added to the layer's outputs, or to those at `rows`."""
        up = self.low_rank_up if rows is None else self.low_rank_up[rows]
        return linear(linear(x, self.low_rank_down) * self.scale, up)


def project(layer: nn.Linear, x: Tensor, bias: Tensor | None, rows: slice | None = None) -> Tensor:
    """`layer` with another bias, (..., in) -> (..., out), or its outputs at `rows` alone."""
    y = linear(x, layer.weight if rows is None else layer.weight[rows], bias)
    return y + layer.change(x, rows) if isinstance(layer, LoRALinear) else y


def merge(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """The weight of an ordinary layer that computes the same, in the dtype of `weight`."""
    return (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
