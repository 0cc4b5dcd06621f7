"""Pretraining recipes: one YAML file per run, typed, found by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from one_peace.configuration import build_dataclass, within
from one_peace.data.opening import SourceRecipe
from one_peace.data.pairs import DataRecipe
from one_peace.recipe_files import plain_values, read_recipe
from one_peace.tasks.pretraining import PretrainingStage
from one_peace.training.kept_recipe import without_gone
from one_peace.training.recipe import EngineRecipe, OptimizerRecipe, check_micro_batch, fit_micro_batch
from one_peace.training.trackers import known_trackers


@dataclass(frozen=True)
class EvaluationSchedule:
    """Evaluation during training: after every `every` updates (0: never) and after the last one.

    `pairs` is a source of held-out pairs, by default the validation split of the sample library. `labels` is one whose
    texts are names of classes, put into each of `prompts`; the library has its categories. `size` bounds the pairs
    taken of each. The model with the highest `best_by` is kept: by default `recall`, the mean of recall@k over both
    directions, or without pairs `zero_shot@1`.
    """

    every: int = 0
    pairs: SourceRecipe | None = None
    labels: SourceRecipe | None = None
    prompts: tuple[str, ...] = ("{}",)
    size: int = 1000
    best_by: str | None = None

    def __post_init__(self) -> None:
        within(self, "evaluation", every="[0, inf)", size="[2, inf)")
        prompts = (self.prompts,) if isinstance(self.prompts, str) else tuple(self.prompts)
        object.__setattr__(self, "prompts", prompts)
        wrong = [prompt for prompt in prompts if prompt.count("{}") != 1]
        if wrong or not prompts:
            raise ValueError(f"evaluation.prompts: each has {{}} once, where the label stands; got {wrong or 'none'}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EvaluationSchedule:
        """Inverse of `dataclasses.asdict`."""
        if not isinstance(values, dict):
            raise ValueError(f"evaluation is a mapping of settings, not {values!r}")
        fields = dict(values)
        for key in ("pairs", "labels"):
            if fields.get(key) is not None:
                fields[key] = build_dataclass(SourceRecipe, fields[key], f"evaluation.{key}")
        return build_dataclass(cls, fields, "evaluation")


@dataclass(frozen=True)
class PretrainRecipe:
    """A run. `model` names a preset, a built-in model or a saved one (a folder in our format) to start from.

    `tokenizer` is the place of a vocabulary (tokenizer.json, or the published files) that a fresh model takes instead
    of training one of `vocabulary` entries, and that an official file needs; `reset_temperature` starts the logit
    scale of a saved model anew, as in the published second stage.

    `expert_from` starts the partner's experts from those of a trained modality. The denoising objective takes part
    in every `denoise_every`-th step (0: in none). `contrast` is over the global batch: "published" (gathered features
    are fixed) or "full" (they get their gradient too). Pairs whose texts are equal token for token are each other's
    "negatives", as published, or "ignored" by each other (`repeated_captions`). `micro_batch` pairs go through the
    model at once, as many times as it takes; the denoising negatives of a pair are those of its micro-batch. Without
    it, a process takes its share of the batch at once; with it, the result does not depend on the number of processes.

    `files` are sources of pairs by name; without any, the sample library is drawn from. `workers` processes decode
    them ahead of training. `trackers` get the figures of the log too: tensorboard, wandb, trackio.
    """

    model: str
    stage: PretrainingStage
    steps: int
    batch_size: int
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    files: dict[str, SourceRecipe] = field(default_factory=dict)
    workers: int = 0
    engine: EngineRecipe = field(default_factory=EngineRecipe)
    contrast: str = "published"
    repeated_captions: str = "ignored"
    micro_batch: int | None = None
    expert_from: str | None = None
    reset_temperature: bool = False
    tokenizer: str | None = None
    vocabulary: int = 50264
    drop_path: float = 0.4
    denoise_every: int = 1
    evaluation: EvaluationSchedule = field(default_factory=EvaluationSchedule)
    trackers: tuple[str, ...] = ()
    log_every: int = 20
    save_every: int = 200
    seed: int = 3407

    def __post_init__(self) -> None:
        within(self, "recipe", **dict.fromkeys(("steps", "workers", "denoise_every"), "[0, inf)"))
        within(self, "recipe", **dict.fromkeys(("batch_size", "log_every", "save_every"), "[1, inf)"))
        within(self, "recipe", drop_path="[0, 1)", seed=f"[0, {2**48})", vocabulary="[10, inf)")
        if self.stage.anchor != "text":
            raise ValueError(f"stage.anchor: pairs are of a text and something else, not of {self.stage.anchor!r}")
        if self.contrast not in ("published", "full"):
            raise ValueError(f"contrast is published or full, not {self.contrast!r}")
        if self.repeated_captions not in ("ignored", "negatives"):
            raise ValueError(f"repeated_captions is ignored or negatives, not {self.repeated_captions!r}")
        check_micro_batch(self.batch_size, self.micro_batch)
        object.__setattr__(self, "trackers", known_trackers(self.trackers))
        if self.data.takes and (self.files or not self.stage.front_end_steps):
            raise ValueError(
                "data.takes: for sounds of the sample library and a front end that stage.front_end_steps fits"
            )
        if self.stage.teacher_steps and self.files:
            raise ValueError("stage.teacher_steps: for pictures of the sample library, not for files")
        if self.files and self.evaluation.every and not (self.evaluation.pairs or self.evaluation.labels):
            raise ValueError("evaluation.every: the recipe's own files need held-out pairs, set evaluation.pairs")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PretrainRecipe:
        """Inverse of `dataclasses.asdict`; a `ValueError` names an unknown key and the nearest known one."""
        fields = dict(without_gone(values))
        parts = {"stage": PretrainingStage, "optimizer": OptimizerRecipe, "data": DataRecipe, "engine": EngineRecipe}
        for key, part in parts.items():
            if key in fields:
                fields[key] = build_dataclass(part, fields[key], key)
        sources = fields.get("files", {})
        if not isinstance(sources, dict):
            raise ValueError(f"files is a mapping from names to sources of pairs, not {sources!r}")
        fields["files"] = {
            name: build_dataclass(SourceRecipe, source, f"files.{name}") for name, source in sources.items()
        }
        if "evaluation" in fields:
            fields["evaluation"] = EvaluationSchedule.from_dict(fields["evaluation"])
        return build_dataclass(cls, fields, "recipe")


def load_recipe(name_or_path: str, settings: Sequence[str] = ()) -> PretrainRecipe:
    """A pretraining recipe from a file, or a shipped one by name, with `key=value` settings applied."""
    values = read_recipe("pretrain", name_or_path, settings)
    fit_micro_batch(values, settings)
    return PretrainRecipe.from_dict(values)


def recipe_to_yaml(recipe: PretrainRecipe) -> str:
    """The recipe as text that `load_recipe` reads."""
    text: str = yaml.safe_dump(recipe_values(recipe), sort_keys=False)
    return text


def recipe_values(recipe: PretrainRecipe) -> dict[str, Any]:
    """The recipe as plain numbers, texts, lists and dicts."""
    values: dict[str, Any] = plain_values(dataclasses.asdict(recipe))
    return values
