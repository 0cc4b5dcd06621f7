"""Retrieval across modalities: recall@k with confidence intervals and a shuffled control."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def recall_at(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Per query, 1.0 if any of its `k` best candidates is relevant, else 0.0.

    scores (queries, candidates) float, relevant (queries, candidates) bool -> (queries,) float32.
    """
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    return relevant.gather(1, best).any(dim=1).float()


@dataclass(frozen=True)
class Recall:
    """Mean recall@k over `queries`, its 95 % Wilson interval, and the mean with shuffled pairs."""

    k: int
    value: float
    low: float
    high: float
    shuffled: float
    queries: int
    candidates: int


def wilson_interval(hits: float, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a proportion."""
    if trials == 0:
        return 0.0, 1.0
    rate = hits / trials
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def measure_recall(
    queries: Tensor, candidates: Tensor, relevant: Tensor, k: int, seed: int = 0, shuffles: int = 20
) -> Recall:
    """recall@k of unit-length queries (n, dim) among candidates (m, dim).

    The control keeps the rankings and permutes which query's relevance they are held against, averaged over
    `shuffles` permutations: what the same scores reach when they know nothing of the pairs.
    """
    scores = queries @ candidates.t()
    hits = recall_at(scores, relevant, k)
    generator = torch.Generator().manual_seed(seed)
    best = scores.topk(min(k, scores.shape[1]), dim=1).indices
    control = 0.0
    for _ in range(shuffles):
        order = torch.randperm(len(queries), generator=generator)
        control += relevant[order].gather(1, best).any(dim=1).float().mean().item() / shuffles
    low, high = wilson_interval(hits.sum().item(), len(hits))
    return Recall(k, hits.mean().item(), low, high, control, len(queries), len(candidates))
