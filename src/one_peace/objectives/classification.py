"""Classification losses, as sums over the batch: the trainer divides by the number of examples (spec of the paper's
fine-tuning code: sample size is the number of sentences)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def classification_loss(logits: Tensor, target: Tensor, *, multiple: bool = False, smoothing: float = 0.0) -> Tensor:
    """Sum over the batch of the loss of logits (batch, classes), in float32.

    target (batch,) int64: cross entropy, smoothed over all classes. target (batch, classes) float: with `multiple`
    independent yes-or-no answers, otherwise a distribution over the classes.
    """
    logits = logits.float()
    if target.ndim == 1:
        if multiple:
            raise ValueError("several labels per example need a target of shape (batch, classes), got class numbers")
        return F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing)
    if target.shape != logits.shape:
        raise ValueError(f"target {tuple(target.shape)} does not go with logits {tuple(logits.shape)}")
    if multiple:
        return F.binary_cross_entropy_with_logits(logits, target.float(), reduction="sum")
    return -(target.float() * F.log_softmax(logits, dim=-1)).sum()
