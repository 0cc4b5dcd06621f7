"""The figure of a task from its scores, example by example, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from one_peace.tasks.classification import MeanAveragePrecision
from one_peace.tasks.retrieval import wilson_interval
from one_peace.tasks.task import Task, TaskBatch

RESAMPLES = 300
LEVEL = 0.95


class Measured(Protocol):
    """What a model reached on a test table, which can be asked again for a part of its examples."""

    @property
    def keys(self) -> list[str]:
        """The examples in order."""

    @property
    def is_share(self) -> bool:
        """Whether the figure is a share of right examples, and not one that orders all of them."""

    def value(self, places: Sequence[int] | None = None) -> float:
        """The figure over the examples at `places`, by default over all."""


@dataclass(frozen=True)
class Scored:
    """A task's scores: one entry per example, as (scores, batch of one)."""

    task: Task
    examples: list[tuple[Tensor, TaskBatch]]

    @property
    def keys(self) -> list[str]:
        return [batch.keys[0] for _, batch in self.examples]

    @property
    def is_share(self) -> bool:
        return not isinstance(self.task.figures(), MeanAveragePrecision)

    def value(self, places: Sequence[int] | None = None) -> float:
        figures = self.task.figures()
        for place in range(len(self.examples)) if places is None else places:
            figures.add(*self.examples[place])
        return figures.result()[figures.main]


@dataclass(frozen=True)
class Hits:
    """Queries of retrieval, each with 1.0 or 0.0."""

    keys: list[str]
    hits: Tensor
    is_share: bool = True

    def value(self, places: Sequence[int] | None = None) -> float:
        return float((self.hits if places is None else self.hits[list(places)]).mean())


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval over the test examples."""

    value: float
    low: float
    high: float


def split_batch(scores: Tensor, batch: TaskBatch) -> list[tuple[Tensor, TaskBatch]]:
    """(scores, batch) of each example; candidates of one question stay together."""
    rows = scores.shape[0] // len(batch.keys)
    assert batch.target is not None
    return [
        (
            scores[number * rows : (number + 1) * rows],
            TaskBatch([key], {}, batch.target[number : number + 1], [batch.facts[number]]),
        )
        for number, key in enumerate(batch.keys)
    ]


def estimate(measured: Measured) -> Estimate:
    """The figure with its interval: Wilson's for shares, else the bootstrap's over examples."""
    value, count = measured.value(), len(measured.keys)
    if measured.is_share:
        return Estimate(value, *wilson_interval(value * count, count))
    return Estimate(value, *_around(value, [measured.value(places) for places in _resamples(count)]))


def difference(first: Measured, second: Measured) -> Estimate:
    """The first one's figure minus the second one's on the same examples: the bootstrap's interval."""
    if first.keys != second.keys:
        raise ValueError("two models are compared on the same examples, in the same order")
    gap, places = first.value() - second.value(), _resamples(len(first.keys))
    if first.is_share:
        each = torch.tensor([first.value([place]) - second.value([place]) for place in range(len(first.keys))])
        return Estimate(gap, *_middle(torch.stack([each[chosen].mean() for chosen in places])))
    return Estimate(gap, *_around(gap, [first.value(chosen) - second.value(chosen) for chosen in places]))


def _resamples(count: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(count, (count,), generator=generator).tolist() for _ in range(RESAMPLES)]


def _around(value: float, resampled: Sequence[float]) -> tuple[float, float]:
    """Average precision of resampled examples, some twice, is too high: their spread counts, not their place."""
    values = torch.tensor(resampled, dtype=torch.float64)
    return _middle(values - values.median() + value)


def _middle(values: Tensor) -> tuple[float, float]:
    low, high = values.double().quantile(torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)).tolist()
    return low, high
