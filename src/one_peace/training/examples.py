"""Which rows of a table make up an update of fine-tuning, and the rows that cannot be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from one_peace.data.permutation import mix, permute
from one_peace.data.rand_augment import augment_for_reasoning, random_blur
from one_peace.data.task_rows import TaskRows
from one_peace.errors import InputError
from one_peace.modalities.pictures import decode_picture
from one_peace.tasks.task import Task, TaskExample

SHOWN = 5  # unusable rows named in a report
MOST_UNUSABLE = 1000  # in a row before the table counts as unusable
PICTURE_AUGMENTATIONS: Mapping[str, Callable[[Image.Image, torch.Generator], Image.Image] | None] = {
    "none": None,
    "blur": random_blur,
    "reasoning": augment_for_reasoning,
}


class NoUsableRows(InputError):
    """A table in which nothing can be used; the message says what was wrong with it."""


class Examples:
    """Examples of a table by update: every epoch has its own order, which the seed and the epoch decide.

    A row that cannot be used is replaced by the next one of the order, counted, and kept in `unusable` by its number.
    """

    def __init__(self, rows: TaskRows, task: Task, seed: int, augmentation: str = "none") -> None:
        self.rows, self.task, self.seed = rows, task, seed
        self.augment = PICTURE_AUGMENTATIONS[augmentation]
        self.unusable: dict[int, InputError] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, size: int, update: int, rank: int = 0, world: int = 1) -> list[TaskExample]:
        """The examples of one process in update `update` (from 0): its slice of the same global batch."""
        local = size // world
        first = update * size + rank * local
        return [self._at(place) for place in range(first, first + local)]

    def _at(self, place: int) -> TaskExample:
        for attempt in range(min(MOST_UNUSABLE, len(self))):
            index = self._row_of(place + attempt)
            if index in self.unusable:
                continue
            generator = torch.Generator().manual_seed(mix(self.seed, "augmentation", place) >> 1)
            try:
                return self._example(index, generator)
            except InputError as error:
                self.unusable[index] = error
        raise NoUsableRows(
            str(self.rows.path), f"nothing usable in {len(self.unusable)} rows; the last one: {self._last()}"
        )

    def _row_of(self, place: int) -> int:
        epoch, number = divmod(place, len(self))
        order = permute(np.array([number]), len(self), mix(self.seed, "order", epoch))
        return int(order[0])

    def _example(self, index: int, generator: torch.Generator) -> TaskExample:
        key, row = self.rows.row(index)
        augment = self.augment
        if augment is not None:
            row = _augmented(row, self.rows.media, key, lambda picture: augment(picture, generator))
        return self.task.example(row, key)

    def _last(self) -> str:
        return str(list(self.unusable.values())[-1]) if self.unusable else "none"

    def summary(self) -> str | None:
        """What was left out so far, None for nothing."""
        if not self.unusable:
            return None
        shown = "; ".join(str(error) for error in list(self.unusable.values())[:SHOWN])
        more = f"; and {len(self.unusable) - SHOWN} more" if len(self.unusable) > SHOWN else ""
        return f"{len(self.unusable)} rows of {self.rows.path} left out: {shown}{more}"


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
