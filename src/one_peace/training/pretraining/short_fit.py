"""A short training of a few parameters ahead of a run: AdamW with warm-up, half a cosine, and clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

CLIP_NORM = 1.0


def fit(
    trained: Sequence[nn.Parameter], loss_of: Callable[[int], Tensor], steps: int, rate: float, warmup: int
) -> None:
    """Updates parameters in place by the gradient of `loss_of` (update from 0 -> scalar), `steps` times."""
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), fused=True)
    for step in range(steps):
        loss = loss_of(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
