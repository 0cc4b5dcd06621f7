"""Where pairs come from: one small interface in front of tables, folders and shards.

A source is random-access: `read(index)` depends on the index alone. Order, mixture, decoding and workers are built on
top of that (`mixture.py`, `loading.py`), so that any step of a run can be drawn again by any number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from one_peace.errors import InputError

LONGEST_NAMED = 600  # characters of what a message says of a pair


@dataclass(frozen=True)
class RawPair:
    """A pair as it is stored: a caption, and the partner (a picture, a sound) as a file or as a file's contents.

    `key` names the pair in messages: the file it stands in, and where.
    """

    key: str
    text: str
    partner: bytes | Path


class UnusablePair(InputError):
    """A pair that cannot be read; `reason` is what such pairs are counted by. Long texts are cut in the middle."""

    def __init__(self, source: str, problem: str, reason: str) -> None:
        super().__init__(_shortened(source), _shortened(problem))
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnusablePair], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.source, self.problem, self.reason)


def _shortened(text: str) -> str:
    """What a message can hold of a text: a damaged row may be anything, of any length."""
    return text if len(text) <= LONGEST_NAMED else f"{text[: LONGEST_NAMED * 2 // 3]}...{text[-LONGEST_NAMED // 4 :]}"


class PairSource(Protocol):
    """Pairs by index, from 0 to `len(source) - 1`. Picklable: workers get copies, and open files themselves."""

    @property
    def name(self) -> str:
        """What the source is called in messages and reports."""

    @property
    def blocks(self) -> np.ndarray:
        """Where runs of pairs begin that lie together on the disk: (blocks + 1,) int64, from 0 to the length."""

    @property
    def sized_by_block(self) -> bool:
        """Whether `sizes` of a block are known only while it can be had: a shard that may be away. Else all are."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> RawPair:
        """One pair; `UnusablePair` if it is damaged or missing."""

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        """How long texts and partners are, without reading them: (n,) int64 -> (n, 2) int64.

        In any unit that grows with the number of tokens, 0 where it is unknown: only used to put pairs of similar
        length into one batch. They never change, but where `sized_by_block` a block of which nothing is known has 0
        for all its pairs, and they cannot be read before `sizes` knows better.
        """


class ConcatenatedSource:
    """Several sources of one kind one after the other, under one name."""

    sized_by_block = False

    def __init__(self, name: str, parts: Sequence[PairSource]) -> None:
        if not parts:
            raise ValueError(f"{name}: no sources to put together")
        self.name, self.parts = name, list(parts)
        self._starts = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
        shifted = [part.blocks[:-1] + start for part, start in zip(parts, self._starts, strict=False)]
        self.blocks = np.concatenate([*shifted, self._starts[-1:]])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def read(self, index: int) -> RawPair:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self.parts[part].read(index - int(self._starts[part]))

    def sizes(self, indices: np.ndarray) -> np.ndarray:
        part_of = np.searchsorted(self._starts, indices, side="right") - 1
        sizes = np.zeros((len(indices), 2), np.int64)
        for part in np.unique(part_of):
            chosen = part_of == part
            sizes[chosen] = self.parts[part].sizes(indices[chosen] - self._starts[part])
        return sizes
