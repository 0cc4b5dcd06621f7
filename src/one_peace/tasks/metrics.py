"""Figures that no small maintained library computes as the benchmarks do; each is held against one in the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from one_peace.data.published.answers import normalise_answer


def average_precision(scores: Tensor, positive: Tensor) -> float:
    """Area under the precision-recall steps of scores (n,) for positive (n,) bool; equal scores count as one step."""
    if not bool(positive.any()):
        raise ValueError("average precision of a class without positive examples is undefined")
    order = scores.argsort(descending=True, stable=True)
    ranked, hits = scores[order].double(), positive[order].double()
    last = torch.cat([ranked[1:] != ranked[:-1], torch.ones(1, dtype=torch.bool)])  # the end of each group of ties
    found, seen = hits.cumsum(0)[last], (torch.arange(len(hits)) + 1)[last]
    gained = torch.diff(found, prepend=torch.zeros(1, dtype=torch.float64)) / found[-1]
    return float((gained * found / seen).sum())


def consensus_accuracy(answer: str, annotators: list[str]) -> float:
    """VQA accuracy: a third for each other annotator who agrees, at most 1, averaged over leaving each one out."""
    if not annotators:
        raise ValueError("no annotators' answers to compare with")
    annotators, answer = [a.strip() for a in annotators], answer.strip()
    # As published: answers are only normalised where the annotators do not all say the same.
    if len(set(annotators)) > 1:
        annotators, answer = [normalise_answer(a) for a in annotators], normalise_answer(answer)
    shares = []
    for left_out in range(len(annotators)):
        agreeing = sum(other == answer for k, other in enumerate(annotators) if k != left_out)
        shares.append(min(1.0, agreeing / 3))
    return sum(shares) / len(shares)
