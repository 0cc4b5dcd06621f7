"""Cross entropy with label smoothing spread over the *other* classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

_NOT_ZERO = 1e-6  # published: one allowed class alone has no other to share with


def smoothed_cross_entropy(
    logits: Tensor, target: Tensor, smoothing: float = 0.0, allowed: Tensor | None = None
) -> Tensor:
    """Mean over rows of the cross entropy of logits (rows, classes) with target (rows,) int64, in float32.

    The target keeps probability `1 - smoothing`; each other class gets `smoothing / (classes - 1)`.
    PyTorch's own `label_smoothing` spreads over all classes and differs. `allowed` as of `smoothed`.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    nll = -log_probs.gather(1, target[:, None]).squeeze(1)
    return smoothed(log_probs, nll, smoothing, allowed).mean()


def smoothed(log_probs: Tensor, nll: Tensor, smoothing: float, allowed: Tensor | None = None) -> Tensor:
    """The smoothed losses (rows,) of log-probabilities (rows, classes), given the negative ones of the targets (rows,).

    `allowed` (rows or 1, classes) bool are the classes that smoothing is spread over, all by default.
    """
    if smoothing == 0.0:
        return nll
    if allowed is None:
        share: Tensor | float = smoothing / (log_probs.shape[1] - 1)
        others = -log_probs.sum(dim=1)
    else:
        share = smoothing / (allowed.sum(dim=1) - 1 + _NOT_ZERO)
        others = -log_probs.masked_fill(~allowed, 0.0).sum(dim=1)
    return (1.0 - smoothing - share) * nll + share * others


def count_correct(logits: Tensor, target: Tensor) -> Tensor:
    """Number of rows whose largest logit is the target's."""
    return (logits.argmax(dim=-1) == target).sum()
