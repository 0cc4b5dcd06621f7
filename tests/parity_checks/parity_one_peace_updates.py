"""The ONE-PEACE checks of `parity.py` that concern updates: AdamW, rates, decay."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from one_peace.checkpoints.one_peace.names import Target, to_native
from one_peace.training.optimizer import BLOCK, build_optimizer, decays, layer_of, learning_rate
from one_peace.training.recipe import OptimizerRecipe
from parity import Check, Comparison
from parity_files import Fixture

SCHEDULE = re.compile(
    r".*lr(?P<lr>\S+) min(?P<least>\S+) (?P<kind>warm|ratio)(?P<warm>\S+) (?:max|total)(?P<steps>\d+)"
)
# The names that a missing comma glues together are decayed there (docs/differences.md).
GLUED = "decoder_wrapper.image_adapter.pos_embed"


def check_adam(fixture: Fixture, compare: Comparison) -> None:
    """Weights after each update. The published fallback and PyTorch's AdamW place eps differently: no weight shows it
    where eps is small beside the gradients; elsewhere there is nothing to compare."""
    facts = fixture.meta
    if facts["eps"] > 1e-4 * fixture["grads"].abs().mean():
        compare.exact("updates", len(fixture["grads"]), sum(name[:1] == "w" for name in fixture.tensors) - 1)
        compare.leave_out("w1, w2, ...", f"eps={facts['eps']} is not small beside the gradients (docs/differences.md)")
        fixture.tensors.unread.clear()
        return
    model = nn.ParameterDict({"weight": fixture["w0"].clone()})
    recipe = OptimizerRecipe(
        lr=facts["lr"],
        betas=tuple(facts["betas"]),
        eps=facts["eps"],
        weight_decay=facts["weight_decay"],
        decay_vectors=True,
    )
    optimizer = build_optimizer(model, recipe)
    for update, gradient in enumerate(fixture["grads"], start=1):
        model["weight"].grad = gradient.clone()
        optimizer.step()
        compare.feature(f"w{update}", model["weight"], fixture[f"w{update}"], 1e-6)


def check_optimizer(fixture: Fixture, compare: Comparison) -> None:
    """Rates, decay and layer decay, but for the accidents that docs/differences.md lists."""
    for key, rates in fixture.meta["lr"].items():
        check_rates(key, rates, compare)
    for case, groups in fixture.meta["param_groups"].items():
        check_groups(case, groups, compare)


def check_rates(key: str, rates: dict[str, float], compare: Comparison) -> None:
    """The learning rate after so many updates, of a schedule that the key tells."""
    told = SCHEDULE.fullmatch(key)
    if told is None:
        raise ValueError(f"{key}: not a schedule such as 'lr5e-4 min1e-6 warm300 max2000'")
    steps = int(told["steps"])
    warm = int(told["warm"]) if told["kind"] == "warm" else int(float(told["warm"]) * steps)
    recipe = OptimizerRecipe(lr=float(told["lr"]), min_lr=float(told["least"]), warmup_steps=warm)
    left = []
    for name, rate in rates.items():
        finished = int(name.split(" ")[0]) if name[0].isdigit() else 0
        if 0 < finished < steps:
            step = finished - 1 if finished <= recipe.warmup_steps else finished
            compare.feature(f"rate {name}", double(learning_rate(step, steps, recipe)), double(rate), 1e-9)
        else:
            left.append(name.split(" ")[0])
    if not left:
        return
    reason = "the published schedule begins at the lowest rate and starts again after its end (docs/differences.md)"
    compare.leave_out(f"rates {', '.join(left)} of {key}", reason)


def check_groups(case: str, groups: list[dict[str, Any]], compare: Comparison) -> None:
    """Which parameters decay, and what layer decay makes of their rate; its base ends the name of the case."""
    told = re.search(r"_([\d.]+)$", case)
    base = float(told[1]) if told else 1.0
    names = [official for group in groups for official in group["params"]]
    compare.exact(f"{case}: every parameter is in one group", len({*names}), len(names))
    targets = {official: to_native(official) for official in names}
    native = [target.name for target in targets.values() if isinstance(target, Target)]
    layers = max((int(found[1]) + 1 for name in native if (found := BLOCK.match(name))), default=0)
    for group in groups:
        for official in group["params"]:
            target = targets[official]
            compare.exact(f"{case}: {official} is known", target is not None, True)
            if not isinstance(target, Target):
                continue
            if official == GLUED:
                compare.leave_out(f"{case}: decay of {official}", "a missing comma there (docs/differences.md)")
                continue
            parameter = nn.Parameter(torch.zeros([1] * dimensions(official)))
            compare.exact(f"{case}: decay of {official}", decays(target.name, parameter), group["weight_decay"] > 0)
            scale = base ** (layers + 1 - layer_of(target.name, layers))
            compare.feature(f"{case}: rate of {official}", double(scale), double(group["lr_scale"]), 1e-9)


@lru_cache
def dimensions(official: str) -> int:
    """How many dimensions a parameter has, at any size: as listed for the published models."""
    for name, shape in published_shapes().items():
        if re.fullmatch(re.escape(name).replace(r"\{\}", r"\d+"), official):
            return len(shape)
    raise ValueError(f"{official}: no published model has it")


@lru_cache
def published_shapes() -> dict[str, list[int]]:
    """Shapes by name, where {} stands for the number of a layer."""
    listed = Path(__file__).parents[1] / "golden" / "one_peace" / "official_tensors_4b.json"
    return {row[0]: row[1] for row in json.loads(listed.read_text(encoding="utf-8"))["rows"]}


def double(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


CHECKS: dict[str, Check] = {
    "fixture_x_adam": check_adam,
    "fixture_x_optim": check_optimizer,
}
