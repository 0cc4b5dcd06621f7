"""Recall against a plain loop, intervals against SciPy, and what the shuffled control says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor

from one_peace.tasks.retrieval import measure_recall, recall_at, wilson_interval


def problem(queries: int, candidates: int, seed: int) -> tuple[Tensor, Tensor]:
    """Scores without ties, and relevance with several correct answers per query, or none."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(queries, candidates, generator=generator)
    return scores, torch.rand(queries, candidates, generator=generator) < 0.25


@given(queries=st.integers(1, 6), candidates=st.integers(1, 9), k=st.integers(1, 12), seed=st.integers(0, 1000))
def test_recall_is_whether_any_of_the_k_best_is_correct(queries: int, candidates: int, k: int, seed: int) -> None:
    scores, relevant = problem(queries, candidates, seed)
    expected = []
    for row, correct in zip(scores.tolist(), relevant.tolist(), strict=True):
        ranking = sorted(range(candidates), key=lambda j: -row[j])
        expected.append(float(any(correct[j] for j in ranking[:k])))
    assert recall_at(scores, relevant, k).tolist() == expected


@given(queries=st.integers(1, 6), candidates=st.integers(2, 9), seed=st.integers(0, 1000))
def test_recall_grows_with_k_up_to_whether_there_is_an_answer(queries: int, candidates: int, seed: int) -> None:
    scores, relevant = problem(queries, candidates, seed)
    rows = torch.stack([recall_at(scores, relevant, k) for k in range(1, candidates + 1)])
    assert (rows.diff(dim=0) >= 0).all()
    assert torch.equal(rows[-1], relevant.any(dim=1).float())


def test_one_of_several_correct_answers_is_enough() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.5, 0.1]])
    relevant = torch.tensor([[True, False, True], [False, True, True]])
    assert recall_at(scores, relevant, 1).tolist() == [1.0, 0.0]
    assert recall_at(scores, relevant, 2).tolist() == [1.0, 1.0]


@given(trials=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_interval_is_scipys(trials: int, share: float) -> None:
    hits = round(share * trials)
    expected = binomtest(hits, trials).proportion_ci(confidence_level=0.95, method="wilson")
    assert wilson_interval(hits, trials) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_without_trials_anything_is_possible() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_a_perfect_model_is_perfect_and_its_control_is_at_chance() -> None:
    count = 50
    vectors = F.normalize(torch.randn(count, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    for k in (1, 10):
        measured = measure_recall(vectors, vectors, torch.eye(count, dtype=torch.bool), k)
        assert measured.value == 1.0
        assert measured.high == pytest.approx(1.0)
        assert measured.low == pytest.approx(wilson_interval(count, count)[0])
        # 20 shuffles of 50 queries: standard deviation of the mean below 0.014
        assert measured.shuffled == pytest.approx(k / count, abs=0.05)
        assert (measured.queries, measured.candidates, measured.k) == (count, count, k)


def test_the_control_shows_what_frequent_answers_give_away() -> None:
    """A model that always says the commonest answer: right for 40 of 50, and no better than its control."""
    labels = torch.tensor([0] * 40 + list(range(1, 11)))
    queries = torch.ones(50, 1)
    candidates = torch.tensor([[1.0]] + [[0.5]] * 10)
    relevant = labels[:, None] == torch.arange(11)[None]
    measured = measure_recall(queries, candidates, relevant, 1)
    assert measured.value == pytest.approx(0.8)
    assert measured.shuffled == pytest.approx(0.8)


def test_the_value_is_the_mean_over_queries_within_its_interval() -> None:
    generator = torch.Generator().manual_seed(1)
    queries = F.normalize(torch.randn(40, 8, generator=generator), dim=1)
    candidates = F.normalize(queries + 0.9 * torch.randn(40, 8, generator=generator), dim=1)
    relevant = torch.eye(40, dtype=torch.bool)
    measured = measure_recall(queries, candidates, relevant, 1)
    hits = sum(int((queries[i] @ candidates.t()).argmax()) == i for i in range(40))
    assert 0 < hits < 40
    assert measured.value == pytest.approx(hits / 40)
    assert measured.low < measured.value < measured.high
    assert measured.shuffled < measured.low
    assert measured == measure_recall(queries, candidates, relevant, 1), "the control has a seed"
