"""Retrieval across modalities: recall@k with confidence intervals and a shuffled control."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1024  # queries ranked at once: bounds memory
SHUFFLES = 20  # permutations that the control is averaged over
_NORMAL = 1.959964  # standard deviations to either side of the mean that hold 95 %


def best_candidates(scores: Tensor, k: int) -> Tensor:
    """The `k` best candidates of each query, best first; of equal scores the earlier candidate comes first.

    scores (queries, candidates) float -> (queries, min(k, candidates)) int64. (`torch.topk` leaves the order of ties
    open.)
    """
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]


def recall_at(scores: Tensor, relevant: Tensor, k: int) -> Tensor:
    """Per query, 1.0 if any of its `k` best candidates is relevant, else 0.0.

    scores (queries, candidates) float, relevant (queries, candidates) bool -> (queries,) float32.
    """
    return relevant.gather(1, best_candidates(scores, k)).any(dim=1).float()


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


def wilson_interval(hits: float, trials: int) -> tuple[float, float]:
    """95 % confidence interval of a proportion."""
    if trials == 0:
        return 0.0, 1.0
    rate, z = hits / trials, _NORMAL
    centre = rate + z * z / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def measure_recall(queries: Tensor, candidates: Tensor, relevant: Tensor, k: int) -> Recall:
    """recall@k of unit-length queries (n, dim) among candidates (m, dim), of which `relevant` (n, m) are right."""
    (recall,) = measure_recalls(queries, candidates, relevant, (k,))
    return recall


def measure_recalls(queries: Tensor, candidates: Tensor, relevant: Tensor, ranks: Sequence[int]) -> list[Recall]:
    """`measure_recall` for several k at once.

    The control keeps the rankings and permutes which query's relevance they are held against, averaged over
    `SHUFFLES` permutations: what the same scores reach when they know nothing of the pairs.
    """
    return measure_rankings(rank_candidates(queries, candidates, max(ranks)), relevant, ranks)


def rank_candidates(queries: Tensor, candidates: Tensor, k: int) -> Tensor:
    """`best_candidates` of unit-length queries (n, dim) among candidates (m, dim), in bounded memory."""
    ranked = [best_candidates(some @ candidates.t(), k) for some in queries.split(CHUNK)]
    return torch.cat(ranked) if ranked else torch.empty(0, 0, dtype=torch.int64)


def measure_rankings(best: Tensor, relevant: Tensor, ranks: Sequence[int]) -> list[Recall]:
    """`measure_recalls` of rankings (n, k) int64, however they came about. relevant: (n, m) bool."""
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(best), generator=generator) for _ in range(SHUFFLES)]
    right = relevant.gather(1, best)
    shuffled = [relevant[order[:, None], best] for order in orders]
    recalls = []
    for k in ranks:
        hits = right[:, :k].any(dim=1).double()
        control = sum(found[:, :k].any(dim=1).double().mean().item() for found in shuffled) / SHUFFLES
        low, high = wilson_interval(hits.sum().item(), len(hits))
        recalls.append(Recall(k, hits.mean().item(), low, high, control, len(best), relevant.shape[1]))
    return recalls
