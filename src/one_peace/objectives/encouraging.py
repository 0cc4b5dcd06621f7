"""The encouraging loss: a bonus for probability that is already high, where cross entropy hardly pays (arXiv
2107.11669)."""

from __future__ import annotations

import math

from torch import Tensor

_LEAST = 1e-5  # of 1 - p, so that the bonus stays finite


def encouragement(log_probs: Tensor, target: Tensor, smoothing: float, log_end: float) -> Tensor:
    """Sum of the bonus, a number below zero to add to the cross entropy of the same tokens.

    The bonus of probability p is log(1 - p); above `log_end` (1: nowhere) it goes on along the tangent. Smoothing gives
    every token of the vocabulary its share.

    Args:
        log_probs: (tokens, vocabulary); -inf for what is impossible.
        target: (tokens,) int64.
    """
    p = log_probs.exp()
    bonus = (1.0 - p).clamp(min=_LEAST).log()
    if log_end != 1.0:
        tangent = math.log(1.0 - log_end) - (p - log_end) / (1.0 - log_end)
        bonus = bonus.where(p <= log_end, tangent)
    total = (1.0 - smoothing) * bonus.gather(1, target[:, None]).sum()
    if smoothing:
        total = total + smoothing / log_probs.shape[1] * bonus.sum()
    return total
