"""What needs no model: guesses that know the answers of the training table and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

Guess = Callable[[Tensor, int], Tensor]
"""Targets of training examples (n, ...) and the number of scores -> scores of any example, (1, scores)."""


def most_frequent(targets: Tensor, outputs: int) -> Tensor:
    """How often each class, or each answer, is right in training."""
    counts = torch.bincount(targets, minlength=outputs).float() if targets.ndim == 1 else targets.sum(dim=0)
    return counts[None]


def equal(targets: Tensor, outputs: int) -> Tensor:
    """The same for all: average precision is then the share of examples that have the label."""
    return torch.zeros(1, outputs)


def centre_box(targets: Tensor, outputs: int) -> Tensor:
    """A box of the mean width and height in the middle of the picture, before the sigmoid."""
    half = (targets[:, 2:] - targets[:, :2]).mean(dim=0) / 2
    return torch.logit(torch.cat([0.5 - half, 0.5 + half]))[None]


BASELINES: Mapping[str, Guess] = {
    "most frequent": most_frequent,
    "equal scores": equal,
    "centre box": centre_box,
}
CHANCE = "chance"  # one of the candidates at random: needs no scores
