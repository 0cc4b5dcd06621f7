"""Rates, counted on a clock of our own."""

from __future__ import annotations

import pytest

from one_peace.training import throughput
from one_peace.training.throughput import Throughput
from training_runs import Clock


def test_rates_are_those_since_the_last_row(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(throughput, "time", clock)
    asked: list[float] = []

    def further(seconds: float) -> dict[str, float]:
        asked.append(seconds)
        clock.now += 1000  # measuring does not count
        return {"waiting": 0.5}

    rates = Throughput(10, 5, 4, further)
    clock.now += 2
    assert rates.rates(5) == {"pairs_per_second": 2.5, "waiting": 0.5, "seconds_left": 10.0}
    clock.now += 0.5
    with rates.paused():
        clock.now += 100
    again = rates.rates(7)
    assert again["pairs_per_second"] == 20.0 and asked == [2.0, 0.5]
    assert again["seconds_left"] == pytest.approx(3 * 102.5 / 3)  # evaluations will come again
