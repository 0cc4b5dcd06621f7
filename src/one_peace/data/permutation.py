"""Shuffling without a list: permutations that compute where a position goes, and block-wise order for locality."""

from __future__ import annotations

import math
import zlib
from functools import lru_cache

import numpy as np

ROUNDS = 6  # of the Feistel network: enough that no pattern of the input is left
BLOCKS_AT_ONCE = 16  # pairs are shuffled among this many blocks: with shards, how many are open at a time

# The finaliser of SplitMix64.
_STEP, _FIRST, _SECOND, _MASK = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0xFFFF_FFFF_FFFF_FFFF


def mix(*parts: int | str) -> int:
    """A 64-bit key from numbers and names, the same in every process."""
    key = 0
    for part in parts:
        number = zlib.crc32(part.encode()) if isinstance(part, str) else part
        key = ((key ^ number) + _STEP) & _MASK  # `_scramble` of one number, without the cost of an array
        key = ((key ^ (key >> 30)) * _FIRST) & _MASK
        key = ((key ^ (key >> 27)) * _SECOND) & _MASK
        key ^= key >> 31
    return key


def permute(positions: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a random permutation of 0..size-1 sends some positions: (n,) int64 -> (n,) int64.

    Each `key` is another permutation. Nothing is stored: a Feistel network on the square above `size`, repeated for
    the few numbers that fall outside (cycle walking), which keeps it one-to-one.
    """
    side = math.isqrt(size - 1) + 1 if size > 0 else 1  # the smallest square that holds `size` numbers
    keys = [np.uint64(mix(key, turn)) for turn in range(ROUNDS)]
    result = np.asarray(positions, np.int64).copy()
    outside = np.ones(len(result), bool)
    while outside.any():
        high, low = np.divmod(result[outside].astype(np.uint64), np.uint64(side))
        for turn_key in keys:
            high, low = low, (high + _scramble(low ^ turn_key) % np.uint64(side)) % np.uint64(side)
        result[outside] = (high * np.uint64(side) + low).astype(np.int64)
        outside = result >= size
    return result


def _scramble(numbers: np.ndarray) -> np.ndarray:
    """A hash of each number, uint64 -> uint64."""
    numbers = numbers + np.uint64(_STEP)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(_FIRST)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(_SECOND)
    return numbers ^ (numbers >> np.uint64(31))


class ShuffledOrder:
    """The order in which a source is gone through, epoch after epoch, each pair once an epoch.

    Blocks are shuffled, then pairs within groups of `BLOCKS_AT_ONCE` blocks: what is read at one time lies together.
    Only the order of the blocks is held in memory.
    """

    def __init__(self, blocks: np.ndarray, key: int) -> None:
        self.starts, self.lengths = blocks[:-1], np.diff(blocks)
        self.length, self.key = int(blocks[-1]), key
        self._epoch = lru_cache(maxsize=4)(self._shuffle_blocks)

    def __getstate__(self) -> dict[str, object]:
        return {"blocks": np.concatenate([self.starts, [self.length]]), "key": self.key}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(state["blocks"], state["key"])  # type: ignore[misc]

    def _shuffle_blocks(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Blocks in the order of an epoch, and the position at which each begins and the last one ends."""
        count = len(self.lengths)
        order = permute(np.arange(count), count, mix(self.key, "blocks", epoch))
        return order, np.concatenate([[0], np.cumsum(self.lengths[order])])

    def indices(self, draws: np.ndarray) -> np.ndarray:
        """The pairs of the draws 0, 1, 2, ...: (n,) int64 -> (n,) int64. Draw `length` is the first of epoch 1."""
        result = np.empty(len(draws), np.int64)
        epochs, positions = np.divmod(draws, self.length)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            result[chosen] = self._within_epoch(positions[chosen], int(epoch))
        return result

    def neighbours(self, draw: int, attempts: int) -> np.ndarray:
        """Other pairs for a draw whose own is of no use: some of the same blocks, then of the whole source.

        At most `attempts`; if that is the length of the source or more, every pair is among them.
        """
        epoch, position = divmod(draw, self.length)
        order, begins = self._epoch(epoch)
        first, last = self._window(begins, position)
        key = mix(self.key, "replacement", draw)
        near = permute(np.arange(min(attempts // 8, last - first)), last - first, key) + first
        near_indices = self._place(near, order, begins)
        anywhere = permute(np.arange(min(attempts, self.length)), self.length, key)
        return np.concatenate([near_indices, anywhere])

    def _within_epoch(self, positions: np.ndarray, epoch: int) -> np.ndarray:
        order, begins = self._epoch(epoch)
        shuffled = np.empty_like(positions)
        remaining = np.ones(len(positions), bool)
        while remaining.any():
            first, last = self._window(begins, int(positions[remaining][0]))
            here = (positions >= first) & (positions < last)
            key = mix(self.key, "pairs", epoch, first)
            shuffled[here] = permute(positions[here] - first, last - first, key) + first
            remaining &= ~here
        return self._place(shuffled, order, begins)

    @staticmethod
    def _window(begins: np.ndarray, position: int) -> tuple[int, int]:
        """Where the group of blocks around a position begins and ends."""
        block = int(np.searchsorted(begins, position, side="right")) - 1
        first = block // BLOCKS_AT_ONCE * BLOCKS_AT_ONCE
        return int(begins[first]), int(begins[min(first + BLOCKS_AT_ONCE, len(begins) - 1)])

    def _place(self, positions: np.ndarray, order: np.ndarray, begins: np.ndarray) -> np.ndarray:
        block = np.searchsorted(begins, positions, side="right") - 1
        return self.starts[order[block]] + positions - begins[block]
