"""Training a coder of pictures: what is lost between a picture and its reconstruction, and that codes are all used."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor


def code_loss(reconstructed: Tensor, pictures: Tensor, logits: Tensor | None, usage: float = 5e-4) -> dict[str, Tensor]:
    """`lost`, the mean absolute difference of pictures (batch, 3, H, W), and `total`: with `usage` times
    `code_divergence`, where pictures went through codes at all."""
    lost = F.l1_loss(reconstructed, pictures)
    return {"total": lost if logits is None else lost + usage * code_divergence(logits), "lost": lost}


def code_divergence(logits: Tensor) -> Tensor:
    """KL divergence of each place's codes from all codes being equally probable, mean over places.

    logits: (batch, codes, h, w). It keeps the choice open early in training, so that no code is forgotten (the prior of
    arXiv 2102.12092 and of the Gumbel VQGAN).
    """
    log_probs = logits.log_softmax(dim=1)
    return (log_probs.exp() * (log_probs + math.log(logits.shape[1]))).sum(dim=1).mean()
