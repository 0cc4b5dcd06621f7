"""Fine-tuning recipes: which task, on which tables, from which model, and how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from one_peace.configuration import build_dataclass, within
from one_peace.data.task_rows import SUFFIXES, JoinedRows, TaskRows, WeightedRows
from one_peace.errors import InputError
from one_peace.recipe_files import follow_modality, read_recipe, text_setting, written_out
from one_peace.tasks.classification import labels_of
from one_peace.tasks.coding import CODING
from one_peace.tasks.given_answers import ANSWER_COLUMNS, answer_scores
from one_peace.tasks.kinds import NEED_LABELS, TaskSettings, read_settings
from one_peace.tasks.labels import LabelMap
from one_peace.tasks.ofa.kinds import SEQUENCE_KINDS
from one_peace.tasks.task import media_columns
from one_peace.training.finetuning.lora import LoRARecipe
from one_peace.training.ofa.recipe import SequenceRecipe
from one_peace.training.recipe import EngineRecipe, OptimizerRecipe, check_micro_batch, fit_micro_batch
from one_peace.training.trackers import known_trackers
from one_peace.training.vqgan.recipe import CodingRecipe

PUBLISHED_ADAM: dict[str, Any] = {"betas": (0.9, 0.999), "clip_norm": 0.0}  # of all published fine-tuning runs
RANGES = {
    **dict.fromkeys(("batch_size", "steps", "image_size", "evaluate_every", "patience"), "[1, inf)"),
    **dict.fromkeys(("log_every", "save_every"), "[1, inf)"),
    **dict.fromkeys(("warmup", "drop_path"), "[0, 1)"),
    "workers": "[0, inf)",
    "seconds": "[0.1, inf)",
    "seed": f"[0, {2**48})",
}
AUGMENTATIONS = ("none", "blur", "reasoning", "labels")


@dataclass(frozen=True)
class Tables:
    """Where examples come from. Paths are relative to `root`, and so are those of media in a table.

    train: a table, several that are taken together, or several with weights, {"captions.tsv": 2}. texts: captions by
    the key of a picture or sound, for the validation of retrieval. columns: other names of a table's columns,
    {"path": "image"}. augmentation: of training pictures, "blur" (published for RefCOCO), "reasoning" (for NLVR2) or
    "labels" (OFA, for ImageNet). Without a `validation` table nothing selects the best model.
    """

    train: str | tuple[str, ...] | Mapping[str, float]
    validation: str | None = None
    texts: str | None = None
    root: str = "."
    columns: Mapping[str, str] = field(default_factory=dict)
    augmentation: str = "none"

    def __post_init__(self) -> None:
        if isinstance(self.train, Mapping):
            if wrong := [name for name, weight in self.train.items() if not _is_weight(weight)]:
                raise ValueError(f"tables.train: {wrong[0]} needs a weight above 0, not {self.train[wrong[0]]!r}")
        elif not isinstance(self.train, str):
            object.__setattr__(self, "train", tuple(self.train))
        if not self.train:
            raise ValueError("tables.train: no table is named")
        if self.augmentation not in AUGMENTATIONS:
            raise ValueError(f"tables.augmentation is one of {', '.join(AUGMENTATIONS)}, not {self.augmentation!r}")

    def path(self, name: str) -> Path:
        """The place of a table or label map."""
        return Path(self.root) / name

    def open(self, name: str, columns: Sequence[str], cache: Path, media: Sequence[str] | None = None) -> TaskRows:
        """The rows of a table, which must have `columns`; `media` are by default `media_columns()`. Errors as of
        `TaskRows`."""
        media = media_columns() if media is None else media
        return TaskRows(self.path(name), columns, media, cache, renamed=self.columns, root=Path(self.root))

    def open_training(
        self, columns: Sequence[str], cache: Path, media: Sequence[str] | None = None
    ) -> TaskRows | JoinedRows:
        """The rows to train on."""
        if isinstance(self.train, str):
            return self.open(self.train, columns, cache, media)
        parts = [self.open(name, columns, cache, media) for name in self.train]
        return WeightedRows(parts, list(self.train.values())) if isinstance(self.train, Mapping) else JoinedRows(parts)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


@dataclass(frozen=True)
class FinetuneRecipe:
    """A run. `task` has the settings of `TaskSettings`, with `labels` a list or a file (`labels.json`), by default
    what stands in the training table's label column.

    `steps` is the number of updates in place of `epochs`, `warmup` the share of them that warm up. `drop_path`,
    `image_size` and `seconds` change the model that is started from. `freeze` trains the head alone, on features that
    are computed once; `lora` the head and low-rank changes to the blocks, which are merged into what is saved;
    `sequence` is for the kinds of `SEQUENCE_KINDS` alone, which OFA models are trained for, and `coding` for
    picture-coding, which VQGANs are. `workers` threads decode ahead. `patience` ends the run after so many evaluations
    without a better one; evaluation is after every epoch, or `evaluate_every` updates.
    """

    task: Mapping[str, Any]
    model: str
    tables: Tables
    epochs: float = 10.0
    steps: int | None = None
    batch_size: int = 32
    micro_batch: int | None = None
    workers: int = 0
    optimizer: OptimizerRecipe = field(default_factory=lambda: OptimizerRecipe(lr=1e-4, **PUBLISHED_ADAM))
    warmup: float = 0.1
    drop_path: float = 0.0
    image_size: int | None = None
    seconds: float | None = None
    freeze: bool = False
    lora: LoRARecipe | None = None
    sequence: SequenceRecipe | None = None
    coding: CodingRecipe | None = None
    evaluate_every: int | None = None
    patience: int | None = None
    engine: EngineRecipe = field(default_factory=EngineRecipe)
    trackers: tuple[str, ...] = ()
    log_every: int = 20
    save_every: int = 500
    seed: int = 3407

    def __post_init__(self) -> None:
        if not 0 < self.epochs < math.inf:
            raise ValueError(f"recipe: epochs must be positive, not {self.epochs}")
        within(self, "recipe", **RANGES)
        check_micro_batch(self.batch_size, self.micro_batch)
        if self.patience is not None and self.tables.validation is None:
            raise ValueError("patience needs a tables.validation to be judged on")
        if self.freeze and self.lora is not None:
            raise ValueError("freeze trains the head alone, lora the blocks too: choose one")
        if self.freeze and self.tables.augmentation != "none":
            raise ValueError(
                f"freeze computes the features of a picture once, so tables.augmentation={self.tables.augmentation} "
                "would show it changed in one way for ever: set tables.augmentation=none"
            )
        written = self.kind in SEQUENCE_KINDS
        if self.sequence is not None and not written:
            raise ValueError(f"sequence is for {', '.join(SEQUENCE_KINDS)}, not for {self.kind}")
        if self.coding is not None and self.kind != CODING:
            raise ValueError(f"coding is for {CODING}, not for {self.kind}")
        if (written or self.kind == CODING) and (self.freeze or self.lora is not None):
            raise ValueError(f"{self.kind} has no head: freeze and lora are for the tasks that have one")
        if (written or self.kind == CODING) and self.optimizer.layer_decay != 1:
            raise ValueError(f"optimizer.layer_decay is for ONE-PEACE models, which {self.kind} does not train")
        object.__setattr__(self, "trackers", known_trackers(self.trackers))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FinetuneRecipe:
        """Inverse of `dataclasses.asdict`; a `ValueError` names an unknown key and the nearest known one."""
        fields = dict(values)
        if "optimizer" in fields:
            given = fields["optimizer"]
            fields["optimizer"] = PUBLISHED_ADAM | given if isinstance(given, dict) else given
        if fields.get("lora") is not None:
            fields["lora"] = build_dataclass(LoRARecipe, fields["lora"], "lora")
        if fields.get("sequence") is not None:
            fields["sequence"] = SequenceRecipe.from_dict(fields["sequence"])
        if fields.get("coding") is not None:
            fields["coding"] = CodingRecipe.from_dict(fields["coding"])
        for key, part in (("optimizer", OptimizerRecipe), ("engine", EngineRecipe), ("tables", Tables)):
            if key in fields:
                fields[key] = build_dataclass(part, fields[key], key)
        return build_dataclass(cls, fields, "recipe")

    @property
    def kind(self) -> str:
        """The kind of task: one of `KINDS` or `SEQUENCE_KINDS`, retrieval or picture-coding."""
        return str(self.task.get("kind"))

    def settings(self, cache: Path) -> TaskSettings:
        """The task's settings with its labels read, from their file or from the training table."""
        values = dict(self.task)
        if not values.get("labels") and values.get("kind") in NEED_LABELS:
            values["labels"] = LabelMap.of(self._labels_that_occur(values, cache)).names
        return read_settings(values, Path(self.tables.root))

    def _labels_that_occur(self, values: Mapping[str, Any], cache: Path) -> set[str]:
        """The labels or answers of all usable rows; the others are reported when training comes to them."""
        asked = values["kind"] == "visual-question-answering"
        column, multiple = values.get("label_column", "label"), bool(values.get("multiple"))
        rows = self.tables.open_training(() if asked else (column,), cache, media=())
        found: set[str] = set()
        problem: InputError | None = None
        for index in range(len(rows)):
            try:
                key, row = rows.row(index)
                found.update((answer_scores(row, key) or ()) if asked else labels_of(row, column, key, multiple))
            except InputError as error:
                problem = error
        if not found:
            why = f"; the last row that has none: {problem}" if problem else ""
            places = ANSWER_COLUMNS if asked else (column,)
            raise InputError(str(rows.path), f"has nothing to learn in {', '.join(places)}{why}")
        return found

    def updates(self, examples: int) -> int:
        """Number of updates for a training table of so many rows."""
        if self.steps is not None:
            return self.steps
        return max(1, round(self.epochs * math.ceil(examples / self.batch_size)))

    def evaluation_interval(self, examples: int) -> int:
        """Updates from one evaluation to the next, for a training table of so many rows: an epoch's by default."""
        return self.evaluate_every or math.ceil(examples / self.batch_size)

    def evaluates(self, update: int, examples: int) -> bool:
        """Whether the model is evaluated after this update (from 1): at every interval, and after the last one."""
        return update % self.evaluation_interval(examples) == 0 or update == self.updates(examples)

    def schedule(self, updates: int) -> OptimizerRecipe:
        """The optimizer's settings for a run of so many updates."""
        return dataclasses.replace(self.optimizer, warmup_steps=int(self.warmup * updates))


def load_finetune_recipe(name_or_path: str, settings: Sequence[str] = (), folder: str = "finetune") -> FinetuneRecipe:
    """A recipe from a file, or a shipped one by name (`folder` of `recipes/`), with `key=value` settings applied.

    `data` is a folder of tables, or the training table itself, which then is all there is: what else the recipe itself
    names beside it, a validation table and a file of labels, is not looked for. `checkpoint` is weights: a recipe of a
    small OFA that starts at random then learns no words of its own. A `micro_batch` of the recipe that does not fit the
    given `batch_size` is made smaller.
    """
    alone: list[str] = []
    given = []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "data" and (path := Path(value)).suffix in SUFFIXES:
            alone = ["tables.validation=null", "tables.texts=null"]
            given += [text_setting("tables.root", path.parent), text_setting("tables.train", path.name)]
        else:
            given.append(written_out(setting))
    values = read_recipe(folder, name_or_path, [*alone, *given])
    follow_modality(values, given)
    fit_micro_batch(values, given)
    recipe = FinetuneRecipe.from_dict(values)
    if (
        alone
        and recipe.kind in NEED_LABELS
        and not any(setting.startswith(("task.labels=", "task=")) for setting in given)
    ):
        task = {name: value for name, value in recipe.task.items() if name != "labels"}
        recipe = dataclasses.replace(recipe, task=task)
    if (
        folder == "finetune"
        and recipe.sequence is not None
        and any(setting.startswith("model=") for setting in given)
        and not any(setting.startswith(("sequence.words=", "sequence=")) for setting in given)
    ):
        return dataclasses.replace(recipe, sequence=dataclasses.replace(recipe.sequence, words=None))
    return recipe
