"""The ONE-PEACE checks of `parity.py` that concern updates: AdamW, rates, decay."""

from __future__ import annotations

import torch
from torch import nn

from one_peace.checkpoints.names import Target, to_native
from one_peace.training.optimizer import build_optimizer, decays, layer_of, learning_rate
from one_peace.training.recipe import OptimizerRecipe
from parity import Check, Comparison, Fixture


def check_adam(fixture: Fixture, compare: Comparison) -> None:
    """The published fallback and PyTorch's AdamW place eps differently, which at 1e-8 no weight shows."""
    facts = fixture.meta
    layer = nn.Linear(4, 5, bias=False)
    layer.weight.data.copy_(fixture["w0"])
    recipe = OptimizerRecipe(
        lr=facts["lr"], betas=tuple(facts["betas"]), eps=facts["eps"], weight_decay=facts["weight_decay"]
    )
    optimizer = build_optimizer(layer, recipe)
    for update, gradient in enumerate(fixture["grads"], start=1):
        layer.weight.grad = gradient.clone()
        optimizer.step()
        compare.feature(f"w{update}", layer.weight, fixture[f"w{update}"], 1e-6)


def check_optimizer(fixture: Fixture, compare: Comparison) -> None:
    """Rates, decay and layer decay, but for the accidents: a first update at the lowest rate, a schedule that starts
    again after its end, and the decay of a decoder's picture positions (a missing comma)."""
    pretraining, fine_tuning = fixture.meta["lr"].values()
    for rates, recipe, steps in (
        (pretraining, OptimizerRecipe(lr=5e-4, warmup_steps=300), 2000),
        (fine_tuning, OptimizerRecipe(lr=1e-4, warmup_steps=100), 1000),
    ):
        for name, rate in rates.items():
            finished = int(name.split(" ")[0]) if name[0].isdigit() else 0
            if 0 < finished < steps:
                step = finished - 1 if finished <= recipe.warmup_steps else finished
                ours = torch.tensor(learning_rate(step, steps, recipe), dtype=torch.float64)
                compare.feature(f"lr {name}", ours, torch.tensor(rate, dtype=torch.float64), 1e-9)
    for case, groups in fixture.meta["param_groups"].items():
        base = 0.9 if case.endswith("0.9") else 1.0
        for group in groups:
            for official in group["params"]:
                target = to_native(official)
                if not isinstance(target, Target) or official == "decoder_wrapper.image_adapter.pos_embed":
                    continue
                matrix = group["weight_decay"] > 0 or official.endswith(
                    ("cls_embedding", "pos_embed", "positions.weight")
                )
                parameter = nn.Parameter(torch.zeros(1, 1) if matrix else torch.zeros(1))
                compare.exact(f"{case}: decay of {official}", decays(target.name, parameter), group["weight_decay"] > 0)
                scale = base ** (3 + 1 - layer_of(target.name, 3))
                ours, theirs = (torch.tensor(x, dtype=torch.float64) for x in (scale, group["lr_scale"]))
                compare.feature(f"{case}: rate of {official}", ours, theirs, 1e-9)


CHECKS: dict[str, Check] = {
    "fixture_x_adam": check_adam,
    "fixture_x_optim": check_optimizer,
}
