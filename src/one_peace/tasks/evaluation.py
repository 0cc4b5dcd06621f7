"""Evaluation recipes: which task, which model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from one_peace.models.one_peace.config import build_dataclass
from one_peace.training.recipe import read_recipe

TASKS = ("sample-library",)


@dataclass(frozen=True)
class EvaluationRecipe:
    """A run of an evaluation: `task` is one of `TASKS`, `model` a name or path that `from_pretrained` takes."""

    task: str
    model: str

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"recipe: unknown task {self.task!r}; known: {', '.join(TASKS)}")


def load_evaluation(name_or_path: str, settings: Sequence[str] = ()) -> EvaluationRecipe:
    """An evaluation recipe from a file, or a shipped one by name, with `key=value` settings applied."""
    recipe: EvaluationRecipe = build_dataclass(
        EvaluationRecipe, read_recipe("evaluate", name_or_path, settings), "recipe"
    )
    return recipe
