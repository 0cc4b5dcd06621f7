"""Batching by length: nothing lost, limits kept, little padding, no batch that need not be."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from one_peace.models.batching import MAX_PADDING, batch_by_length

LENGTHS = st.lists(st.integers(1, 300), max_size=80)


@given(lengths=LENGTHS, max_tokens=st.integers(1, 2000), batch_size=st.none() | st.integers(1, 16))
def test_every_item_comes_once_within_the_limits(lengths: list[int], max_tokens: int, batch_size: int | None) -> None:
    batches = batch_by_length(lengths, max_tokens, batch_size)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = max(lengths[i] for i in batch) * len(batch)
        assert len(batch) == 1 or padded <= max_tokens
        assert batch_size is None or len(batch) <= batch_size
        assert padded - sum(lengths[i] for i in batch) <= MAX_PADDING * padded


@given(lengths=LENGTHS, max_tokens=st.integers(1, 2000), batch_size=st.none() | st.integers(1, 16))
def test_under_a_tenth_is_padding(lengths: list[int], max_tokens: int, batch_size: int | None) -> None:
    padded = sum(max(lengths[i] for i in b) * len(b) for b in batch_by_length(lengths, max_tokens, batch_size))
    assert padded - sum(lengths) <= 0.1 * padded


@given(lengths=LENGTHS, max_tokens=st.integers(1, 2000), batch_size=st.none() | st.integers(1, 16))
def test_a_batch_ends_only_where_a_limit_makes_it(lengths: list[int], max_tokens: int, batch_size: int | None) -> None:
    for batch, following in pairwise(batch_by_length(lengths, max_tokens, batch_size)):
        longer = [lengths[i] for i in [*batch, following[0]]]
        padded = max(longer) * len(longer)
        too_many = padded > max_tokens or (batch_size is not None and len(longer) > batch_size)
        assert too_many or padded - sum(longer) > MAX_PADDING * padded


def test_no_items_make_no_batches() -> None:
    assert batch_by_length([], max_tokens=100) == []


def test_an_item_over_the_limit_is_alone() -> None:
    assert batch_by_length([5, 500, 5], max_tokens=100) == [[1], [0, 2]]


def test_equal_lengths_fill_batches() -> None:
    assert [len(b) for b in batch_by_length([10] * 25, max_tokens=100)] == [10, 10, 5]


def test_the_longest_come_first() -> None:
    """What needs most memory is met at once, not at the end of a long list."""
    assert batch_by_length([3, 50, 4], max_tokens=100)[0] == [1]
