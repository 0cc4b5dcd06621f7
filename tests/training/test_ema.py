"""The average of the weights is an average."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from one_peace.training.ema import WeightAverage


def test_it_is_the_exponential_average_of_all_updates() -> None:
    layer = nn.Linear(3, 2)
    average = WeightAverage(layer.named_parameters(), decay=0.9)
    expected = layer.weight.detach().double()
    for update in range(1, 6):
        with torch.no_grad():
            layer.weight += torch.randn(2, 3, generator=torch.Generator().manual_seed(update))
        average.update(update)
        expected = 0.9 * expected + 0.1 * layer.weight.detach().double()
    torch.testing.assert_close(average.averages["weight"].double(), expected, rtol=1e-6, atol=1e-6)
    average.copy_to_model()
    assert torch.equal(layer.weight, average.averages["weight"])


def test_until_its_start_it_follows_the_weights() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = WeightAverage(layer.named_parameters(), decay=0.5, start=2)
    for update, value in ((1, 1.0), (2, 3.0), (3, 5.0)):
        nn.init.constant_(layer.weight, value)
        average.update(update)
    assert average.averages["weight"].item() == 4.0


def test_a_decay_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="ema decay"):
        WeightAverage([], decay=1.0)
