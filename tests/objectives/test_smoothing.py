"""Label smoothing over the other classes, against the published formula in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from one_peace.objectives.smoothing import count_correct, smoothed_cross_entropy


def problem(rows: int, classes: int, seed: int, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(rows, classes, generator=generator)
    return logits, torch.randint(classes, (rows,), generator=generator)


def naive(logits: Tensor, target: Tensor, smoothing: float) -> float:
    """nll and the sum over all classes, row by row: (1 - eps - e) * nll + e * sum(-logp), e = eps / (N - 1)."""
    total = 0.0
    for row, index in zip(logits.double(), target.tolist(), strict=True):
        probability = row.exp() / row.exp().sum()
        share = smoothing / (len(row) - 1)
        total += -(1 - smoothing - share) * probability[index].log() - share * probability.log().sum()
    return float(total / len(logits))


shapes = {"rows": st.integers(1, 6), "classes": st.integers(2, 9), "seed": st.integers(0, 1000)}


@given(**shapes, smoothing=st.floats(0.0, 0.9))
def test_equals_the_formula(rows: int, classes: int, seed: int, smoothing: float) -> None:
    logits, target = problem(rows, classes, seed)
    assert smoothed_cross_entropy(logits, target, smoothing).item() == pytest.approx(
        naive(logits, target, smoothing), rel=1e-5, abs=1e-6
    )


@given(**shapes, smoothing=st.floats(0.0, 0.9))
def test_the_target_distribution_sums_to_one(rows: int, classes: int, seed: int, smoothing: float) -> None:
    """The same loss as soft cross entropy with 1 - eps for the target and eps / (N - 1) for each other class."""
    logits, target = problem(rows, classes, seed)
    soft = torch.full((rows, classes), smoothing / (classes - 1))
    soft[torch.arange(rows), target] = 1 - smoothing
    torch.testing.assert_close(
        smoothed_cross_entropy(logits, target, smoothing), F.cross_entropy(logits, soft), rtol=1e-5, atol=1e-6
    )


@given(**shapes, shift=st.floats(-20, 20))
def test_a_shift_of_all_logits_changes_nothing(rows: int, classes: int, seed: int, shift: float) -> None:
    logits, target = problem(rows, classes, seed)
    torch.testing.assert_close(
        smoothed_cross_entropy(logits + shift, target, 0.1),
        smoothed_cross_entropy(logits, target, 0.1),
        rtol=1e-4,
        atol=1e-4,
    )


def test_differs_from_pytorchs_smoothing() -> None:
    logits, target = problem(5, 4, 0)
    ours = smoothed_cross_entropy(logits, target, 0.2)
    assert (ours - F.cross_entropy(logits, target, label_smoothing=0.2)).abs() > 0.05


def test_gradient_is_softmax_minus_target_distribution() -> None:
    logits, target = problem(4, 5, 1)
    logits.requires_grad_()
    smoothed_cross_entropy(logits, target, 0.1).backward()
    soft = torch.full((4, 5), 0.1 / 4)
    soft[torch.arange(4), target] = 0.9
    torch.testing.assert_close(logits.grad, (logits.detach().softmax(1) - soft) / 4)


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, target = problem(3, 2000, 2, spread=0.1)
    loss = smoothed_cross_entropy(logits.bfloat16(), target, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(naive(logits.bfloat16(), target, 0.1), rel=1e-5)


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]])
    assert smoothed_cross_entropy(logits, torch.tensor([0, 1])).item() == 0.0
    assert smoothed_cross_entropy(logits, torch.tensor([1, 0])).item() == pytest.approx(2e4)


def test_counts_rows_whose_target_is_largest() -> None:
    logits = torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, 0.0], [0.0, 0.0, 5.0]])
    assert count_correct(logits, torch.tensor([1, 1, 2])).item() == 2
