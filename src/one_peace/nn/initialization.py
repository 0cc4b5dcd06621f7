"""Initial values of the published model."""

from __future__ import annotations

from torch import Tensor, nn

STD = 0.02


def truncated_normal_(tensor: Tensor) -> Tensor:
    """Normal with mean 0 and std 0.02, cut at one sigma (not at the usual two), in place."""
    return nn.init.trunc_normal_(tensor, std=STD, a=-STD, b=STD)


def initialize_linear_layers(module: nn.Module) -> None:
    """Every linear layer below `module`: truncated normal weights, zero bias; convolutions in two dimensions: zero bias."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            truncated_normal_(layer.weight)
        if isinstance(layer, nn.Linear | nn.Conv2d) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
