"""What is kept for the backward pass is counted without weights, whatever precision they are used in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from one_peace.training.cost import KeptMemory


@pytest.mark.parametrize("frozen", [False, True])
def test_copies_of_weights_in_half_precision_are_no_activations(frozen: bool) -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
    model[2].requires_grad_(not frozen)

    def most(batch: int, half: bool) -> int:
        with KeptMemory(model, ()) as kept:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                total = model(torch.randn(batch, 32)).sum()
            total.backward()
        return kept.most

    few, many = most(4, half=True), most(64, half=True)
    assert many == 16 * few and few == most(4, half=False) // 2
