"""Cross-modal contrast against a naive float64 version, and the published rule of who gets a gradient."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from one_peace.objectives.contrast import cross_modal_contrast


def features(rows: int, seed: int, dim: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, rows, dim, generator=generator)
    return F.normalize(first, dim=1), F.normalize(second, dim=1)


def naive(first: Tensor, second: Tensor, scale: float, smoothing: float = 0.0) -> float:
    """Mean over both directions of the smoothed negative log-likelihood of each row's own partner."""

    def direction(queries: Tensor, candidates: Tensor) -> float:
        total = 0.0
        for i, query in enumerate(queries.double()):
            scores = [scale * float(query @ c) for c in candidates.double()]
            norm = math.log(sum(math.exp(s) for s in scores))
            nll = [norm - s for s in scores]
            share = smoothing / (len(nll) - 1) if smoothing else 0.0
            total += (1 - smoothing) * nll[i] + share * sum(nll[:i] + nll[i + 1 :])
        return total / len(queries)

    return (direction(first, second) + direction(second, first)) / 2


@given(
    rows=st.integers(2, 7),
    seed=st.integers(0, 1000),
    scale=st.floats(0.5, 50),
    smoothing=st.sampled_from([0.0, 0.1]),
)
def test_equals_the_formula(rows: int, seed: int, scale: float, smoothing: float) -> None:
    first, second = features(rows, seed)
    loss = cross_modal_contrast(first, second, scale, smoothing).loss
    assert loss.item() == pytest.approx(naive(first, second, scale, smoothing), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_pair_that_stands_in_the_batch_twice_is_no_negative_of_itself(smoothing: float) -> None:
    first, second = features(4, 2)
    twice = torch.tensor([0, 1, 2, 3, 1])
    alike = (twice[:, None] == twice) & ~torch.eye(5, dtype=torch.bool)
    leaf = first[twice].requires_grad_()
    result = cross_modal_contrast(leaf, second[twice], 10.0, smoothing, alike=alike)
    each = []
    for row in range(5):  # against all but its copy
        others = twice[~alike[row]]
        own, place = twice[row : row + 1], int((torch.arange(5)[~alike[row]] == row).nonzero())
        one = cross_modal_contrast(first[own], second[own], 10.0, smoothing, first[others], second[others], place)
        each.append(one.loss)
    torch.testing.assert_close(result.loss, torch.stack(each).mean())
    result.loss.backward()
    assert leaf.grad is not None and bool(leaf.grad.isfinite().all())
    eye = torch.eye(4)[twice]
    assert cross_modal_contrast(eye, eye, 100.0, alike=alike).first_to_second_correct == 5


@given(rows=st.integers(2, 7), seed=st.integers(0, 1000))
def test_is_symmetric(rows: int, seed: int) -> None:
    first, second = features(rows, seed)
    one, other = cross_modal_contrast(first, second, 10.0), cross_modal_contrast(second, first, 10.0)
    torch.testing.assert_close(one.loss, other.loss)
    assert one.first_to_second_correct == other.second_to_first_correct


@given(rows=st.integers(2, 7), seed=st.integers(0, 1000))
def test_the_order_of_pairs_does_not_matter(rows: int, seed: int) -> None:
    first, second = features(rows, seed)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        cross_modal_contrast(first[order], second[order], 10.0).loss,
        cross_modal_contrast(first, second, 10.0).loss,
    )


@given(rows=st.integers(2, 8), seed=st.integers(0, 1000), parts=st.integers(1, 4))
def test_shards_of_a_global_batch_average_to_the_whole(rows: int, seed: int, parts: int) -> None:
    """Each process has its rows as queries and everybody's as candidates."""
    first, second = features(rows * parts, seed)
    whole = cross_modal_contrast(first, second, 10.0)
    shards = [
        cross_modal_contrast(
            first[start : start + rows], second[start : start + rows], 10.0, 0.0, first, second, offset=start
        )
        for start in range(0, rows * parts, rows)
    ]
    torch.testing.assert_close(torch.stack([s.loss for s in shards]).mean(), whole.loss)
    assert sum(int(s.first_to_second_correct) for s in shards) == int(whole.first_to_second_correct)


def test_perfect_pairs_count_as_correct_and_cost_nothing() -> None:
    eye = torch.eye(5)
    result = cross_modal_contrast(eye, eye, 100.0)
    assert result.loss.item() < 1e-6
    assert (result.first_to_second_correct, result.second_to_first_correct) == (5, 5)
    wrong = cross_modal_contrast(eye, eye.roll(1, 0), 100.0)
    assert wrong.loss.item() == pytest.approx(100, abs=1e-3)
    assert (wrong.first_to_second_correct, wrong.second_to_first_correct) == (0, 0)


def test_counts_tell_the_directions_apart() -> None:
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    second = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    result = cross_modal_contrast(first, second, 1.0)
    assert result.first_to_second_correct == 1  # both find the first
    backward = cross_modal_contrast(second, torch.eye(2), 1.0)
    assert (backward.first_to_second_correct, backward.second_to_first_correct) == (2, 2)


def test_gradient_reaches_a_feature_as_a_query_only() -> None:
    first, second = features(4, 3)
    first.requires_grad_()
    second.requires_grad_()
    cross_modal_contrast(first, second, 7.0).loss.backward()
    # d/d first_i of one half of the mean cross entropy, with the candidates held fixed
    with torch.no_grad():
        errors = (7.0 * first @ second.t()).softmax(1) - torch.eye(4)
        expected = 7.0 * errors @ second / 4 / 2
    torch.testing.assert_close(first.grad, expected)


def test_the_temperature_gets_its_whole_gradient() -> None:
    first, second = (f.double() for f in features(4, 4))
    log_scale = torch.tensor(1.0, requires_grad=True)
    cross_modal_contrast(first.float(), second.float(), log_scale.exp()).loss.backward()
    h = 1e-5
    difference = naive(first, second, math.exp(1 + h)) - naive(first, second, math.exp(1 - h))
    assert log_scale.grad is not None
    assert log_scale.grad.item() == pytest.approx(difference / (2 * h), rel=1e-3)


def test_gathered_candidates_get_no_gradient() -> None:
    first, second = features(4, 5)
    all_first, all_second = first.clone().requires_grad_(), second.clone().requires_grad_()
    query = first.clone().requires_grad_()
    cross_modal_contrast(query, second, 5.0, 0.0, all_first, all_second).loss.backward()
    assert query.grad is not None and query.grad.abs().max() > 0
    assert all_first.grad is None and all_second.grad is None
