"""The most likely alignment, against trying all of them."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from one_peace.objectives.forced_alignment import forced_alignment


def every_alignment(columns: int, optional: list[bool]) -> list[tuple[int, ...]]:
    """All ways from the first state to the last one that leave out optional states alone, never two in a row."""
    states = range(len(optional))
    found = []
    for path in itertools.combinations_with_replacement(states, columns):
        left_out = [state for state in states if state not in path]
        in_a_row = any(b == a + 1 for a, b in itertools.pairwise(left_out))
        if all(optional[state] for state in left_out) and not in_a_row:
            found.append(path)
    return found


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=5), st.integers())
def test_it_is_the_best_of_all(columns: int, states: list[tuple[int, bool]], seed: int) -> None:
    classes, optional = [a for a, _ in states], [b for _, b in states]
    scores = torch.randn(columns, 4, generator=torch.Generator().manual_seed(seed % 2**31)).log_softmax(1)
    paths = every_alignment(columns, optional)
    if columns < len(optional) - sum(optional) or not paths:
        if columns < max(1, len(optional) - sum(optional)):
            with pytest.raises(ValueError, match="cannot hold"):
                forced_alignment(scores, classes, optional)
        return
    likelihoods = [sum(scores[c, classes[s]].item() for c, s in enumerate(path)) for path in paths]
    aligned, likelihood = forced_alignment(scores, classes, optional)
    assert aligned.shape == (columns,) and aligned.dtype == torch.int64
    assert likelihood == pytest.approx(max(likelihoods), abs=1e-5)
    assert tuple(aligned.tolist()) in paths
    found = sum(scores[c, classes[s]].item() for c, s in enumerate(aligned.tolist()))
    assert found == pytest.approx(likelihood, abs=1e-5)


def test_what_is_clearly_heard_is_found() -> None:
    heard = [0, 0, 2, 2, 2, 0, 1, 1, 3]
    scores = torch.full((9, 4), -5.0)
    scores[range(9), heard] = -0.1
    aligned, likelihood = forced_alignment(scores, [0, 2, 0, 1, 0, 3, 0], [True, False, True, False, True, False, True])
    assert aligned.tolist() == [0, 0, 1, 1, 1, 2, 3, 3, 5] and likelihood == pytest.approx(-0.9)


def test_too_much_for_too_short_a_time_is_told() -> None:
    with pytest.raises(ValueError, match="2 columns cannot hold 3 states"):
        forced_alignment(torch.zeros(2, 4), [1, 2, 3], [False] * 3)
    with pytest.raises(ValueError, match="cannot hold"):
        forced_alignment(torch.zeros(2, 4), [], [])
