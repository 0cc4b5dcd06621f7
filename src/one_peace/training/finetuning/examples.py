"""Which rows of a table make up an update of fine-tuning, and the rows that cannot be used."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from one_peace.data.dropped import Collect, alone
from one_peace.data.permutation import mix, permute
from one_peace.data.rand_augment import augment_for_labels, augment_for_reasoning, random_blur
from one_peace.data.task_rows import Rows, WeightedRows
from one_peace.errors import InputError
from one_peace.media.pictures import decode_picture
from one_peace.tasks.task import BadDraw, Row, Task, TaskExample

SHOWN = 5  # unusable rows named in a report
MOST_UNUSABLE = 1000  # attempts in a row before the table counts as unusable
PICTURE_AUGMENTATIONS: Mapping[str, Callable[[Image.Image, torch.Generator], Image.Image] | None] = {
    "none": None,
    "blur": random_blur,
    "reasoning": augment_for_reasoning,
    "labels": augment_for_labels,
}


class NoUsableRows(InputError):
    """A table in which nothing can be used; the message says what was wrong with it."""


Made = TypeVar("Made", covariant=True)
"""What a row becomes."""


class Reader(Protocol[Made]):
    """What makes an example of a row: a `Task`, or the pairs of retrieval."""

    def example(self, row: Row, key: str) -> Made:
        """A row as an example. `InputError` names what is wrong with it under `key`."""


class DrawingReader(ABC, Generic[Made]):
    """A reader with a random part: an example differs each time it is drawn."""

    @abstractmethod
    def draw(self, row: Row, key: str, generator: torch.Generator) -> Made:
        """A row as an example, drawn anew. Errors as of `Reader`."""


@dataclass(frozen=True)
class Taught:
    """The reader of a task's rows that passes over those without a target."""

    task: Task

    def example(self, row: Row, key: str) -> TaskExample:
        """A row as an example with its target."""
        return self.task.taught(row, key)


class Examples(Generic[Made]):
    """Examples of a table by update: every epoch has its own order, which the seed and the epoch decide.

    A row that cannot be used is replaced by the next one of the order, which is drawn anew, and kept in `unusable` by
    its number until it can be. It is tried again when its turn comes: what an example is made of depends on its place
    alone, and not on what this process met before.
    `workers` threads, if any, decode the next update's examples while the model learns from the current ones; decoders
    release the interpreter lock meanwhile.
    """

    def __init__(
        self,
        rows: Rows,
        reader: Reader[Made] | DrawingReader[Made],
        seed: int,
        augmentation: str = "none",
        workers: int = 0,
    ) -> None:
        self.rows, self.reader, self.seed = rows, reader, seed
        self.augment = PICTURE_AUGMENTATIONS[augmentation]
        self.unusable: dict[int, InputError] = {}
        self.threads = ThreadPoolExecutor(workers) if workers else None
        self._ahead: tuple[range, list[Future[Made]]] = range(0), []

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, size: int, update: int, rank: int = 0, world: int = 1) -> list[Made]:
        """The examples of one process in update `update` (from 0): its slice of the same global batch."""
        places = self._places(size, update, rank, world)
        if self.threads is None:
            return [self.at(place) for place in places]
        expected, decoded = self._ahead
        if expected != places:  # the first update of a run
            decoded = [self.threads.submit(self.at, place) for place in places]
        following = self._places(size, update + 1, rank, world)
        self._ahead = following, [self.threads.submit(self.at, place) for place in following]
        return [example.result() for example in decoded]

    def _places(self, size: int, update: int, rank: int, world: int) -> range:
        local = size // world
        first = update * size + rank * local
        return range(first, first + local)

    def at(self, place: int) -> Made:
        """The example at a place of the run, the places of update `n` being `n * size` and on."""
        problem: InputError | None = None
        for attempt in range(MOST_UNUSABLE):
            index = self._row_of(place + attempt)
            try:
                made = self._example(index, self._generator(place, attempt))
            except BadDraw as error:
                problem = error
            except InputError as error:
                problem = self.unusable[index] = error
                if len(self.unusable) == len(self):
                    break
            else:
                self.unusable.pop(index, None)
                return made
        raise NoUsableRows(str(self.rows.path), f"nothing usable after {attempt + 1} attempts; the last one: {problem}")

    def _generator(self, place: int, attempt: int) -> torch.Generator:
        again = (attempt,) if attempt else ()
        return torch.Generator().manual_seed(mix(self.seed, "augmentation", place, *again) >> 1)

    def _row_of(self, place: int) -> int:
        if isinstance(self.rows, WeightedRows):
            return self.rows.drawn(place, self.seed)
        epoch, number = divmod(place, len(self))
        order = permute(np.array([number]), len(self), mix(self.seed, "order", epoch))
        return int(order[0])

    def _example(self, index: int, generator: torch.Generator) -> Made:
        key, row = self.rows.row(index)
        augment = self.augment
        if augment is not None:
            row = _augmented(row, self.rows.media, key, lambda picture: augment(picture, generator))
        if isinstance(self.reader, DrawingReader):
            return self.reader.draw(row, key, generator)
        return self.reader.example(row, key)

    def summary(self, collect: Collect = alone) -> str | None:
        """What all processes left out so far, None for nothing."""
        found: dict[int, InputError] = {}
        for unusable in collect(dict(self.unusable)):  # which threads that decode ahead may still change
            found |= unusable
        return left_out(str(self.rows.path), [found[index] for index in sorted(found)])


def left_out(table: str, errors: Sequence[InputError]) -> str | None:
    """How many rows of a table were left out, and why the first ones; None for nothing."""
    if not errors:
        return None
    shown = "; ".join(str(error) for error in errors[:SHOWN])
    more = f"; and {len(errors) - SHOWN} more" if len(errors) > SHOWN else ""
    return f"{len(errors)} rows of {table} left out: {shown}{more}"


def _augmented(
    row: Mapping[str, Any], media: Sequence[str], key: str, augment: Callable[[Image.Image], Image.Image]
) -> dict[str, Any]:
    """The row with its pictures decoded and augmented, each on its own."""
    changed = dict(row)
    for name in media:
        if name.startswith("image") and row.get(name):
            try:
                changed[name] = augment(decode_picture(row[name]))
            except InputError as error:
                raise InputError(key, f"column {name!r}: {error.problem}") from error
    return changed
