"""Cross entropy with label smoothing spread over the *other* classes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def smoothed_cross_entropy(logits: Tensor, target: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over rows of the cross entropy of logits (rows, classes) with target (rows,) int64, in float32.

    The target keeps probability `1 - smoothing`; each other class gets `smoothing / (classes - 1)`.
    PyTorch's own `label_smoothing` spreads over all classes and differs.
    """
    log_probs = F.log_softmax(logits.float(), dim=-1)
    nll = -log_probs.gather(1, target[:, None]).squeeze(1)
    if smoothing == 0.0:
        return nll.mean()
    share = smoothing / (logits.shape[1] - 1)
    return ((1.0 - smoothing - share) * nll - share * log_probs.sum(dim=-1)).mean()


def count_correct(logits: Tensor, target: Tensor) -> Tensor:
    """Number of rows whose largest logit is the target's."""
    return (logits.argmax(dim=-1) == target).sum()
