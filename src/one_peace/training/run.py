"""One pretraining run over the sample library: recipe in, run folder out.

A run folder holds `recipe.yaml`, `config.json`, `tokenizer.json`, `log.jsonl`, `state.pt` (to resume, and to start
the next stage from) and, when the run is through, `model/` in our own format.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from one_peace.data.manifest import Item
from one_peace.data.pairs import PairSampler
from one_peace.modalities import get_modality
from one_peace.modalities.base import Processor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.presets import list_models, preset
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.training.pretrain import pretrain
from one_peace.training.recipe import PretrainRecipe, recipe_to_yaml


def training_items(items: Iterable[Item], partner: str) -> list[Item]:
    """The items that a stage may train on: the training split, no held-out speaker, never a picture with a sound."""
    items = list(items)
    texts = {i.id: i.texts for i in items if i.kind == "image"}
    chosen = [i for i in items if i.kind == partner and i.split == "train" and not i.heldout_speaker]
    # A sound takes the captions of the thing it belongs to; its picture is never seen in the same stage.
    captioned = [i if i.texts else dataclasses.replace(i, texts=texts.get(i.item or "", {})) for i in chosen]
    return [i for i in captioned if i.texts]


def start_model(recipe: PretrainRecipe, items: Iterable[Item], out: Path) -> OnePeaceForPretraining:
    """A fresh preset with a tokenizer trained on the captions, or the model of an earlier run folder."""
    previous = Path(recipe.model)
    if recipe.model in list_models():
        captions = sorted({t for i in items if i.split == "train" for texts in i.texts.values() for t in texts})
        tokenizer = Tokenizer(train_tokenizer([" " + c.lower() for c in captions], recipe.vocabulary))
        tokenizer.save(out / "tokenizer.json")
        config = preset(recipe.model, decoder=True)
        text = TextConfig(vocab_size=tokenizer.vocab_size)
        config = dataclasses.replace(
            config,
            name=f"one-peace-{recipe.model}",
            drop_path=recipe.drop_path,
            modalities={**config.modalities, "text": text},
        )
        torch.manual_seed(recipe.seed)
        model = OnePeaceForPretraining(config)
    elif (previous / "state.pt").exists():
        config = OnePeaceConfig.from_dict(json.loads((previous / "config.json").read_text(encoding="utf-8")))
        model = OnePeaceForPretraining(dataclasses.replace(config, drop_path=recipe.drop_path))
        state = torch.load(previous / "state.pt", weights_only=True, map_location="cpu")
        model.load_state_dict(state["model"])
        if recipe.expert_from is not None:
            copy_experts(model.encoder, recipe.expert_from, recipe.stage.partner)
        (out / "tokenizer.json").write_bytes((previous / "tokenizer.json").read_bytes())
    else:
        raise ValueError(f"model {recipe.model!r} is neither a preset ({', '.join(list_models())}) nor a run folder")
    (out / "config.json").write_text(json.dumps(model.config.to_dict(), indent=2) + "\n", encoding="utf-8")
    return model


def copy_experts(encoder: OnePeaceEncoder, source: str, target: str) -> None:
    """Starts one modality's feed-forward experts and final norm from another's."""
    for block in encoder.fusion.blocks:
        block.ffn[target].load_state_dict(block.ffn[source].state_dict())
    encoder.fusion.norms[target].load_state_dict(encoder.fusion.norms[source].state_dict())


def run_pretraining(
    recipe: PretrainRecipe, items: list[Item], out: Path, device: str, report: Callable[[dict[str, Any]], None]
) -> OnePeaceForPretraining:
    """Trains and leaves the run folder `out`; run again after an interruption, it continues."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "recipe.yaml").write_text(recipe_to_yaml(recipe), encoding="utf-8")
    model = start_model(recipe, items, out)
    stage = recipe.stage
    processors: dict[str, Processor] = {
        name: get_modality(name).processor(model.config.modalities[name], out) for name in (stage.anchor, stage.partner)
    }
    text = processors[stage.anchor]
    assert isinstance(text, TextProcessor)
    size = getattr(model.config.modalities[stage.partner], "image_size", 0)
    chosen = training_items(items, stage.partner)
    sampler = PairSampler(chosen, text, recipe.data, stage.partner, size)
    report({"items": len(sampler.items), "captions": len(sampler.groups), "unreadable": sampler.skipped})
    pretrain(model, recipe, processors, sampler.batch, out, device, report)
    return model
