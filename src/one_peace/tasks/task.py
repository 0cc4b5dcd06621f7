"""What a kind of task is: rows of a table -> batches for a model with a head -> loss, figures, predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, get_args

import torch
from torch import Tensor

from one_peace.errors import InputError
from one_peace.modalities import list_modalities
from one_peace.modalities.base import Example, Processor
from one_peace.models.one_peace.config import HeadConfig
from one_peace.models.one_peace.prediction import SECOND_PICTURE

PICTURE_PAIR = ("image1", "image2")
"""Columns of the pictures in tables of tasks about two of them."""

OnError = Literal["raise", "skip"]
"""Whether a row that cannot be used ends the work, or is left out of it."""

BETWEEN = "&&"
"""What stands between the texts of a column that has several."""

Row = Mapping[str, Any]
"""Column -> text of a table; media are paths, contents or whatever else the modality's processor takes."""


TableRows = Iterable[tuple[str, Row | InputError]]
"""(key, row) pairs; in place of a row that its table could not give stands the error."""

T = TypeVar("T")


def media_columns() -> tuple[str, ...]:
    """Columns that hold pictures, sounds and the like, in the tables of all tasks: those called as a registered
    modality other than text, and `PICTURE_PAIR`."""
    return (*(name for name in list_modalities() if name != "text"), *PICTURE_PAIR)


class BadRow(InputError):
    """A row that cannot be used; the message names the row, the column and what is wrong."""


class BadDraw(BadRow):
    """A row of which nothing was left this time; another draw may leave something."""


@dataclass(frozen=True)
class TaskExample:
    """One row, ready to be batched: an example or several (candidate answers) per input, and the target if known.

    `facts` is what predictions and figures need besides: the size of a picture, reference answers.
    """

    key: str
    inputs: Mapping[str, list[Example]]
    target: Tensor | None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskBatch:
    """Inputs by modality as the model takes them; target (batch, ...) or None when a row has none."""

    keys: list[str]
    inputs: dict[str, dict[str, Tensor]]
    target: Tensor | None
    facts: list[Mapping[str, Any]]

    def to(self, device: torch.device) -> TaskBatch:
        """The batch on a device."""
        inputs = {m: {k: v.to(device) for k, v in tensors.items()} for m, tensors in self.inputs.items()}
        return TaskBatch(self.keys, inputs, None if self.target is None else self.target.to(device), self.facts)


class Figures(ABC):
    """Scores of batches, added up to the figures that a task is judged by; `main` selects the best model."""

    main: ClassVar[str] = "accuracy"

    @abstractmethod
    def add(self, scores: Tensor, batch: TaskBatch) -> None:
        """One batch with its targets."""

    @abstractmethod
    def result(self) -> dict[str, float]:
        """Figures by name, `main` first. `ValueError` without a single example."""

    def counted(self, figure: str, examples: int) -> int:
        """How many of the `examples` a figure of `result` is of: all, unless some have nothing to be held against."""
        return examples


class Task(ABC):
    """One kind of task over the processors of a model. What is right stands in `target_columns`, which predictions do
    not look at."""

    modalities: ClassVar[tuple[str, ...]]
    columns: ClassVar[tuple[str, ...]]
    target_columns: ClassVar[tuple[str, ...]] = ()

    def __init__(self, processors: Mapping[str, Processor]) -> None:
        missing = [name for name in self.modalities if name not in processors]
        if missing:
            raise ValueError(f"this task reads {', '.join(self.modalities)}; the model has no {missing[0]}")
        self.processors = processors

    @abstractmethod
    def head(self, width: int) -> HeadConfig:
        """The published head for an encoder of this width."""

    @abstractmethod
    def example(self, row: Row, key: str) -> TaskExample:
        """A row as an example. `BadRow` names what is wrong with it under `key`."""

    def measured(self, row: Row, key: str) -> TaskExample:
        """A row as an example to be measured on: `BadRow` too where it has no target."""
        made = self.example(row, key)
        if made.target is None:
            raise BadRow(key, f"has no target to be measured against or to learn; its columns are {', '.join(row)}")
        return made

    def taught(self, row: Row, key: str) -> TaskExample:
        """A row as an example to learn from: `BadRow` as of `measured`, and where there is nothing to learn."""
        return self.measured(row, key)

    @abstractmethod
    def loss(self, scores: Tensor, batch: TaskBatch) -> Tensor:
        """Sum over the batch; the trainer divides by the number of examples."""

    @abstractmethod
    def figures(self) -> Figures:
        """A fresh accumulator."""

    @abstractmethod
    def predictions(self, scores: Tensor, batch: TaskBatch) -> list[dict[str, Any]]:
        """What to tell the user of each example."""

    def collate(self, examples: Sequence[TaskExample]) -> TaskBatch:
        """Examples -> batch; those with several texts repeat their other inputs for each."""
        counts = [len(example.inputs.get("text", (None,))) for example in examples]
        repeats = counts[0]
        if other := next((k for k, count in enumerate(counts) if count != repeats), None):
            problem = f"has {counts[other]} candidate answers, where {examples[0].key} has {repeats}"
            raise BadRow(
                examples[other].key, f"{problem}: in one batch all rows have as many; train with micro_batch=1"
            )
        inputs = {}
        for name in examples[0].inputs:
            flat = [one for example in examples for one in example.inputs[name]]
            collated = self.processors["image" if name == SECOND_PICTURE else name].collate(flat)
            inputs[name] = (
                {k: v.repeat_interleave(repeats, 0) for k, v in collated.items()}
                if repeats > 1 and len(flat) == len(examples)
                else collated
            )
        targets = [example.target for example in examples]
        known = [t for t in targets if t is not None]
        return TaskBatch(
            [example.key for example in examples],
            inputs,
            torch.stack(known) if len(known) == len(targets) else None,
            [example.facts for example in examples],
        )


def usable(
    rows: TableRows, read: Callable[[Row, str], T], on_error: OnError, skipped: list[InputError]
) -> Iterator[tuple[str, T]]:
    """(key, what `read` makes of the row) of each row that can be used. The first other one raises its error, which
    with "skip" is added to `skipped`."""
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error must be 'raise' or 'skip', got {on_error!r}")
    for key, row in rows:
        try:
            if isinstance(row, InputError):
                raise row
            made = read(row, key)
        except InputError as error:
            if on_error == "raise":
                raise
            skipped.append(error)
            continue
        yield key, made


def check_usable(rows: TableRows, table: str, read: Callable[[Row, str], object]) -> None:
    """`InputError` where `read` can make nothing of any row; looks no further than the first that it can use."""
    skipped: list[InputError] = []
    if next(usable(rows, read, "skip", skipped), None) is None:
        raise InputError(table, f"has no usable row; the last one: {skipped[-1]}")


def column(row: Row, name: str, key: str) -> Any:
    """The value of a column that must be there and not be empty."""
    if name not in row:
        raise BadRow(key, f"has no column {name!r}; its columns are {', '.join(row)}")
    value = row[name]
    if value is None or (isinstance(value, str | bytes) and not value.strip()):
        raise BadRow(key, f"column {name!r} is empty")
    return value


def without_target(row: Row, columns: Collection[str]) -> Row:
    """A row to be answered, without what a table says in its `target_columns`."""
    return {name: value for name, value in row.items() if name not in columns}


def has(row: Row, name: str) -> bool:
    """Whether a row says something in a column."""
    value = row.get(name)
    return value is not None and not (isinstance(value, str) and not value.strip())


def text_of(row: Row, name: str, key: str) -> str:
    """The text of a column, stripped; JSON lines may have a number there. `BadRow` for nothing or anything else."""
    return _text(column(row, name, key), name, key)


def texts_of(row: Row, name: str, key: str, between: str = BETWEEN) -> list[str]:
    """The texts of a column, stripped: a list in JSON lines, otherwise joined by `between`. Errors as of `text_of`."""
    value = column(row, name, key)
    if isinstance(value, list):
        return [_text(one, name, key) for one in value]
    return [part.strip() for part in _text(value, name, key).split(between)]


def _text(value: Any, name: str, key: str) -> str:
    if not isinstance(value, str | int | float) or value != value:
        raise BadRow(key, f"column {name!r} holds {value!r:.60}, which is no text")
    return str(value).strip()


def prepare(processor: Callable[[Any], Example], value: Any, name: str, key: str) -> Example:
    """An input through its processor; `BadRow` names row and column of one that cannot be read."""
    try:
        return processor(value)
    except InputError as error:
        if isinstance(value, Path) and not value.exists():
            raise BadRow(key, f"column {name!r}: {value} does not exist") from error
        raise BadRow(key, f"column {name!r}: {error.problem}") from error
