"""What a kind of fine-tuning brings to the loop, and how a recipe changes the shape of the model it starts from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from one_peace.data.dropped import Collect, alone
from one_peace.errors import InputError
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.loop import Gradients, Judge


class Drawn(Protocol):
    """What a run trains on, of which the loop wants to know how much there is."""

    def __len__(self) -> int: ...

    def summary(self, collect: Collect = alone) -> str | None:
        """What all processes left out so far, None for nothing."""
        ...


@dataclass(frozen=True)
class FinetuneJob:
    """A model to be trained, ready for its device. `save` writes it to a folder; `counts` as in `LoopSettings`.

    `passed_over` holds what the last evaluation could not use of the validation table; `learnt` the task's labels or
    answers, wherever the recipe has them from. `at_random`: the recipe's model is but a shape. `tokens` counts what an
    update (from 0) of a pretraining reads, by kind.
    """

    model: nn.Module
    examples: Drawn
    gradients: Gradients
    save: Callable[[Path], Any]
    judge: Judge | None
    counts: tuple[str, ...] = ()
    passed_over: list[InputError] = field(default_factory=list)
    learnt: Mapping[str, list[str]] = field(default_factory=dict)
    at_random: bool = False
    tokens: Callable[[int], Mapping[str, int]] = lambda step: {}


def changed_shape(config: OnePeaceConfig, recipe: FinetuneRecipe) -> OnePeaceConfig:
    """The shape that a run trains, without decoder. As published, every block gets its own relative position tables."""
    modalities = dict(config.modalities)
    if recipe.seconds is not None and "audio" in modalities:
        modalities["audio"] = dataclasses.replace(modalities["audio"], max_seconds=recipe.seconds)
    return dataclasses.replace(
        config, modalities=modalities, per_layer_bias=True, drop_path=recipe.drop_path, decoder=None
    )
