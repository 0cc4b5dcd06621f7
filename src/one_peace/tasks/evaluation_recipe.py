"""Evaluation recipes: which task, which model, which tables."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from one_peace.cache import table_cache
from one_peace.configuration import build_dataclass, within
from one_peace.data.task_rows import SUFFIXES, TaskRows
from one_peace.recipe_files import follow_modality, read_recipe, text_setting, written_out
from one_peace.tasks.kinds import KINDS
from one_peace.tasks.mico.evaluation import ANSWERING, WRITING
from one_peace.tasks.mico.retrieval import OMNI_RETRIEVAL
from one_peace.tasks.ofa.kinds import SEQUENCE_KINDS
from one_peace.tasks.retrieval_evaluation import ZERO_SHOT
from one_peace.tasks.retrieval_pairs import RETRIEVAL
from one_peace.tasks.task import media_columns

SAMPLE_LIBRARY = "sample-library"
TASKS = (SAMPLE_LIBRARY, RETRIEVAL, ZERO_SHOT, OMNI_RETRIEVAL, WRITING, ANSWERING, *KINDS, *SEQUENCE_KINDS)


@dataclass(frozen=True)
class EvaluationTables:
    """What is measured on: tables by the name of their split, and for retrieval the captions of each by the key of a
    picture or sound. Paths are relative to `root`, and so are those of media. columns: as in fine-tuning."""

    splits: Mapping[str, str]
    texts: Mapping[str, str] = field(default_factory=dict)
    root: str = "."
    columns: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.splits:
            raise ValueError("tables.splits: no table is named")
        if unknown := [name for name in self.texts if name not in self.splits]:
            raise ValueError(f"tables.texts: there is no split {unknown[0]!r}; known: {', '.join(self.splits)}")

    def open(self, split: str, columns: Sequence[str], known: Mapping[str, str] | None = None) -> TaskRows:
        """The rows of a split, which must have `columns`; `known` are other names of columns that the model knows.
        Errors as of `TaskRows`."""
        path, root = Path(self.root) / self.splits[split], Path(self.root)
        renamed = {**(known or {}), **self.columns}
        return TaskRows(path, columns, media_columns(), table_cache(), renamed=renamed, root=root)


@dataclass(frozen=True)
class EvaluationRecipe:
    """A run of an evaluation. `task` has a `kind`, one of `TASKS`, and its settings; `model` is a name or path.

    A fine-tuned model in our format knows its own settings, of which only the kind must be the recipe's. `published`
    has published figures by split, to be shown beside. `tokenizer` and `dtype` as in `from_pretrained`; `seconds` of
    a sound are listened to.
    """

    task: Mapping[str, Any]
    model: str
    tables: EvaluationTables | None = None
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    tokenizer: str | None = None
    dtype: str = "float32"
    seconds: float | None = None
    batch_size: int = 16

    def __post_init__(self) -> None:
        within(self, "recipe", batch_size="[1, inf)", seconds="[0.1, inf)")
        if self.kind not in TASKS:
            raise ValueError(f"recipe: unknown task {self.kind!r}; known: {', '.join(TASKS)}")
        if self.tables is None and self.kind != SAMPLE_LIBRARY:
            raise ValueError(f"recipe: {self.kind} needs tables")

    @property
    def data(self) -> EvaluationTables:
        """The tables, which every kind but that of the sample library has."""
        assert self.tables is not None
        return self.tables

    @property
    def kind(self) -> str:
        """The kind of task."""
        return str(self.task.get("kind"))


def load_evaluation(name_or_path: str, settings: Sequence[str] = ()) -> EvaluationRecipe:
    """An evaluation recipe from a file, or a shipped one by name, with `key=value` settings applied.

    `data` is a folder of tables, or one table, which then is the only split.
    """
    given = []
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "data" and (path := Path(value)).suffix in SUFFIXES:
            split = json.dumps({path.stem: path.name}, ensure_ascii=False)
            given += [text_setting("tables.root", path.parent), f"tables.splits={split}", "tables.texts={}"]
        else:
            given.append(written_out(setting))
    values = read_recipe("evaluate", name_or_path, given)
    follow_modality(values, given)
    if values.get("tables") is not None:
        values["tables"] = build_dataclass(EvaluationTables, values["tables"], "tables")
    if isinstance(values.get("task"), str):
        values["task"] = {"kind": values["task"]}
    return build_dataclass(EvaluationRecipe, values, "recipe")
