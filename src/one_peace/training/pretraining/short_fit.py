"""A short training of a few parameters ahead of a run: AdamW with warm-up, half a cosine, and clipped gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

CLIP_NORM = 1.0


def short_optimizer(trained: Iterable[nn.Parameter]) -> torch.optim.AdamW:
    """What `fit` updates parameters by."""
    return torch.optim.AdamW(trained, betas=(0.9, 0.98), fused=True)


def fit(
    optimizer: torch.optim.AdamW,
    loss_of: Callable[[int], Tensor],
    steps: int,
    rate: float,
    warmup: int,
    *,
    first: int = 0,
    after: Callable[[int], None] | None = None,
) -> None:
    """Updates parameters in place by the gradient of `loss_of` (update from 0 -> scalar), `steps` times.

    Of these `first` were made before. `after` is told of every update how many are done. The moments are forgotten
    with the last one, so that the next fit by the same optimizer has its own.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step in range(first, steps):
        loss = loss_of(step)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warmup) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step + 1 == steps:
            optimizer.state.clear()
        if after is not None:
            after(step + 1)
