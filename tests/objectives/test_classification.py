"""Classification losses against PyTorch's own and against sums written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from one_peace.objectives.classification import classification_loss
from one_peace.objectives.hinge import answer_hinge

LOGITS = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
CLASSES = torch.tensor([0, 3, 1, 1, 2])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_numbers(smoothing: float) -> None:
    log_probs = LOGITS.log_softmax(1)
    right = log_probs[torch.arange(5), CLASSES]
    expected = -((1 - smoothing) * right + smoothing * log_probs.mean(1)).sum()
    assert torch.allclose(classification_loss(LOGITS, CLASSES, smoothing=smoothing), expected)


def test_a_distribution_on_one_class_is_that_class() -> None:
    hard = F.one_hot(CLASSES, 4).float()
    assert torch.allclose(classification_loss(LOGITS, hard), classification_loss(LOGITS, CLASSES))


def test_several_labels() -> None:
    target = (torch.arange(20).view(5, 4) % 3 == 0).float()
    p = LOGITS.sigmoid()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum()
    assert torch.allclose(classification_loss(LOGITS, target, multiple=True), expected, rtol=1e-5)


def test_bf16_scores_are_added_in_float32() -> None:
    logits = torch.zeros(1000, 7, dtype=torch.bfloat16)
    loss = classification_loss(logits, torch.zeros(1000, dtype=torch.int64))
    assert loss.item() == pytest.approx(1000 * torch.tensor(7.0).log().item(), rel=1e-5)


def test_targets_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(2, 4\).*\(5, 4\)"):
        classification_loss(LOGITS, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="batch, classes"):
        classification_loss(LOGITS, CLASSES, multiple=True)


@given(st.integers(1, 4), st.integers(2, 5), st.integers(0, 10_000))
def test_hinge_is_its_definition(questions: int, choices: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(questions, choices, generator=generator)
    target = torch.randint(choices, (questions,), generator=generator)
    expected = sum(
        max(0.0, 1.0 + scores[q, c].item() - scores[q, target[q]].item())
        for q in range(questions)
        for c in range(choices)
        if c != target[q]
    )
    assert answer_hinge(scores, target).item() == pytest.approx(expected, abs=1e-4)
    published = answer_hinge(scores, target, published=True).item()
    assert published == pytest.approx(expected + questions, abs=1e-4)


def test_the_published_hinge_has_the_same_gradient() -> None:
    grads = []
    for published in (False, True):
        scores = LOGITS.clone().requires_grad_()
        answer_hinge(scores, CLASSES, published=published).backward()
        grads.append(scores.grad)
    assert torch.equal(*grads)
