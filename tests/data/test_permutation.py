"""Shuffling without a list: permutations, and the order of a source."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from one_peace.data.permutation import BLOCKS_AT_ONCE, ShuffledOrder, mix, permute


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=25)
def test_a_permutation_is_one_to_one(size: int, key: int) -> None:
    assert np.array_equal(np.sort(permute(np.arange(size), size, key)), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 1023, 1025, 99_991])
def test_odd_sizes(size: int) -> None:
    assert len(set(permute(np.arange(size), size, 7).tolist())) == size


@given(size=st.integers(10**9, 10**15), key=st.integers(0, 2**64 - 1))
@settings(max_examples=15)
def test_huge_permutations_are_computed_where_asked(size: int, key: int) -> None:
    some = np.unique(np.random.default_rng(0).integers(0, size, 500))
    sent = permute(some, size, key)
    assert len(set(sent.tolist())) == len(some)
    assert sent.min() >= 0 and sent.max() < size


def test_a_permutation_looks_random() -> None:
    """Neither order nor neighbourhood is kept, and keys give unlike permutations."""
    size = 10_007
    sent = permute(np.arange(size), size, 1).astype(float)
    assert abs(np.corrcoef(sent, np.arange(size))[0, 1]) < 0.05
    assert abs(np.corrcoef(sent[1:], sent[:-1])[0, 1]) < 0.05
    assert (sent == permute(np.arange(size), size, 2)).mean() < 0.01
    # Every tenth of the input is spread over every tenth of the output.
    table = np.histogram2d(np.arange(size), sent, bins=10)[0]
    assert table.min() > 60 and table.max() < 145


def test_keys_are_the_same_in_every_process() -> None:
    assert mix(3407, "order", "stamps") == 9355726346461825412
    assert len({mix(1, 2), mix(2, 1), mix(1), mix("1", 2)}) == 4


lengths = st.lists(st.integers(0, 9), min_size=1, max_size=60).filter(any)


@given(lengths=lengths, key=st.integers(0, 2**32))
@settings(max_examples=25)
def test_each_epoch_has_every_pair_once(lengths: list[int], key: int) -> None:
    blocks = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    total = int(blocks[-1])
    order = ShuffledOrder(blocks, key)
    draws = order.indices(np.arange(3 * total))
    for epoch in draws.reshape(3, total):
        assert np.array_equal(np.sort(epoch), np.arange(total))
    # Any part of it can be asked for, in any order, by a copy in another process.
    copy = pickle.loads(pickle.dumps(order))
    some = np.random.default_rng(0).integers(0, 3 * total, 7)
    assert np.array_equal(copy.indices(some), draws[some])


def test_epochs_are_in_unlike_orders() -> None:
    order = ShuffledOrder(np.arange(0, 1001, 10), 5)
    first, second = order.indices(np.arange(2000)).reshape(2, 1000)
    assert (first == second).mean() < 0.02


def test_few_blocks_are_read_at_a_time() -> None:
    order = ShuffledOrder(np.arange(0, 10_001, 100), 5)
    for start in range(0, 9600, 100 * BLOCKS_AT_ONCE):
        drawn = order.indices(np.arange(start, start + 100 * BLOCKS_AT_ONCE))
        assert len(np.unique(drawn // 100)) == BLOCKS_AT_ONCE
    assert len(np.unique(order.indices(np.arange(200)) // 100)) > BLOCKS_AT_ONCE / 2


def test_replacements_are_near_first_and_reach_everything() -> None:
    order = ShuffledOrder(np.arange(0, 1001, 10), 5)
    near = order.neighbours(3, 80)[:10]
    assert set(near // 10) <= set(order.indices(np.arange(160)) // 10)
    assert set(order.neighbours(3, 1000)[-1000:]) == set(range(1000))
    assert not np.array_equal(order.neighbours(3, 100), order.neighbours(4, 100))
