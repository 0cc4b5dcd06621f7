"""Pretraining recipes: one YAML file per run, typed, found by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from one_peace.data.opening import SourceRecipe
from one_peace.data.pairs import DataRecipe
from one_peace.models.one_peace.config import build_dataclass
from one_peace.tasks.pretraining import PretrainingStage


class _Loader(yaml.SafeLoader):
    """YAML as PyYAML reads it, except that `2e-3` is a number and not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW with cosine decay after a linear warm-up (paper, appendix; spec of the published runs)."""

    lr: float = 5e-4
    min_lr: float = 1e-6
    warmup_steps: int = 3000
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip_norm: float = 3.0
    layer_decay: float = 1.0
    ema_decay: float | None = None
    ema_start: int = 0
    skip_limit: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))


@dataclass(frozen=True)
class EngineRecipe:
    """How the work is done on the devices at hand; of this only `precision` changes the numbers.

    `recompute` keeps each block's input and computes the rest again for the gradient. `shard_over` is the number of
    processes that share one copy of the weights, all by default.
    """

    precision: str = "float32"
    recompute: bool = False
    shard_over: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"engine.precision is float32 or bfloat16, not {self.precision!r}")


@dataclass(frozen=True)
class PretrainRecipe:
    """A run. `model` names a preset, a built-in model or a saved one (a folder in our format) to start from.

    `expert_from` starts the partner's experts from those of a trained modality. The denoising objective takes part
    in every `denoise_every`-th step. `contrast` is over the global batch: "published" (gathered features are fixed)
    or "full" (they get their gradient too). `micro_batch` pairs go through the model at once, as many times as it
    takes; the denoising negatives of a pair are those of its micro-batch. Without it, a process takes its share of
    the batch at once; with it, the result does not depend on the number of processes.

    `files` are sources of pairs by name; without any, the sample library is drawn from. `workers` processes decode
    them ahead of training.
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
    micro_batch: int | None = None
    expert_from: str | None = None
    vocabulary: int = 50264
    drop_path: float = 0.4
    denoise_every: int = 1
    log_every: int = 20
    save_every: int = 200
    seed: int = 3407

    def __post_init__(self) -> None:
        if self.contrast not in ("published", "full"):
            raise ValueError(f"contrast is published or full, not {self.contrast!r}")
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch_size % self.micro_batch):
            raise ValueError(f"micro_batch={self.micro_batch} does not divide batch_size={self.batch_size}")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PretrainRecipe:
        """Inverse of `dataclasses.asdict`; a `ValueError` names an unknown key and the nearest known one."""
        fields = dict(values)
        parts = {"stage": PretrainingStage, "optimizer": OptimizerRecipe, "data": DataRecipe, "engine": EngineRecipe}
        for key, part in parts.items():
            if key in fields:
                fields[key] = build_dataclass(part, fields[key], key)
        fields["files"] = {
            name: build_dataclass(SourceRecipe, source, f"files.{name}")
            for name, source in fields.get("files", {}).items()
        }
        recipe: PretrainRecipe = build_dataclass(cls, fields, "recipe")
        return recipe


def load_recipe(name_or_path: str, settings: Sequence[str] = ()) -> PretrainRecipe:
    """A pretraining recipe from a file, or a shipped one by name, with `key=value` settings applied."""
    return PretrainRecipe.from_dict(read_recipe("pretrain", name_or_path, settings))


def read_recipe(kind: str, name_or_path: str, settings: Sequence[str] = ()) -> dict[str, Any]:
    """The values of a recipe of one kind (a folder of `recipes/`), with settings applied; dotted keys reach inside."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        text = path.read_text(encoding="utf-8")
    else:
        shipped = files("one_peace.recipes") / kind
        names = sorted(f.name.removesuffix(".yaml") for f in shipped.iterdir() if f.name.endswith(".yaml"))
        if name_or_path not in names:
            raise ValueError(f"no {kind} recipe {name_or_path!r}; shipped: {', '.join(names)}, or give a .yaml file")
        text = (shipped / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    values = yaml.load(text, _Loader)
    if not isinstance(values, dict):
        raise ValueError(f"{name_or_path}: a recipe is a mapping of settings")
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"setting {setting!r} is not of the form key=value")
        *parents, leaf = key.split(".")
        target = values
        for parent in parents:
            target = target.setdefault(parent, {})
            if not isinstance(target, dict):
                raise ValueError(f"setting {setting!r}: {parent} is a plain value and holds no settings")
        target[leaf] = yaml.load(value, _Loader)
    return values


def recipe_to_yaml(recipe: PretrainRecipe) -> str:
    """The recipe as text that `load_recipe` reads."""
    text: str = yaml.safe_dump(_plain(dataclasses.asdict(recipe)), sort_keys=False)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
