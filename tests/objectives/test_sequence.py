"""The losses of sequence-to-sequence training: what each addition changes, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from one_peace.objectives.encouraging import encouragement
from one_peace.objectives.self_critical import leave_one_out, self_critical_loss
from one_peace.objectives.sequence import SequenceLoss, SequenceLossSettings, divergence, range_mask, sequence_loss

PAD, END, VOCABULARY = 1, 2, 12


def batch(rows: int = 4) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, 6, VOCABULARY, generator=made, dtype=torch.float64)
    target = torch.randint(4, VOCABULARY, (rows, 6), generator=made)
    target[:, 5] = END
    target[1, 4:] = torch.tensor([END, PAD])
    return logits, target


def loss(logits: Tensor, target: Tensor, update: int = 1, **settings: object) -> SequenceLoss:
    inputs = {name: settings.pop(name) for name in ("allowed", "token_range", "confidence") if name in settings}
    return sequence_loss(logits, target, SequenceLossSettings(**settings), pad=PAD, end=END, update=update, **inputs)


def test_plain_and_smoothed_agree_with_pytorch() -> None:
    logits, target = batch()
    flat = (logits.float().flatten(0, 1), target.flatten())
    plain = loss(logits, target)
    torch.testing.assert_close(plain.total, F.cross_entropy(*flat, ignore_index=PAD, reduction="sum"))
    assert plain.tokens == int((target != PAD).sum()) and torch.equal(plain.total, plain.nll)
    # PyTorch spreads over all classes, the target included; ours over the others.
    share = 0.1 * VOCABULARY / (VOCABULARY - 1)
    theirs = F.cross_entropy(*flat, ignore_index=PAD, reduction="sum", label_smoothing=share)
    torch.testing.assert_close(loss(logits, target, smoothing=0.1).total, theirs)


def test_padding_and_what_is_not_allowed_get_no_gradient() -> None:
    logits, target = batch()
    allowed = torch.zeros(*target.shape, VOCABULARY, dtype=torch.bool)
    allowed.scatter_(2, target[..., None], True)
    allowed[..., 7] = True
    logits.requires_grad_(True)
    result = loss(logits, target, smoothing=0.1, allowed=allowed)
    result.total.backward()
    assert torch.isfinite(result.total) and torch.isfinite(logits.grad).all()
    assert not logits.grad[1, 5].any() and not logits.grad[~allowed].any()
    assert logits.grad[allowed & (target != PAD)[..., None]].count_nonzero() > 20


def test_a_range_is_that_mask() -> None:
    logits, target = batch()
    target = target.where(target < 4, 5)
    mask = range_mask(5, 9, VOCABULARY).expand(*target.shape, VOCABULARY)
    one, other = (
        loss(logits, target, smoothing=0.1, token_range=(5, 9)),
        loss(logits, target, smoothing=0.1, allowed=mask),
    )
    torch.testing.assert_close(one.total, other.total)
    assert loss(logits, target, token_range=(5, 9)).total < loss(logits, target).total


def test_a_single_allowed_token_costs_nothing() -> None:
    logits, target = batch()
    allowed = F.one_hot(target, VOCABULARY).bool()
    assert abs(float(loss(logits, target, smoothing=0.1, allowed=allowed).total)) < 1e-4


def test_the_worst_and_the_best_are_left_out_after_their_updates() -> None:
    logits, target = batch()
    each = F.cross_entropy(logits.float().flatten(0, 1), target.flatten(), ignore_index=PAD, reduction="none")
    each = each[(target != PAD).flatten()].sort().values
    keep = int(len(each) * 0.75)
    dropped = loss(logits, target, drop_worst=0.25, drop_worst_after=3, update=4)
    torch.testing.assert_close(dropped.total, each[:keep].sum())
    assert dropped.tokens == keep
    torch.testing.assert_close(loss(logits, target, drop_worst=0.25, drop_worst_after=3, update=3).total, each.sum())
    best = loss(logits, target, drop_best=0.25, encourage=1.0, update=1)
    torch.testing.assert_close(best.nll, each[-keep:].sum())


def test_prefix_end_and_confidence() -> None:
    logits, target = batch()
    shorter = loss(logits, target, skip_first=2)
    torch.testing.assert_close(shorter.total, loss(logits[:, 2:], target[:, 2:]).total)
    assert loss(logits, target, skip_end=True).tokens == loss(logits, target).tokens - len(target)
    weighed = loss(logits, target, confidence=torch.tensor([2.0, 0.0, 0.0, 0.0])).total
    torch.testing.assert_close(weighed, 2 * loss(logits[:1], target[:1]).total)


def test_no_confidence_at_all_weighs_nothing_under_a_constraint() -> None:
    logits, target = batch()
    logits.requires_grad_()
    allowed = torch.zeros(*logits.shape, dtype=torch.bool).scatter_(2, target[..., None], True)
    allowed[..., 4] = True
    sure = torch.tensor([1.0, *[0.0] * (len(target) - 1)])
    for others in ({}, {"encourage": 0.5}, {"drop_worst": 0.2}):
        found = loss(logits, target, allowed=allowed, confidence=sure, smoothing=0.1, **others).total
        (gradient,) = torch.autograd.grad(found, logits)
        assert found.isfinite() and gradient.isfinite().all() and not gradient[1:].any()


def test_consistency_compares_both_halves() -> None:
    logits, target = batch()
    same = loss(logits.repeat(2, 1, 1), target.repeat(2, 1), consistency=3.0)
    torch.testing.assert_close(same.total, 2 * loss(logits, target).total)
    other = torch.cat([logits, logits.flip(2)])
    plain, compared = loss(other, target.repeat(2, 1)), loss(other, target.repeat(2, 1), consistency=3.0)
    kept = (target != PAD).flatten()
    p, q = (part.flatten(0, 1)[kept].float().log_softmax(1) for part in other.chunk(2))
    torch.testing.assert_close(compared.total - plain.total, 3.0 * divergence(p, q))
    expected = (F.kl_div(q, p, log_target=True, reduction="sum") + F.kl_div(p, q, log_target=True, reduction="sum")) / 2
    torch.testing.assert_close(divergence(p, q), expected)
    impossible = torch.full((2, 3), -math.inf)
    assert float(divergence(impossible, impossible)) == 0.0


def test_the_bonus_is_smooth_and_rewards_what_is_likely() -> None:
    p = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    log_probs = torch.stack([p, 1 - p], 1).log()
    values = torch.stack([encouragement(row[None], torch.tensor([0]), 0.0, 0.5) for row in log_probs])
    steps = values.diff()
    assert (steps < 0).all() and float(steps[60:].max() - steps[60:].min()) < 1e-9  # a straight line beyond log_end
    torch.testing.assert_close(values[20], (1 - p[20]).log())
    logits, target = batch()
    assert loss(logits, target, encourage=0.75).total < loss(logits, target).total


def test_self_critical_training() -> None:
    rewards = leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]))
    assert rewards.tolist() == [[-3.0, -1.5, 4.5]]
    logits, target = batch(2)
    logits.requires_grad_(True)
    total, tokens = self_critical_loss(logits, target, torch.tensor([1.0, -1.0]), PAD)
    total.backward()
    assert tokens == 11 and not logits.grad[1, 5].any()
    chosen = logits.grad.gather(2, target[..., None])[..., 0]
    assert (chosen[0] < 0).all() and (chosen[1, :5] > 0).all()  # more of what scored better, less of the rest


def test_what_cannot_be_is_refused() -> None:
    logits, target = batch(3)
    for wrong in ({"smoothing": 1.0}, {"drop_worst": -0.1}, {"encourage": 0.0}, {"drop_best": 0.1}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SequenceLossSettings(**wrong)
    with pytest.raises(ValueError, match="halves"):
        loss(logits, target, consistency=1.0)
    with pytest.raises(ValueError, match="range"):
        loss(logits, target, token_range=(2, 5))
    with pytest.raises(ValueError, match="either"):
        loss(logits, target, token_range=(4, 5), allowed=torch.ones(3, 6, VOCABULARY, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 2"):
        leave_one_out(torch.ones(3, 1))
