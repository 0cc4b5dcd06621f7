"""AdamW with the published choice of what decays and what learns slower, and the learning rate over time."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from one_peace.training.recipe import OptimizerRecipe

BLOCK = re.compile(r"(?:encoder\.)?(?:fusion\.blocks|adapters\.\w+\.bias\.tables)\.(\d+)(?:\.|$)")


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to vectors and scalars, cls embeddings or absolute positions of adapters."""
    if parameter.ndim <= 1:
        return False
    in_adapter = "adapters." in name
    return not (in_adapter and (name.endswith(".cls") or name.endswith(".positions.weight")))


def layer_of(name: str, layers: int) -> int:
    """Depth of a parameter for layer decay: adapters 0, block i and its bias table i + 1, all else `layers` + 1.

    The embeddings of roles (of two pictures and a text) count as parts of the adapters, as published.
    """
    if block := BLOCK.match(name):
        return int(block[1]) + 1
    return 0 if name.removeprefix("encoder.").startswith(("adapters.", "roles.")) else layers + 1


Groups = Callable[[str, nn.Parameter], tuple[bool, float]]
"""A parameter by its name -> whether weight decay applies, and its learning rate relative to the recipe's."""


def build_optimizer(model: nn.Module, recipe: OptimizerRecipe, groups: Groups | None = None) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients.

    A group's `lr_scale` is `layer_decay` to the power of its distance from the top; it is 1 without layer decay. A
    family of models may have `groups` of its own.
    """
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    blocks = [int(m[1]) + 1 for name, _ in model.named_parameters() if (m := BLOCK.match(name))]
    layers = max(blocks, default=0)
    members: dict[tuple[float, float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trained:
        if groups is None:
            scale = recipe.layer_decay ** (layers + 1 - layer_of(name, layers))
            decaying = recipe.decay_vectors or decays(name, parameter)
        else:
            decaying, scale = groups(name, parameter)
        decay = recipe.weight_decay if decaying else 0.0
        # The fused update takes sharded or plain tensors of a group, never both.
        members[decay, scale, isinstance(parameter, DTensor)].append(parameter)
    ordered = sorted(members.items(), key=lambda group: (-group[0][0], group[0][1], group[0][2]))
    made = [
        {"params": parameters, "weight_decay": decay, "lr_scale": scale} for (decay, scale, _), parameters in ordered
    ]
    return torch.optim.AdamW(made, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group the rate times the group's own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def learning_rate(step: int, steps: int, recipe: OptimizerRecipe) -> float:
    """Rate of update `step` (from 0): linear warm-up, then the schedule down to `min_lr`, which later steps keep."""
    curve, _, from_zero = recipe.schedule.partition("-")
    if step < recipe.warmup_steps:
        reached = step if from_zero else step + 1
        return recipe.min_lr + (recipe.lr - recipe.min_lr) * reached / recipe.warmup_steps
    before = 0 if from_zero and curve == "cosine" else recipe.warmup_steps
    progress = min(1.0, (step - before) / max(1, steps - before))
    left = 1.0 - progress if curve == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * left
