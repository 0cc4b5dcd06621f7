"""The margin between the right answer of a question and each wrong one (paper's audio question answering)."""

from __future__ import annotations

import torch
from torch import Tensor

MARGIN = 1.0


def answer_hinge(scores: Tensor, target: Tensor, published: bool = False) -> Tensor:
    """Sum over the batch of max(0, 1 + score - score of the right answer), over the wrong answers.

    scores (questions, choices), target (questions,) int64. The published code counts the right answer as well,
    which adds 1 per question and no gradient: `published` does the same.
    """
    if scores.ndim != 2 or target.shape != scores.shape[:1]:
        raise ValueError(
            f"scores {tuple(scores.shape)} and target {tuple(target.shape)}: (questions, choices), (questions,)"
        )
    scores = scores.float()
    slack = (MARGIN + scores - scores.gather(1, target[:, None])).clamp(min=0)
    if published:
        return slack.sum()
    right = torch.zeros_like(slack, dtype=torch.bool).scatter_(1, target[:, None], True)
    return slack.masked_fill(right, 0.0).sum()
