"""Fine-tuning by low-rank changes (LoRA): which layers get them, what is trained then, what is saved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from one_peace.checkpoints.tensor_file import DeferredTensor
from one_peace.nn.block import Block
from one_peace.nn.lora import LoRALinear, merge
from one_peace.training.distributed import whole_tensor

PARTS = ("attention", "experts")
FRESH = ("head.", "roles.")  # new with the task, so trained whole


@dataclass(frozen=True)
class LoRARecipe:
    """Changes of `rank`, scaled by `alpha / rank`, to the linear layers of some of `PARTS` in every block."""

    rank: int = 8
    alpha: float = 16.0
    parts: tuple[str, ...] = PARTS

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if self.rank < 1 or self.alpha <= 0:
            raise ValueError(f"lora: rank={self.rank} and alpha={self.alpha} must be positive")
        wrong = [part for part in self.parts if part not in PARTS]
        if wrong or not self.parts:
            raise ValueError(f"lora.parts: {wrong[0] if wrong else 'none'!r}; a list of some of {', '.join(PARTS)}")


def add_lora(model: nn.Module, recipe: LoRARecipe, seed: int) -> None:
    """Gives the blocks of a model their changes, in place, and leaves these and what is fresh to be trained."""
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for block in [module for module in model.modules() if isinstance(module, Block)]:
            places: list[nn.Module] = [block.attention] if "attention" in recipe.parts else []
            if "experts" in recipe.parts:
                places += list(block.ffn.values())
            for place in places:
                for name, layer in list(place.named_children()):
                    if isinstance(layer, nn.Linear):
                        setattr(place, name, LoRALinear(layer, recipe.rank, recipe.alpha / recipe.rank))
    for name, parameter in model.named_parameters():
        if name.startswith(FRESH):
            parameter.requires_grad_(True)


def count_trained(model: nn.Module) -> tuple[int, int]:
    """(trained, all) parameters of a model."""
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, trained in counts if trained), sum(count for count, _ in counts)


def merged_tensors(model: nn.Module) -> dict[str, DeferredTensor]:
    """The tensors that the model would have without low-rank changes, with these merged in, by name. Each is read whole
    on the CPU; of a sharded one, every process has to ask."""
    changed = {f"{name}.weight": layer for name, layer in model.named_modules() if isinstance(layer, LoRALinear)}
    extra = {f"{name.removesuffix('weight')}low_rank_{part}" for name in changed for part in ("down", "up")}

    def reader(name: str, parameter: nn.Parameter) -> Callable[[], Tensor]:
        if name not in changed:
            return lambda: whole_tensor(parameter)
        layer = changed[name]

        def read() -> Tensor:
            weight, down, up = (whole_tensor(p) for p in (layer.weight, layer.low_rank_down, layer.low_rank_up))
            return merge(weight, down, up, layer.scale)

        return read

    return {
        name: DeferredTensor(tuple(parameter.shape), parameter.dtype, reader(name, parameter))
        for name, parameter in model.named_parameters()
        if name not in extra
    }
