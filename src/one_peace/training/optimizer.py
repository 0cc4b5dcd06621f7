"""AdamW with the published choice of what decays, and the learning rate over time."""

from __future__ import annotations

import math

import torch
from torch import nn

from one_peace.training.recipe import OptimizerRecipe


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to vectors and scalars, cls embeddings or absolute positions of adapters."""
    if parameter.ndim <= 1:
        return False
    in_adapter = "adapters." in name
    return not (in_adapter and (name.endswith(".cls") or name.endswith(".positions.weight")))


def build_optimizer(model: nn.Module, recipe: OptimizerRecipe) -> torch.optim.AdamW:
    """AdamW over the parameters that require gradients, in two groups."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if decays(name, p)], "weight_decay": recipe.weight_decay},
        {"params": [p for name, p in trained if not decays(name, p)], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, eps=recipe.eps, fused=True)


def learning_rate(step: int, steps: int, recipe: OptimizerRecipe) -> float:
    """Rate of update `step` (from 0): linear warm-up, then cosine to `min_lr`, which later steps keep."""
    if step < recipe.warmup_steps:
        return recipe.min_lr + (recipe.lr - recipe.min_lr) * (step + 1) / recipe.warmup_steps
    progress = min(1.0, (step - recipe.warmup_steps) / max(1, steps - recipe.warmup_steps))
    return recipe.min_lr + 0.5 * (recipe.lr - recipe.min_lr) * (1.0 + math.cos(math.pi * progress))
