"""Hard negatives for matching."""

from __future__ import annotations

import pytest
import torch

from one_peace.objectives.matching import draw_negatives, matching_loss, negative_weights


def test_the_own_pair_is_never_drawn_and_hard_ones_often() -> None:
    logits = torch.tensor([[9.0, 3.0, 0.0], [0.0, 9.0, 3.0], [3.0, 0.0, 9.0]])
    weights = negative_weights(logits)
    assert torch.equal(weights.diagonal(), torch.zeros(3))
    drawn = torch.stack([draw_negatives(weights, torch.Generator().manual_seed(seed)) for seed in range(300)])
    own = torch.arange(3)
    assert not bool((drawn == own).any())
    hard = torch.tensor([1, 2, 0])
    expected = weights[0, 1] / weights[0].sum()
    assert abs((drawn == hard).float().mean() - expected) < 0.05


def test_candidates_of_other_processes() -> None:
    weights = negative_weights(torch.zeros(2, 6), offset=4)
    assert weights[0].tolist() == pytest.approx([1 / 6 + 1e-4] * 4 + [0, 1 / 6 + 1e-4])
    assert weights[1, 5] == 0


def test_impossible_ones_can_still_be_drawn() -> None:
    logits = torch.tensor([[0.0, -1e4], [-1e4, 0.0]])
    assert draw_negatives(negative_weights(logits)).tolist() == [1, 0]


def test_one_pair_has_no_negative() -> None:
    with pytest.raises(ValueError, match="two pairs"):
        negative_weights(torch.zeros(1, 1))


def test_the_loss_is_that_of_the_right_answers() -> None:
    logits = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    right = matching_loss(logits, torch.tensor([True, False]))
    assert right == pytest.approx((torch.log1p(torch.tensor(-2.0).exp()) + torch.log1p(torch.tensor(-3.0).exp())) / 2)
    assert matching_loss(logits, torch.tensor([False, True])) > right


def test_candidates_that_are_alike_are_not_drawn_unless_there_are_no_others() -> None:
    alike = torch.tensor([[False, True, False], [True, False, True], [False, False, False]])
    weights = negative_weights(torch.zeros(3, 3), alike=alike)
    assert (weights > 0).tolist() == [[False, False, True], [True, False, True], [True, True, False]]
