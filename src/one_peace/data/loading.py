"""Batches of a mixture: which pairs make up a step, decoded, with replacements for those that cannot be used.

A batch depends on the seed, its size and the step alone, whatever the number of processes that draw it and wherever
a run began. `prefetch.py` puts worker processes in front.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Literal

import numpy as np
import torch

from one_peace.data.decoding import PairDecoder
from one_peace.data.dropped import Dropped, Padding
from one_peace.data.mixture import Mixture, Slots
from one_peace.data.permutation import mix, permute
from one_peace.data.source import UnusablePair
from one_peace.errors import OnePeaceError
from one_peace.modalities.base import Example

Pair = tuple[Example, Example]
ATTEMPTS = 1000  # replacements tried for one pair before a source counts as unusable
GROUPED_STEPS = 32  # batches whose pairs are sorted by length together, at most
LEFT_OUT = "left out: "  # before the reasons, among the totals of a report
MOST_COPIES = 0.1  # of the pairs that are sorted together: a pair and its copies come into one batch


class NoUsableData(OnePeaceError):
    """A source in which nothing usable could be found; the message says what was wrong with it."""

    def __reduce__(self) -> tuple[type[NoUsableData], tuple[str]]:
        return type(self), (str(self),)


@dataclass
class LoadedBatch:
    """Pairs of one process in one step, their lengths (text, partner) in tokens, and (reason, message) of failures."""

    pairs: list[Pair]
    lengths: list[tuple[int, int]]
    failures: list[tuple[str, str]]


class PairLoader:
    """Draws, decodes and groups. Picklable: each worker has one.

    Args:
        group_by: what batches are sorted by: the length of the `text`, of the `partner`, or None to keep the order of
            the mixture. Pairs of `GROUPED_STEPS` batches are sorted and cut, and the batches shuffled; fewer where
            sources would be gone through so often that more than `MOST_COPIES` of the pairs repeat others. The pairs of
            a shard are sorted among themselves, so that one which is away for some process moves no other pair.
    """

    def __init__(
        self, mixture: Mixture, decoder: PairDecoder, group_by: Literal["text", "partner"] | None = None
    ) -> None:
        self.mixture, self.decoder, self.group_by = mixture, decoder, group_by
        self._grouped: tuple[tuple[int, int], list[Slots]] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_grouped": None}

    def slots(self, size: int, step: int) -> Slots:
        """What the global batch of a step is made of, before replacements."""
        if self.group_by is None:
            return self.mixture.slots(step * size, size)
        steps = self._steps(size)
        window, place = divmod(step, steps)
        if self._grouped is None or self._grouped[0] != (size, window):
            self._grouped = (size, window), self._group(size, steps, window)
        return self._grouped[1][place]

    def _steps(self, size: int) -> int:
        """Batches whose pairs are sorted together: as many as bring few more copies of a pair than one batch has."""
        allowed = self.mixture.copies(size) + MOST_COPIES
        return max(n for n in range(1, GROUPED_STEPS + 1) if n == 1 or self.mixture.copies(n * size) <= allowed)

    def _group(self, size: int, steps: int, window: int) -> list[Slots]:
        slots = self.mixture.slots(window * steps * size, steps * size)
        sizes = self.mixture.sizes(slots)
        text, partner = sizes[:, 0], sizes[:, 1]
        lengths = (text, partner) if self.group_by == "partner" else (partner, text)
        order = _short_to_long(lengths, self.mixture.parts(slots))
        shuffled = permute(np.arange(steps), steps, mix(self.mixture.seed, "batches", window))
        return [slots[order[batch * size : (batch + 1) * size]] for batch in shuffled]

    def load(self, size: int, step: int, rank: int = 0, world: int = 1) -> LoadedBatch:
        """The slice of process `rank` of `world` of the global batch of a step.

        Raises:
            ValueError: the batch cannot be divided among the processes.
            NoUsableData: a source without anything usable.
        """
        if size % world:
            raise ValueError(f"a batch of {size} pairs cannot be divided among {world} processes")
        local = size // world
        slots = self.slots(size, step)[np.arange(rank * local, (rank + 1) * local)]
        failures: list[tuple[str, str]] = []
        pairs = [self._pair(slots, place, failures) for place in range(local)]
        return LoadedBatch(pairs, [self.decoder.length(pair) for pair in pairs], failures)

    def _pair(self, slots: Slots, place: int, failures: list[tuple[str, str]]) -> Pair:
        """The pair of a slot, or the next usable one of the same source in an order that the slot decides."""
        number, source = int(slots.numbers[place]), int(slots.source[place])
        seed = mix(self.mixture.seed, "augmentation", number) >> 1
        tried = 0
        candidates = slots.index[place : place + 1]
        while True:
            for index in candidates:
                tried += 1
                try:
                    raw = self.mixture.read(source, int(index))
                    return self.decoder(raw, torch.Generator().manual_seed(seed))
                except UnusablePair as error:
                    failures.append((error.reason, str(error)))
            if tried > 1:
                raise NoUsableData(self._nothing(source, tried, failures[-tried:]))
            candidates = self.mixture.orders[source].neighbours(int(slots.draw[place]), ATTEMPTS)

    def _nothing(self, source: int, tried: int, failures: list[tuple[str, str]]) -> str:
        dropped = Dropped()
        for reason, _ in failures:
            dropped.counts[reason] += 1
        name = self.mixture.sources[source].name
        return f"{name}: nothing usable after {tried} attempts. {dropped}. The last one: {failures[-1][1]}"


def _short_to_long(lengths: tuple[np.ndarray, np.ndarray], parts: np.ndarray) -> np.ndarray:
    """An order of slots in which the lengths (last one first) of each part grow, all parts spread evenly over it.

    Which places a part gets depends on how many slots are of it alone, and never on lengths: nobody needs to know
    those of one part to place another.
    """
    within = np.lexsort((*lengths, parts))
    _, first, counts = np.unique(parts[within], return_index=True, return_counts=True)
    place = (np.arange(len(parts)) - np.repeat(first, counts) + 0.5) / np.repeat(counts, counts)
    return within[np.argsort(place, kind="stable")]


@dataclass
class LoadingReport:
    """What loading has cost so far: pairs left out, padding, and seconds that training waited for data."""

    dropped: Dropped = field(default_factory=Dropped)
    padding: Padding = field(default_factory=Padding)
    waited: float = 0.0
    elapsed: float = 0.0

    @classmethod
    def of_all(cls, reports: Sequence[LoadingReport]) -> LoadingReport:
        """That of several processes together; the share of waiting is their mean."""
        dropped = Dropped()
        for report in reports:
            dropped.counts += report.dropped.counts
        padding = Padding.of_all([report.padding for report in reports])
        waited, elapsed = (sum(getattr(report, name) for report in reports) for name in ("waited", "elapsed"))
        return cls(dropped, padding, waited, elapsed)

    def totals(self) -> dict[str, float]:
        """All of it as numbers, for a saved state."""
        reasons = {f"{LEFT_OUT}{reason}": count for reason, count in self.dropped.counts.items()}
        return {**reasons, **asdict(self.padding), "waited": self.waited, "elapsed": self.elapsed}

    @classmethod
    def from_totals(cls, totals: Mapping[str, float]) -> LoadingReport:
        """Inverse of `totals`."""
        reasons = {name.removeprefix(LEFT_OUT): int(n) for name, n in totals.items() if name.startswith(LEFT_OUT)}
        padding = Padding(**{entry.name: int(totals[entry.name]) for entry in fields(Padding)})
        return cls(Dropped(Counter(reasons)), padding, totals["waited"], totals["elapsed"])

    @property
    def waiting(self) -> float:
        """Share of the time since the first batch was asked for that was spent waiting for data."""
        return self.waited / self.elapsed if self.elapsed else 0.0
