"""Self-critical training: a model's own sequences, weighed by how much better they score than their like (arXiv
1612.00563)."""

from __future__ import annotations

import torch
from torch import Tensor


def leave_one_out(scores: Tensor) -> Tensor:
    """Scores (inputs, sequences), at least two per input, minus the mean of the input's other sequences."""
    count = scores.shape[1] if scores.ndim == 2 else 0
    if count < 2:
        raise ValueError(f"scores are (inputs, at least 2 sequences), got {tuple(scores.shape)}")
    return scores - (scores.sum(dim=1, keepdim=True) - scores) / (count - 1)


def self_critical_loss(logits: Tensor, target: Tensor, reward: Tensor, pad: int) -> tuple[Tensor, int]:
    """Minus the sum of log-probabilities times reward, and the number of tokens.

    Args:
        logits: (rows, length, vocabulary) for the tokens of generated sequences.
        target: (rows, length) int64, those tokens with their end token, padded with `pad`.
        reward: (rows,); in float64 the sum is, too.
    """
    log_probs = logits.float().log_softmax(dim=2).gather(2, target[..., None]).squeeze(2)  # (rows, length)
    kept = target != pad
    weighed = log_probs * reward[:, None]
    return -weighed.masked_fill(~kept, 0.0).sum(), int(torch.count_nonzero(kept))
