"""A fine-tuned model with its task: rows in, predictions or figures out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from one_peace.checkpoints.registry import resolve
from one_peace.errors import CheckpointError, InputError
from one_peace.models.one_peace.loading import load_for_prediction
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.tasks.kinds import TaskSettings
from one_peace.tasks.task import BadRow, OnError, Row, TableRows, Task, TaskBatch, TaskExample, usable, without_target

BATCH_SIZE = 16


class Predictor:
    """Scores rows in batches, by `run` or else by the model itself. `skipped` collects the errors of rows that were
    passed over."""

    def __init__(
        self,
        model: OnePeaceForPrediction,
        task: Task,
        batch_size: int = BATCH_SIZE,
        run: Callable[[TaskBatch], Tensor] | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        """`columns`: other names of columns that the model's tables have, for those who open them."""
        head = task.head(model.config.width)
        own = model.head.config
        if (own.outputs, own.pictures) != (head.outputs, head.pictures):
            raise CheckpointError(
                f"model {model.config.name!r} gives {own.outputs} scores from {own.pictures} picture(s); this task "
                f"needs {head.outputs} from {head.pictures}. Is it the right task, with the right labels?"
            )
        if set(task.modalities) != set(model.config.modalities):
            raise CheckpointError(
                f"model {model.config.name!r} predicts from {', '.join(model.config.modalities)}; this task gives "
                f"{', '.join(task.modalities)}"
            )
        self.model, self.task, self.batch_size = model.eval(), task, batch_size
        self.columns = dict(columns or {})
        self.run = run or (lambda batch: self.model(batch.inputs))
        self.skipped: list[InputError] = []

    @property
    def reads(self) -> str | None:
        """The only input of an example, None where there are several."""
        return self.task.modalities[0] if len(self.task.modalities) == 1 else None

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        settings: TaskSettings | None = None,
        *,
        device: str = "cpu",
        dtype: str = "float32",
        tokenizer: str | os.PathLike[str] | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> Predictor:
        """A fine-tuned model by name or path. `settings` say which task a published file is for; a folder of ours
        knows.

        Raises:
            CheckpointError: no head, or not the task's; a published file without settings.
        """
        own = TaskSettings.read(resolve(name_or_path))
        chosen = settings or own
        if chosen is None:
            raise CheckpointError(f"{name_or_path}: says of no task that it could predict; give the task's settings")
        model, processors = load_for_prediction(name_or_path, device, dtype, tokenizer=tokenizer)
        return cls(model, chosen.build(processors), batch_size, columns=chosen.columns)

    def predict(self, rows: TableRows, on_error: OnError = "raise") -> Iterator[tuple[str, dict[str, Any]]]:
        """(key, row) pairs -> (key, prediction) pairs in their order. What the rows say is right is not looked at.

        With "skip" rows that cannot be used are left out and kept in `skipped`; nothing else is lost.
        """
        for scores, batch in self.scored(rows, on_error):
            yield from zip(batch.keys, self.task.predictions(scores, batch), strict=True)

    def measure(self, rows: TableRows, on_error: OnError = "raise") -> dict[str, float]:
        """The task's figures over rows with targets, and how many `examples` they are of."""
        figures, examples = self.task.figures(), 0
        for scores, batch in self.scored(rows, on_error, targets=True):
            figures.add(scores, batch)
            examples += len(batch.keys)
        if not examples and self.skipped:
            raise self.skipped[-1]
        return {**figures.result(), "examples": float(examples)}

    def scored(
        self, rows: TableRows, on_error: OnError = "raise", targets: bool = False
    ) -> Iterator[tuple[Tensor, TaskBatch]]:
        """Batches of the rows with their scores, on the CPU; rows that cannot be used as in `predict`. With `targets`
        a row without one cannot be used."""

        def asked(row: Row, key: str) -> TaskExample:
            return self.task.example(without_target(row, self.task.target_columns), key)

        waiting: list[TaskExample] = []
        for _, example in usable(rows, self.task.measured if targets else asked, on_error, self.skipped):
            if waiting and (len(waiting) == self.batch_size or _candidates(waiting[0]) != _candidates(example)):
                yield from self._score(waiting, on_error)
                waiting = []
            waiting.append(example)
        if waiting:
            yield from self._score(waiting, on_error)

    @torch.no_grad()
    def _score(self, examples: Sequence[TaskExample], on_error: OnError) -> Iterator[tuple[Tensor, TaskBatch]]:
        """A batch of those examples whose scores are numbers."""
        device = next(self.model.parameters()).device
        batch = self.task.collate(examples)
        scores = self.run(batch.to(device)).float().cpu()  # (examples * candidates, outputs)
        of_each = scores.unflatten(0, (len(examples), -1))
        finite = of_each.flatten(1).isfinite().all(dim=1)
        kept: list[TaskExample] = []
        for example, is_finite in zip(examples, finite.tolist(), strict=True):
            if is_finite:
                kept.append(example)
                continue
            error = BadRow(example.key, "gets scores that are not finite numbers")
            if on_error == "raise":
                raise error
            self.skipped.append(error)
        if len(kept) == len(examples):
            yield scores, batch
        elif kept:
            yield of_each[finite].flatten(0, 1), self.task.collate(kept)


def _candidates(example: TaskExample) -> int:
    """How many texts an example has, which is equal in a batch."""
    return len(example.inputs.get("text", ()))
