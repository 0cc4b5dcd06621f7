"""Which pair stands at which place of a run: sources mixed by weight, each in its own shuffled order.

Pairs of a run are numbered through: slot `step * batch_size + place`. What stands in a slot depends on the seed and on
its number alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from one_peace.data.permutation import ShuffledOrder, mix
from one_peace.data.source import PairSource, RawPair

CYCLE = 1000  # slots; over each such run the weights hold exactly, to a thousandth


@dataclass(frozen=True)
class Slots:
    """What stands in some slots: source, pair of that source and how often the source was drawn before, (n,) int64."""

    numbers: np.ndarray
    source: np.ndarray
    index: np.ndarray
    draw: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Slots:
        return Slots(self.numbers[chosen], self.source[chosen], self.index[chosen], self.draw[chosen])

    def __len__(self) -> int:
        return len(self.numbers)


class Mixture:
    """Sources with weights, by name; without weights each by its number of pairs.

    Raises:
        ValueError: no source, two of one name, an empty one, weights that name no source or are not positive.
    """

    def __init__(self, sources: Sequence[PairSource], seed: int, weights: Mapping[str, float] | None = None) -> None:
        names = [source.name for source in sources]
        if not sources:
            raise ValueError("no data sources are given")
        if len(set(names)) < len(names):
            raise ValueError(f"two data sources have the same name: {', '.join(sorted(names))}")
        if empty := [source.name for source in sources if not len(source)]:
            raise ValueError(f"data source without a single pair: {', '.join(empty)}")
        self.sources, self.seed = list(sources), seed
        self.shares = shares_of(names, weights or {source.name: float(len(source)) for source in sources})
        self.pattern = interleave(self.shares)
        # How many slots of the same source come before, within the pattern.
        self._earlier = np.zeros(CYCLE, np.int64)
        for number, share in enumerate(self.shares):
            self._earlier[self.pattern == number] = np.arange(share)
        self.orders = [ShuffledOrder(s.blocks, mix(seed, "order", s.name)) for s in sources]

    def copies(self, count: int) -> float:
        """The share of `count` slots in a row that repeat a pair which stands in another of them, about."""
        drawn = self.shares * (count / CYCLE)
        sizes = np.array([len(source) for source in self.sources])
        return float(np.maximum(drawn - sizes, 0).sum() / count)

    def slots(self, first: int, count: int) -> Slots:
        """The slots `first`, `first + 1`, ..."""
        numbers = np.arange(first, first + count, dtype=np.int64)
        cycle, place = np.divmod(numbers, CYCLE)
        source = self.pattern[place]
        draw = cycle * self.shares[source] + self._earlier[place]
        index = np.empty(count, np.int64)
        for number in np.unique(source):
            chosen = source == number
            index[chosen] = self.orders[number].indices(draw[chosen])
        return Slots(numbers, source, index, draw)

    def sizes(self, slots: Slots) -> np.ndarray:
        """`PairSource.sizes` of the pairs in some slots: (n, 2) int64."""
        sizes = np.zeros((len(slots), 2), np.int64)
        for number in np.unique(slots.source):
            chosen = slots.source == number
            sizes[chosen] = self.sources[number].sizes(slots.index[chosen])
        return sizes

    def parts(self, slots: Slots) -> np.ndarray:
        """Of which part of the data the pair in each slot is: (n,) int64. What is known of sizes is known of a part.

        A part is a block of a source that is `sized_by_block`; all other sources are one together, number -1.
        """
        parts = np.full(len(slots), -1, np.int64)
        first = 0
        for number, source in enumerate(self.sources):
            if source.sized_by_block:
                chosen = slots.source == number
                parts[chosen] = first + np.searchsorted(source.blocks, slots.index[chosen], side="right") - 1
                first += len(source.blocks) - 1
        return parts

    def read(self, source: int, index: int) -> RawPair:
        return self.sources[source].read(index)


def shares_of(names: Sequence[str], weights: Mapping[str, float]) -> np.ndarray:
    """Slots of each source per cycle: (sources,) int64 that add up to `CYCLE`, by largest remainder, one at least."""
    if unknown := sorted(set(weights) - set(names)):
        raise ValueError(f"a weight for {', '.join(unknown)}, but the data sources are {', '.join(names)}")
    if bad := [name for name in names if not weights.get(name, 0.0) > 0 or weights[name] == float("inf")]:
        raise ValueError(f"each data source needs a positive weight; missing or wrong: {', '.join(bad)}")
    if len(names) > CYCLE:
        raise ValueError(f"{len(names)} data sources; at most {CYCLE} can be mixed, put files of one kind together")
    wanted = np.array([weights[name] for name in names])
    wanted = wanted / wanted.sum() * CYCLE
    shares = np.maximum(1, np.floor(wanted)).astype(np.int64)
    while shares.sum() < CYCLE:
        shares[np.argmax(wanted - shares)] += 1
    while shares.sum() > CYCLE:
        shares[np.argmax(np.where(shares > 1, shares - wanted, -np.inf))] -= 1
    return shares


def interleave(shares: np.ndarray) -> np.ndarray:
    """Each source spread as evenly over the cycle as the others allow, so that every batch holds the weights nearly."""
    source = np.repeat(np.arange(len(shares)), shares)
    place = np.concatenate([(np.arange(share) + 0.5) / share for share in shares])
    return source[np.lexsort((source, place))]
