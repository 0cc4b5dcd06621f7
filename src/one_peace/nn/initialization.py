"""Initial values of the published model."""

from __future__ import annotations

import math

from torch import Tensor, nn

STD = 0.02
PUBLISHED_WIDTH = 1536


def truncated_normal_(tensor: Tensor) -> Tensor:
    """Normal with mean 0 and std 0.02, cut at one sigma (not at the usual two), in place."""
    return nn.init.trunc_normal_(tensor, std=STD, a=-STD, b=STD)


def initialize_linear_layers(module: nn.Module, width: int) -> None:
    """Linear layers below `module`: truncated normal weights, zero bias; two-dimensional convolutions: zero bias.

    The published spread is that of width 1536. A narrower model sums over fewer inputs, and gets as much more of it
    as keeps the scale of the outputs.
    """
    bound = STD * math.sqrt(PUBLISHED_WIDTH / width)
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=bound, a=-bound, b=bound)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
