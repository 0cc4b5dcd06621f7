"""One pretraining run over the sample library: recipe in, run folder out.

A run folder holds `recipe.yaml`, `log.jsonl`, `state/` (to go on from) and `model/`: the model in our own format,
decoder included, which the next stage starts from. It is written before the first step and after the last one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from one_peace.checkpoints.native import is_native
from one_peace.data.manifest import Item, normalise_caption
from one_peace.data.pairs import PairSampler
from one_peace.modalities.text import TextProcessor
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.training.distributed import Processes
from one_peace.training.front_end import fit_front_end
from one_peace.training.pretrain import pretrain
from one_peace.training.recipe import PretrainRecipe, recipe_to_yaml
from one_peace.training.start import load_for_training, save_for_training, start_model


def training_items(items: Iterable[Item], partner: str) -> list[Item]:
    """The items that a stage may train on: the training split, no held-out speaker, never a picture with a sound."""
    items = list(items)
    texts = {i.id: i.texts for i in items if i.kind == "image"}
    chosen = [i for i in items if i.kind == partner and i.split == "train" and not i.heldout_speaker]
    # A sound takes the captions of the thing it belongs to; its picture is never seen in the same stage.
    captioned = [i if i.texts else dataclasses.replace(i, texts=texts.get(i.item or "", {})) for i in chosen]
    return [i for i in captioned if i.texts]


def held_out_captions(items: Iterable[Item]) -> set[str]:
    """What no training text may say: the captions of the validation and test splits, normalised, in any language."""
    held_out = (i.texts for i in items if i.split != "train")
    return {normalise_caption(text) for texts in held_out for some in texts.values() for text in some}


def run_pretraining(
    recipe: PretrainRecipe,
    items: list[Item],
    out: Path,
    device: str,
    report: Callable[[dict[str, Any]], None],
    processes: Processes | None = None,
) -> OnePeaceForPretraining:
    """Trains and leaves the run folder `out`; run again after an interruption, it continues.

    Every one of several `processes` calls it, with a folder that all of them see; the first one writes and reports.
    After a SIGTERM `out/model` is as it was at the start, and `out/state` what the run goes on from.
    """
    processes = processes or Processes()
    out.mkdir(parents=True, exist_ok=True)
    resumed = processes.any(is_native(out / "model"))  # then `state/` has its weights
    if processes.first:
        (out / "recipe.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")
    else:
        processes.wait()  # until the first one has written where the run starts
    starting = processes.first and not resumed
    model, processors = start_model(recipe, items) if starting else load_for_training(out / "model", recipe)
    stage = recipe.stage
    text = processors[stage.anchor]
    assert isinstance(text, TextProcessor)
    size = getattr(model.config.modalities[stage.partner], "image_size", 0)
    chosen = training_items(items, stage.partner)
    sampler = PairSampler(chosen, text, recipe.data, stage.partner, size, held_out_captions(items))
    if processes.first:
        report({"items": len(sampler.items), "captions": len(sampler.groups), "unreadable": sampler.skipped})
    if starting:
        if stage.front_end_steps:
            fit_front_end(model, processors, sampler.batch, stage.front_end_steps, recipe.seed, report)
        save_for_training(model, processors, out / "model")
    if processes.first:
        processes.wait()
    done = pretrain(model, recipe, processors, sampler.batch, out, device, report, processes)
    if done >= recipe.steps:
        save_for_training(model, processors, out / "model", write=processes.first)
    return model
