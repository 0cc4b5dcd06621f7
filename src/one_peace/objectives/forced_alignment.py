"""Which column says which sound of a known sequence: the most likely alignment (Viterbi)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def forced_alignment(
    log_probabilities: Tensor, states: Sequence[int], optional: Sequence[bool]
) -> tuple[Tensor, float]:
    """Which of the states every column is in -> ((columns,) int64, from 0 up and never back; their log-likelihood).

    log_probabilities (columns, classes) float; `states` are the classes in the order in which they are heard, each
    for at least one column, where `optional` ones may be left out; of two in a row at least one must stay.

    Raises:
        ValueError: fewer columns than states that are not optional.
    """
    needed = len(states) - sum(optional)
    columns = log_probabilities.shape[0]
    if not states or columns < max(1, needed):
        raise ValueError(f"{columns} columns cannot hold {needed} states")
    scores = log_probabilities.detach().cpu().double().numpy()[:, list(states)]
    may_skip = np.array([False, False, *list(optional)[1:-1]])[: len(states)]  # state s may follow state s - 2
    best = np.full(len(states), -np.inf)
    best[: 1 + (len(states) > 1 and optional[0])] = 0.0
    best += scores[0]
    steps = np.zeros((columns, len(states)), dtype=np.int64)  # how far back the state before is
    for column in range(1, columns):
        one, two = np.full((2, len(states)), -np.inf)
        one[1:] = best[:-1]
        two[2:] = np.where(may_skip[2:], best[:-2], -np.inf)
        choices = np.stack([best, one, two])
        steps[column] = choices.argmax(axis=0)
        best = choices.max(axis=0) + scores[column]
    state = len(states) - 1
    if state > 0 and optional[-1] and best[-2] > best[-1]:
        state -= 1
    likelihood = float(best[state])
    path = np.empty(columns, dtype=np.int64)
    for column in range(columns - 1, -1, -1):
        path[column] = state
        state -= steps[column, state]
    return torch.from_numpy(path), likelihood
