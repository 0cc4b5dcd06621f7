"""Denoising contrast against a naive float64 version: which positions are queries, and which are negatives."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from one_peace.objectives import denoising
from one_peace.objectives.denoising import denoising_contrast
from one_peace.objectives.smoothing import smoothed_cross_entropy


def problem(batch: int, tokens: int, seed: int, padded: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Student, teacher, mask and padding with cls first; at least one real position is masked."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, batch, tokens, 6, generator=generator)
    masked = torch.rand(batch, tokens, generator=generator) < 0.4
    masked[:, 0] = False
    masked[0, 1] = True
    if not padded:
        return student, teacher, masked, None
    lengths = torch.randint(2, tokens + 1, (batch,), generator=generator)
    padding = torch.arange(tokens) >= lengths[:, None]
    return student, teacher, masked & ~padding, padding


def naive(
    student: Tensor, teacher: Tensor, masked: Tensor, padding: Tensor | None, scale: float, smoothing: float
) -> float:
    """For each masked position: the smoothed negative log-likelihood of its own teacher among all real positions."""
    places = [
        (b, t)
        for b in range(student.shape[0])
        for t in range(1, student.shape[1])
        if padding is None or not padding[b, t]
    ]

    def unit(x: Tensor) -> Tensor:
        return x.double() / x.double().norm()

    losses = []
    for i, (b, t) in enumerate(places):
        if not masked[b, t]:
            continue
        scores = [scale * float(unit(student[b, t]) @ unit(teacher[place])) for place in places]
        norm = math.log(sum(math.exp(s) for s in scores))
        nll = [norm - s for s in scores]
        share = smoothing / (len(nll) - 1)
        losses.append((1 - smoothing) * nll[i] + share * (sum(nll) - nll[i]))
    return sum(losses) / len(losses)


cases = {
    "batch": st.integers(1, 4),
    "tokens": st.integers(3, 7),
    "seed": st.integers(0, 1000),
    "padded": st.booleans(),
}


@given(**cases, scale=st.sampled_from([1.0, 2.5]), smoothing=st.sampled_from([0.0, 0.1]))
def test_equals_the_formula(batch: int, tokens: int, seed: int, padded: bool, scale: float, smoothing: float) -> None:
    student, teacher, masked, padding = problem(batch, tokens, seed, padded)
    if padding is not None and (~padding[:, 1:]).sum() < 2:
        return  # one candidate alone: nothing to tell apart
    loss = denoising_contrast(student, teacher, masked, padding, scale, smoothing)
    assert loss.item() == pytest.approx(naive(student, teacher, masked, padding, scale, smoothing), rel=1e-5)


def test_defaults_are_the_published_scale_and_smoothing() -> None:
    student, teacher, masked, padding = problem(2, 6, 0, True)
    assert denoising_contrast(student, teacher, masked, padding).item() == pytest.approx(
        naive(student, teacher, masked, padding, 2.5, 0.1), rel=1e-5
    )


@given(**cases)
def test_cls_and_padding_take_no_part(batch: int, tokens: int, seed: int, padded: bool) -> None:
    student, teacher, masked, padding = problem(batch + 1, tokens, seed, padded)
    before = denoising_contrast(student, teacher, masked, padding, smoothing=0.0)
    hidden = torch.zeros_like(masked) if padding is None else padding.clone()
    hidden[:, 0] = True
    for features in (student, teacher):
        features[hidden] = 1e3
    torch.testing.assert_close(denoising_contrast(student, teacher, masked, padding, smoothing=0.0), before)


@given(**cases, factor=st.floats(0.01, 100))
def test_lengths_of_features_do_not_matter(batch: int, tokens: int, seed: int, padded: bool, factor: float) -> None:
    student, teacher, masked, padding = problem(batch + 1, tokens, seed, padded)
    torch.testing.assert_close(
        denoising_contrast(factor * student, teacher / factor, masked, padding, smoothing=0.0),
        denoising_contrast(student, teacher, masked, padding, smoothing=0.0),
        rtol=1e-4,
        atol=1e-5,
    )


def test_a_good_student_has_a_lower_loss() -> None:
    student, teacher, masked, padding = problem(3, 8, 1, True)
    perfect = denoising_contrast(teacher, teacher, masked, padding)
    assert perfect < denoising_contrast(student, teacher, masked, padding) - 0.3
    assert perfect < denoising_contrast(-teacher, teacher, masked, padding) - 1.0


def test_gradient_reaches_masked_student_positions_alone() -> None:
    student, teacher, masked, padding = problem(3, 7, 2, True)
    student.requires_grad_()
    teacher.requires_grad_()
    denoising_contrast(student, teacher, masked, padding).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.equal(student.grad.abs().amax(dim=2) > 0, masked)


def test_gradient_equals_finite_differences() -> None:
    student, teacher, masked, padding = problem(2, 5, 3, False)
    student.requires_grad_()
    denoising_contrast(student, teacher, masked, padding).backward()
    assert student.grad is not None
    step = torch.zeros_like(student, dtype=torch.float64)
    for dim in range(6):
        step.zero_()[0, 1, dim] = 1e-5
        high = naive(student.detach().double() + step, teacher, masked, padding, 2.5, 0.1)
        low = naive(student.detach().double() - step, teacher, masked, padding, 2.5, 0.1)
        assert student.grad[0, 1, dim].item() == pytest.approx((high - low) / 2e-5, abs=1e-5)


@pytest.mark.parametrize("logits", [1, 40, 2**24])  # a query at a time, a few, all
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_tiles_equal_all_logits_at_once(monkeypatch: pytest.MonkeyPatch, logits: int, smoothing: float) -> None:
    monkeypatch.setattr(denoising, "TILE", logits)
    student, teacher, masked, _ = problem(4, 7, 6, False)
    student.requires_grad_()
    loss = denoising_contrast(student, teacher, masked, smoothing=smoothing)
    (3.0 * loss).backward()
    tiled, student.grad = student.grad, None
    rows = masked[:, 1:].flatten().nonzero().squeeze(1)
    queries, keys = (F.normalize(x[:, 1:].flatten(0, 1), dim=1) for x in (student, teacher))
    dense = smoothed_cross_entropy(2.5 * queries[rows] @ keys.t(), rows, smoothing)
    (3.0 * dense).backward()
    torch.testing.assert_close(loss, dense)
    assert tiled is not None and student.grad is not None
    torch.testing.assert_close(tiled, student.grad, atol=1e-7, rtol=1e-5)


def test_half_precision_features_give_a_float32_loss() -> None:
    student, teacher, masked, padding = problem(2, 6, 4, False)
    loss = denoising_contrast(student.bfloat16(), teacher.bfloat16(), masked, padding)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(naive(student, teacher, masked, padding, 2.5, 0.1), rel=0.02)


@pytest.mark.parametrize("tokens", [4, 2])
def test_nothing_to_tell_apart_costs_nothing(tokens: int) -> None:
    """The shortest captions have no token to hide, and one position alone no negatives: neither spoils a step."""
    student, teacher, masked, padding = problem(1, tokens, 5, False)
    if tokens > 2:
        masked = torch.zeros_like(masked)
    student.requires_grad_()
    loss = denoising_contrast(student, teacher, masked, padding)
    assert loss.item() == 0.0
    loss.backward()
    assert student.grad is not None and not student.grad.any()
