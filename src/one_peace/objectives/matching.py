"""Matching with sampled hard negatives: does a text belong to what it is read with? (ALBEF, arXiv 2107.07651)"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SURPLUS = 1e-4  # of every candidate's weight, so that each can be drawn


@torch.no_grad()
def negative_weights(logits: Tensor, offset: int = 0, alike: Tensor | None = None) -> Tensor:
    """Weights for drawing a negative of each row among all candidates, hard ones first.

    Args:
        logits: similarities over the temperature, (rows, candidates).
        offset: of the rows' own partners among the candidates: row i belongs to candidate `offset + i`, which is never
            drawn. Candidates that happen to say the same are.
        alike: (rows, candidates) bool, further candidates that are not drawn, unless a row has no others.

    Returns:
        (rows, candidates) float32, not normalised.
    """
    rows, candidates = logits.shape
    if candidates < 2:
        raise ValueError("a negative needs at least two pairs in the batch")
    weights = logits.float().softmax(dim=1) + SURPLUS
    own = offset + torch.arange(rows, device=logits.device)
    weights.scatter_(1, own[:, None], 0.0)
    if alike is None:
        return weights
    others = weights.masked_fill(alike, 0.0)
    return torch.where(others.any(dim=1, keepdim=True), others, weights)


def draw_negatives(weights: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A candidate for each row of weights (rows, candidates) -> (rows,) int64."""
    return weights.multinomial(1, generator=generator).squeeze(1)


def matching_loss(logits: Tensor, matches: Tensor) -> Tensor:
    """Mean cross entropy of logits of no and yes (rows, 2) with matches (rows,) bool."""
    return F.cross_entropy(logits.float(), matches.to(torch.int64))
