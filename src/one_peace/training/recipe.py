"""What recipes of all training say of the optimiser and of the devices at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from one_peace.configuration import within

SCHEDULES = ("cosine", "linear", "cosine-from-zero", "linear-from-zero")


@dataclass(frozen=True)
class OptimizerRecipe:
    """AdamW with a decay after a linear warm-up: cosine (paper, appendix; the published runs), or linear (OFA's).

    The schedules `linear-from-zero` and `cosine-from-zero` are those of MiCo's published code: the first update has the
    rate `min_lr`, and the cosine is one of all updates, so the rate drops where the warm-up ends.

    Vectors do not decay by `weight_decay` unless `decay_vectors` is set, as published for OFA. With a `clip_norm` of 0
    gradients are not clipped.
    """

    lr: float = 5e-4
    min_lr: float = 1e-6
    warmup_steps: int = 3000
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-8
    weight_decay: float = 0.05
    decay_vectors: bool = False
    schedule: str = "cosine"
    clip_norm: float = 3.0
    layer_decay: float = 1.0
    ema_decay: float | None = None
    ema_start: int = 0
    skip_limit: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        within(self, "optimizer", lr="[0, inf)", min_lr="[0, inf)", warmup_steps="[0, inf)", betas="[0, 1)")
        within(self, "optimizer", eps="(0, inf)", weight_decay="[0, inf)", clip_norm="[0, inf)", layer_decay="(0, 1]")
        within(self, "optimizer", ema_decay="[0, 1)", ema_start="[0, inf)", skip_limit="[0, inf)")
        if self.min_lr > self.lr:
            raise ValueError(f"optimizer.min_lr={self.min_lr} is above optimizer.lr={self.lr}, which it falls to")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"optimizer.schedule is one of {', '.join(SCHEDULES)}, not {self.schedule!r}")


@dataclass(frozen=True)
class EngineRecipe:
    """How the work is done on the devices at hand; of this only `precision` changes the numbers.

    `recompute` keeps each block's input and computes the rest again for the gradient. `compile` has PyTorch's compiler
    make the blocks' code. `shard_over` is the number of processes that share one copy of the weights, all by default.
    """

    precision: str = "float32"
    recompute: bool = False
    compile: bool = False
    shard_over: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"engine.precision is float32 or bfloat16, not {self.precision!r}")
        within(self, "engine", shard_over="[1, inf)")


def fit_micro_batch(values: dict[str, Any], settings: Sequence[str]) -> None:
    """Makes a recipe's `micro_batch` divide the `batch_size` that was set in its place, in place: the largest one that
    is no larger than the recipe's. What a recipe says by itself, or a setting of `micro_batch`, stays."""
    batch, micro = values.get("batch_size"), values.get("micro_batch")
    given = {setting.partition("=")[0] for setting in settings}
    if "batch_size" in given and "micro_batch" not in given and isinstance(batch, int) and isinstance(micro, int):
        fitting = (size for size in range(1, min(batch, micro) + 1) if batch % size == 0)
        values["micro_batch"] = max(fitting, default=micro)


def check_micro_batch(batch_size: int, micro_batch: int | None) -> None:
    """`ValueError` for micro-batches that a batch does not divide into."""
    if micro_batch is not None and (micro_batch < 1 or batch_size % micro_batch):
        raise ValueError(f"micro_batch={micro_batch} does not divide batch_size={batch_size}")
