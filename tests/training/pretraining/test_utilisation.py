"""Rates: counted on a clock of our own; utilisation from the dry run's count."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from one_peace.training import throughput
from one_peace.training.distributed import Processes
from one_peace.training.pretraining import utilisation
from one_peace.training.pretraining.cost import PretrainingStep
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.pretraining.utilisation import MeteredBatches, TokenRates, Utilisation, matmul_rate
from one_peace.training.throughput import Throughput
from tiny_models import CONFIG
from training_runs import PROCESSORS, RECIPE, Clock, Pairs, batches


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(throughput, "time", made)
    monkeypatch.setattr(utilisation, "time", made)
    return made


def metered(clock: Clock, denoise_every: int = 1) -> MeteredBatches:
    def slow(*place: int) -> Pairs:
        clock.now += 0.5
        return batches(*place)

    return MeteredBatches(slow, dataclasses.replace(RECIPE, denoise_every=denoise_every), PROCESSORS)


TOKENS = sum(2 + len(text["tokens"]) + 16 for text, _ in batches(5, 0, 0))  # 16 patches, two cls


def test_rates_are_those_since_the_last_row(clock: Clock) -> None:
    drawn = metered(clock)
    rates = Throughput(10, RECIPE.batch_size, 4, TokenRates(drawn, Processes()))
    drawn(5, 0, 4)
    clock.now += 1.5
    first = rates.rates(5)
    assert first == {
        "pairs_per_second": 2.5,
        "tokens_per_second": round(TOKENS / 2, 1),
        "waiting": 0.25,
        "seconds_left": 10.0,
    }
    drawn(5, 0, 5)
    with rates.paused():
        clock.now += 100
    second = rates.rates(6)
    assert second["pairs_per_second"] == 10.0 and second["waiting"] == 1.0
    assert second["seconds_left"] == pytest.approx(4 * 102.5 / 2)  # evaluations will come again


def test_utilisation_is_the_dry_runs_arithmetic_over_the_matmul_rate(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rate(device: str, dtype: torch.dtype) -> float:
        clock.now += 1000  # measuring does not count
        assert (device, dtype) == ("cpu", torch.float32)
        return 1e9

    monkeypatch.setattr(utilisation, "matmul_rate", rate)
    drawn, recipe = metered(clock), dataclasses.replace(RECIPE, steps=10)
    rates = Throughput(10, recipe.batch_size, 0, TokenRates(drawn, Processes(), utilisation_of(recipe)))
    drawn(5, 0, 0)
    clock.now += 1.5
    before = torch.get_rng_state()
    row = rates.rates(1)
    assert torch.equal(torch.get_rng_state(), before)
    # pairs of other lengths cost about in proportion to their tokens
    flops = PretrainingStep(CONFIG, recipe.stage, PROCESSORS).cost(batches(5, 0, 0), 5).flops
    assert row["mfu"] == pytest.approx(flops / 2.0 / 1e9, rel=0.15)
    assert row["matmul_tflops"] == 0.001 and row["seconds_left"] == 18.0
    drawn(5, 0, 1)
    clock.now += 1.5
    again: dict[str, Any] = rates.rates(2)
    assert "matmul_tflops" not in again and again["pairs_per_second"] == 2.5
    assert again["seconds_left"] == 16.0 and again["mfu"] == pytest.approx(row["mfu"], rel=0.1)


def test_steps_without_denoising_cost_less(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utilisation, "matmul_rate", lambda device, dtype: 1e6)
    monkeypatch.setattr(Utilisation, "_per_token", lambda self, denoise, typical: 3000.0 if denoise else 1000.0)
    drawn, recipe = metered(clock, denoise_every=2), dataclasses.replace(RECIPE, denoise_every=2)
    two = Processes(count=2)  # of which each has counted its own half
    figures = TokenRates(drawn, Processes(), Utilisation(recipe, CONFIG, PROCESSORS, "cpu", two))
    rates = Throughput(recipe.steps, recipe.batch_size, 0, figures)
    for step in (0, 1):
        drawn(5, 0, step)
    row = rates.rates(2)
    assert row["mfu"] == pytest.approx((3000 + 1000) * TOKENS / 1.0 / 2e6, rel=1e-3)


def utilisation_of(recipe: PretrainRecipe) -> Utilisation:
    return Utilisation(recipe, CONFIG, PROCESSORS, "cpu", Processes())


def test_typical_pairs_are_of_middling_length(clock: Clock) -> None:
    drawn = metered(clock)
    drawn(5, 0, 0)
    lengths = sorted(drawn.length(pair) for pair in batches(5, 0, 0))
    assert [drawn.length(pair) for pair in drawn.typical] == lengths[2:4]


def test_the_matmul_rate_is_measured_once() -> None:
    first = matmul_rate("cpu", torch.float32)
    assert 1e8 < first < 1e14 and matmul_rate("cpu", torch.float32) == first
