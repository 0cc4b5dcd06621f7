"""Fine-tuning recipes: which task, on which tables, from which model, and how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from one_peace.data.task_rows import TaskRows
from one_peace.models.one_peace.config import build_dataclass
from one_peace.tasks.kinds import NEED_LABELS, TaskSettings
from one_peace.tasks.labels import LabelMap
from one_peace.training.recipe import EngineRecipe, OptimizerRecipe, read_recipe
from one_peace.training.trackers import TRACKERS

PUBLISHED_ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "clip_norm": 0.0}  # of all published fine-tuning runs
SHORTHANDS = {"data": "tables.root", "checkpoint": "model"}  # of the command line
AUGMENTATIONS = ("none", "blur", "reasoning")


@dataclass(frozen=True)
class Tables:
    """Where examples come from. Paths are relative to `root`, and so are those of media in a table.

    columns: other names of a table's columns, {"path": "image"}. augmentation: of training pictures, "blur" (published
    for RefCOCO) or "reasoning" (for NLVR2). Without a `validation` table nothing selects the best model.
    """

    train: str
    validation: str | None = None
    root: str = "."
    columns: Mapping[str, str] = field(default_factory=dict)
    augmentation: str = "none"

    def __post_init__(self) -> None:
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"tables.augmentation is one of {', '.join(AUGMENTATIONS)}, not {self.augmentation!r}")

    def path(self, name: str) -> Path:
        """The place of a table or label map."""
        return Path(self.root) / name


@dataclass(frozen=True)
class FinetuneRecipe:
    """A run. `task` has the settings of `TaskSettings`, with `labels` a list or a file (`labels.json`), by default
    what stands in the training table's label column.

    `warmup` is the share of the updates that warm up. `drop_path`, `image_size` and `seconds` change the model that
    is started from. `freeze` trains the head alone, on features that are computed once. `patience` ends the run
    after so many evaluations without a better one; evaluation is after every epoch, or `evaluate_every` updates.
    """

    task: Mapping[str, Any]
    model: str
    tables: Tables
    epochs: float = 10.0
    batch_size: int = 32
    micro_batch: int | None = None
    optimizer: OptimizerRecipe = field(default_factory=lambda: OptimizerRecipe(lr=1e-4, **PUBLISHED_ADAM))
    warmup: float = 0.1
    drop_path: float = 0.0
    image_size: int | None = None
    seconds: float | None = None
    freeze: bool = False
    evaluate_every: int | None = None
    patience: int | None = None
    engine: EngineRecipe = field(default_factory=EngineRecipe)
    trackers: tuple[str, ...] = ()
    log_every: int = 20
    save_every: int = 500
    seed: int = 3407

    def __post_init__(self) -> None:
        if self.epochs <= 0 or self.batch_size < 1:
            raise ValueError(f"epochs={self.epochs} and batch_size={self.batch_size} must be positive")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch_size % self.micro_batch):
            raise ValueError(f"micro_batch={self.micro_batch} does not divide batch_size={self.batch_size}")
        if self.patience is not None and self.tables.validation is None:
            raise ValueError("patience needs a tables.validation to be judged on")
        object.__setattr__(self, "trackers", tuple(self.trackers))
        unknown = [name for name in self.trackers if name not in TRACKERS]
        if unknown:
            raise ValueError(f"trackers: unknown {unknown[0]!r}; a list of some of {', '.join(TRACKERS)}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneRecipe:
        """Inverse of `dataclasses.asdict`; a `ValueError` names an unknown key and the nearest known one."""
        fields = dict(values)
        if "optimizer" in fields:
            fields["optimizer"] = PUBLISHED_ADAM | dict(fields["optimizer"])
        for key, part in (("optimizer", OptimizerRecipe), ("engine", EngineRecipe), ("tables", Tables)):
            if key in fields:
                fields[key] = build_dataclass(part, fields[key], key)
        recipe: FinetuneRecipe = build_dataclass(cls, fields, "recipe")
        return recipe

    def settings(self, cache: Path) -> TaskSettings:
        """The task's settings with its labels read, from their file or from the training table."""
        values = dict(self.task)
        labels = values.get("labels")
        if isinstance(labels, str):
            values["labels"] = LabelMap.read(self.tables.path(labels)).names
        elif not labels and values.get("kind") in NEED_LABELS:
            values["labels"] = LabelMap.of(self._labels_that_occur(values, cache)).names
        settings: TaskSettings = build_dataclass(TaskSettings, values, "task")
        return settings

    def _labels_that_occur(self, values: Mapping[str, Any], cache: Path) -> list[str]:
        column = "answer" if values["kind"] == "visual-question-answering" else values.get("label_column", "label")
        rows = TaskRows(self.tables.path(self.tables.train), (column,), (), cache, renamed=self.tables.columns)
        found = [str(rows.row(index)[1][column]).strip() for index in range(len(rows))]
        return [name.strip() for label in found for name in label.split(",")] if values.get("multiple") else found

    def updates(self, examples: int) -> int:
        """Number of updates for a training table of so many rows."""
        return max(1, round(self.epochs * math.ceil(examples / self.batch_size)))

    def schedule(self, updates: int) -> OptimizerRecipe:
        """The optimizer's settings for a run of so many updates."""
        limit = self.optimizer.clip_norm or math.inf  # 0 is off, in the published recipes
        return dataclasses.replace(self.optimizer, warmup_steps=round(self.warmup * updates), clip_norm=limit)


def load_finetune_recipe(name_or_path: str, settings: Sequence[str] = ()) -> FinetuneRecipe:
    """A recipe from a file, or a shipped one by name, with `key=value` settings applied."""
    given = []
    for setting in settings:
        key, equals, value = setting.partition("=")
        given.append(f"{SHORTHANDS.get(key, key)}{equals}{value}")
    return FinetuneRecipe.from_dict(read_recipe("finetune", name_or_path, given))
