"""Stochastic depth."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Kept(NamedTuple):
    """The samples whose branch is computed, (kept,) int64, and the factor on it."""

    samples: Tensor
    factor: float


class DropPath(nn.Module):
    """Drops a residual branch for whole samples with probability `rate` and rescales the others, in training only.

    A dropped branch is not computed at all: a rate of 0.4 at the top saves a fifth of a model's work.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"drop path rate must be in [0, 1), got {rate}")
        self.rate = rate

    def draw(self, x: Tensor) -> Kept | None:
        """Which samples of x (batch, ...) keep their branch; None where all do, unscaled.

        Drawn on the CPU on any device: asking an accelerator how many there are would stall it.
        """
        if not self.training or self.rate == 0.0:
            return None
        keep = 1.0 - self.rate
        samples = torch.empty(x.shape[0]).bernoulli_(keep).nonzero().squeeze(1).to(x.device, non_blocking=True)
        if len(samples):
            return Kept(samples, 1.0 / keep)
        # Parameters without any gradient would make sharded processes wait for each other.
        return Kept(torch.zeros(1, dtype=torch.int64, device=x.device), 0.0)
