"""Recipes for training MiCo: which clips, which tasks on them, from which model, and how."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from one_peace.configuration import build_dataclass, within
from one_peace.models.mico.config import FAMILY
from one_peace.recipe_files import plain_values
from one_peace.tasks.mico.clips import check_tasks
from one_peace.tasks.mico.pretraining import MiCoTask, Parts, parse_tasks, read_tuples
from one_peace.training.optimizer import Groups
from one_peace.training.recipe import EngineRecipe, OptimizerRecipe
from one_peace.training.trackers import known_trackers

SAMPLE_LIBRARY = "sample-library"
VAST_ADAM: dict[str, Any] = {
    "lr": 1e-4,
    "min_lr": 0.0,
    "betas": (0.9, 0.98),
    "eps": 1e-6,
    "weight_decay": 0.01,
    "schedule": "linear-from-zero",
    "clip_norm": 0.0,
}
WARMUP = 0.1  # of all updates
"""What the published training code has where nothing else is said."""


@dataclass(frozen=True)
class ClipSource:
    """Clips and what is learnt from them.

    path: webdataset shards (`.tar`, ranges in braces, also behind http), a table (`.tsv`, `.csv`, `.jsonl`) with a
    column per modality and a caption, or the sample library, of which `only` names the sources and tracks to take.
    modalities: what is read of a clip; one that lacks some of it is left out. tasks: objectives with their tuples, or
    the published form of it (`ret%tv%ta_cap%tv`). kinds: clips have captions of the picture, of the sound and of both.
    weight: the source's share of the updates; each update takes its batch from one source.
    """

    path: str
    modalities: tuple[str, ...]
    tasks: tuple[MiCoTask, ...]
    only: tuple[str, ...] = ()
    kinds: bool = False
    weight: float = 1.0

    def __post_init__(self) -> None:
        for key in ("modalities", "only"):
            object.__setattr__(self, key, tuple(getattr(self, key)))
        if not self.modalities or not self.tasks:
            raise ValueError(f"{self.path}: modalities and tasks must each name something")
        check_tasks(self.tasks, self.modalities)
        if not 0 < self.weight < math.inf:
            raise ValueError(f"{self.path}: weight must be positive, not {self.weight}")
        if self.only and self.path != SAMPLE_LIBRARY:
            raise ValueError(f"{self.path}: only chooses from {SAMPLE_LIBRARY}, and from nothing else")

    @classmethod
    def from_dict(cls, values: Any, where: str) -> ClipSource:
        """Inverse of `dataclasses.asdict`; tasks also in the published form."""
        if not isinstance(values, Mapping):
            raise ValueError(f"{where} is a mapping of settings, not {values!r}")
        fields = dict(values)
        if "tasks" in fields:
            fields["tasks"] = read_tasks(fields["tasks"], f"{where}.tasks")
        return build_dataclass(cls, fields, where)


def read_tasks(given: Any, where: str) -> tuple[MiCoTask, ...]:
    """Tasks from a list of mappings, or from a text as the published code writes them."""
    if isinstance(given, str):
        return parse_tasks(given)
    if not isinstance(given, list | tuple):
        raise ValueError(f"{where}: a list of objectives with tuples, or a text such as ret%tv_cap%tv; not {given!r}")
    tasks = []
    for number, entry in enumerate(given):
        values = dict(entry) if isinstance(entry, Mapping) else entry
        if isinstance(values, dict) and "tuples" in values:
            values["tuples"] = read_tuples(values["tuples"], f"{where}[{number}].tuples")
        tasks.append(build_dataclass(MiCoTask, values, f"{where}[{number}]"))
    return tuple(tasks)


@dataclass(frozen=True)
class MiCoEvaluation:
    """Retrieval on held-out clips after every `every` updates (0: never) and after the last one.

    path, modalities, only: as of `ClipSource`; of the sample library the validation split. tuples: what texts are
    looked up with. The model with the best mean of recall@k, over all tuples and both ways, is kept.
    """

    path: str
    modalities: tuple[str, ...]
    tuples: tuple[Parts, ...]
    every: int = 0
    only: tuple[str, ...] = ()
    size: int = 1000

    def __post_init__(self) -> None:
        within(self, "evaluation", every="[0, inf)", size="[2, inf)")
        object.__setattr__(self, "modalities", tuple(self.modalities))
        object.__setattr__(self, "only", tuple(self.only))
        made = MiCoTask("retrieval", read_tuples(self.tuples, "evaluation.tuples"))
        object.__setattr__(self, "tuples", made.tuples)
        check_tasks([made], self.modalities)


@dataclass(frozen=True)
class MiCoRecipe:
    """A run. `model` is a preset (`mico-giant`, ...) or a saved model, ours or published, to start from.

    tokenizer: the place of a vocabulary (vocab.txt of bert-base-uncased, or a tokenizer.json); without one a preset
    gets one of `vocabulary` word pieces, trained on the captions. frames, image_size, caption_tokens: of a preset, how
    many frames and slices of each branch the model takes, their size in pixels, and the length of captions, with their
    first and last token. drop_path, dropout: while training; by default the model's own. tower_lr: the learning rate of
    the tower, where `optimizer.lr` is that of all else; temperature_lr: that of the temperature, which at the rates of
    small models would run away before there is anything to tell apart. workers: threads that decode the next batch.
    augmentation: its strength, 0 for none.
    """

    model: str
    sources: dict[str, ClipSource]
    steps: int
    batch_size: int
    optimizer: OptimizerRecipe
    tower_lr: float = 5e-7
    temperature_lr: float | None = None
    engine: EngineRecipe = field(default_factory=EngineRecipe)
    tokenizer: str | None = None
    vocabulary: int = 30522
    frames: dict[str, int] = field(default_factory=dict)
    image_size: int | None = None
    caption_tokens: int | None = None
    drop_path: float | None = None
    dropout: float | None = None
    augmentation: float = 1.0
    workers: int = 0
    evaluation: MiCoEvaluation | None = None
    trackers: tuple[str, ...] = ()
    log_every: int = 20
    save_every: int = 200
    seed: int = 50
    family: str = FAMILY

    def __post_init__(self) -> None:
        within(self, "recipe", **dict.fromkeys(("steps", "workers", "tower_lr", "temperature_lr"), "[0, inf)"))
        within(
            self, "recipe", log_every="[1, inf)", save_every="[1, inf)", batch_size="[2, inf)", vocabulary="[10, inf)"
        )
        within(self, "recipe", caption_tokens="[3, inf)", frames="[0, inf)", image_size="[1, inf)")
        within(self, "recipe", drop_path="[0, 1)", dropout="[0, 1)", augmentation="[0, 10]", seed=f"[0, {2**48})")
        if self.family != FAMILY:
            raise ValueError(f"recipe: this is of the family {FAMILY}, not {self.family!r}")
        if not self.sources:
            raise ValueError("recipe: sources names no clips to learn from")
        if self.engine.compile:
            raise ValueError("engine.compile is for ONE-PEACE models; MiCo's blocks are not compiled")
        if self.optimizer.layer_decay != 1:
            raise ValueError("optimizer.layer_decay is for ONE-PEACE models; MiCo's tower has tower_lr")
        if self.optimizer.decay_vectors:
            raise ValueError("optimizer.decay_vectors is for other models; MiCo decays by its published rule")
        object.__setattr__(self, "trackers", known_trackers(self.trackers))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MiCoRecipe:
        """Inverse of `values`; what the optimizer is not told is as published.

        Raises:
            ValueError: names what is wrong; of an unknown key also the nearest known one.
        """
        fields = dict(values)
        steps, optimizer = fields.get("steps"), fields.get("optimizer", {})
        if isinstance(optimizer, dict):
            # the published share is one of time, which seldom ends with an update: the nearest
            warmup = {"warmup_steps": round(WARMUP * steps)} if isinstance(steps, int) and steps > 0 else {}
            optimizer = VAST_ADAM | warmup | optimizer
        fields["optimizer"] = build_dataclass(OptimizerRecipe, optimizer, "optimizer")
        if "engine" in fields:
            fields["engine"] = build_dataclass(EngineRecipe, fields["engine"], "engine")
        if fields.get("evaluation") is not None:
            fields["evaluation"] = build_dataclass(MiCoEvaluation, fields["evaluation"], "evaluation")
        sources = fields.get("sources", {})
        if not isinstance(sources, Mapping):
            raise ValueError(f"sources is a mapping from names to clips, not {sources!r}")
        fields["sources"] = {name: ClipSource.from_dict(one, f"sources.{name}") for name, one in sources.items()}
        return build_dataclass(cls, fields, "recipe")

    def values(self) -> dict[str, Any]:
        """The recipe as plain numbers, texts, lists and dicts."""
        plain = dataclasses.asdict(self)
        values: dict[str, Any] = plain_values(plain)
        return values

    def groups(self) -> Groups:
        """The published groups of parameters: the tower has its own learning rate; `mico_decays` says what decays."""
        own = {"tower": self.tower_lr}
        if self.temperature_lr is not None:
            own["temperature"] = self.temperature_lr
        scales = {part: lr / self.optimizer.lr if self.optimizer.lr else 1.0 for part, lr in own.items()}
        return lambda name, parameter: (mico_decays(name, parameter), scales.get(name.split(".")[0], 1.0))

    @property
    def needs_library(self) -> bool:
        """Whether any of its clips are from the sample library."""
        places = [source.path for source in self.sources.values()]
        return SAMPLE_LIBRARY in places or (self.evaluation is not None and self.evaluation.path == SAMPLE_LIBRARY)

    @property
    def library_sources(self) -> set[str]:
        """Names of the packages and tracks of the sample library that are asked for."""
        return {name for source in self.sources.values() for name in source.only}


def mico_decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies, as published: to all but biases and the norms of the text model.

    The norms of the tower and of the heads, the temperature and all embeddings do decay: the published rule goes by
    names, and these have other ones.
    """
    text_norm = name.startswith("text.") and "norm." in name
    return "bias" not in name and not text_norm
