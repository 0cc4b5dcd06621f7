"""The pretraining loop on one device: seeded, logged, resumable."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from one_peace.modalities.base import Example, Processor
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import PretrainingBatch, collate_pairs, freeze_for_stage, pretraining_losses
from one_peace.training.optimizer import build_optimizer, learning_rate
from one_peace.training.recipe import PretrainRecipe

BatchSource = Callable[[int, int, int], list[tuple[Example, Example]]]
"""(batch size, seed, step) -> pairs; the same arguments give the same pairs."""


def pretrain(
    model: OnePeaceForPretraining,
    recipe: PretrainRecipe,
    processors: Mapping[str, Processor],
    batches: BatchSource,
    out: Path,
    device: str = "cpu",
    report: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Runs `recipe.steps` updates of `model` in place; `out` gets `log.jsonl` and `state.pt` to resume from."""
    out.mkdir(parents=True, exist_ok=True)
    model.to(device).train()
    freeze_for_stage(model, recipe.stage)
    optimizer = build_optimizer(model, recipe.optimizer)
    state = out / "state.pt"
    first = _resume(state, model, optimizer) if state.exists() else 0
    trained = [p for p in model.parameters() if p.requires_grad]
    with open(out / "log.jsonl", "a", encoding="utf-8") as log:
        began = time.monotonic()
        for step in range(first, recipe.steps):
            torch.manual_seed(recipe.seed + step)  # drop path draws from the global generator
            batch = _masked_batch(recipe, processors, batches, step, device)
            rate = learning_rate(step, recipe.steps, recipe.optimizer)
            for group in optimizer.param_groups:
                group["lr"] = rate
            losses = pretraining_losses(model, batch, recipe.stage, denoise=step % recipe.denoise_every == 0)
            losses["total"].backward()
            norm = torch.nn.utils.clip_grad_norm_(trained, recipe.optimizer.clip_norm)
            if not torch.isfinite(norm):
                raise FloatingPointError(f"step {step}: the gradient is not finite")
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            done = step + 1
            if done % recipe.log_every == 0 or done == recipe.steps:
                pairs = recipe.batch_size * (done - first) / (time.monotonic() - began)
                row = {
                    "step": done,
                    "lr": rate,
                    "grad_norm": norm.item(),
                    "pairs_per_second": round(pairs, 1),
                }
                row |= {name: round(value.item(), 5) for name, value in losses.items()}
                row["temperature"] = round(model.encoder.temperature().item(), 3)
                log.write(json.dumps(row) + "\n")
                log.flush()
                if report:
                    report(row)
            if done % recipe.save_every == 0 or done == recipe.steps:
                _save(state, model, optimizer, done)
    model.eval()


def _masked_batch(
    recipe: PretrainRecipe, processors: Mapping[str, Processor], batches: BatchSource, step: int, device: str
) -> PretrainingBatch:
    pairs = batches(recipe.batch_size, recipe.seed, step)
    generator = torch.Generator().manual_seed(recipe.seed * 7919 + step)
    batch = collate_pairs(pairs, recipe.stage, processors, generator)
    inputs = {m: {k: v.to(device) for k, v in tensors.items()} for m, tensors in batch.inputs.items()}
    return PretrainingBatch(inputs, {name: masks.to(torch.device(device)) for name, masks in batch.masks.items()})


def _save(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    """Writes beside and renames, so that a crash never costs the previous state."""
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _resume(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    state = torch.load(path, weights_only=True, map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])
