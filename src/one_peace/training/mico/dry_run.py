"""What a step of MiCo costs: parameters by part, arithmetic, memory; counted without weights and without clips."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from one_peace.data.manifest import Item
from one_peace.modalities.slices import SliceConfig
from one_peace.models.mico.config import SUBTITLE, MiCoConfig, branch_of
from one_peace.models.mico.model import TEXT, MiCoModel
from one_peace.models.mico.presets import list_presets
from one_peace.models.mico.text import Memory
from one_peace.tasks.mico.pretraining import Parts
from one_peace.training.cost import FlopCount, memory_of_weights
from one_peace.training.forward_pass import shards_over
from one_peace.training.mico.recipe import ClipSource, MiCoRecipe
from one_peace.training.mico.start import open_clips, plan_mico
from one_peace.training.mico.update import MiCoPass
from one_peace.training.trackers import require_trackers

BACKWARD = 2  # times the arithmetic of a forward pass


@dataclass(frozen=True)
class MiCoCost:
    """Parameters and learning rate by part; by source the arithmetic of an update, all devices together; bytes per
    device of weights, gradients and optimizer state."""

    parameters: dict[str, int]
    rates: dict[str, float]
    flops: dict[str, int]
    memory: dict[str, int]
    devices: int

    def as_text(self) -> str:
        """For people."""
        lines = [f"{'parameters':34} {'number':>15} {'learning rate':>15}"]
        for part, count in self.parameters.items():
            lines.append(f"  {part:32} {count:15,} {self.rates[part]:15.1e}")
        lines += [f"  {'in all':32} {sum(self.parameters.values()):15,}", "", "one update, all devices together"]
        lines += [f"  {name:32} {flops / 1e12:13,.3f} TFLOP" for name, flops in self.flops.items()]
        lines += ["", f"memory per device, of {self.devices}, without what the backward pass keeps"]
        lines += [f"  {what:32} {size / 2**30:13,.2f} GiB" for what, size in self.memory.items()]
        return "\n".join(lines)


def plan_mico_run(recipe: MiCoRecipe, items: Sequence[Item], devices: int = 1) -> MiCoCost:
    """The cost of a recipe. Reads the vocabulary, or the captions that one is trained on, and no media.

    Raises:
        ValueError: the batch, or the sharding, cannot be divided among so many devices.
        InputError: clips that are not there.
    """
    require_trackers(recipe.trackers)
    if recipe.batch_size % devices:
        raise ValueError(f"batch_size={recipe.batch_size} is no multiple of the {devices} devices")
    shards = shards_over(devices, recipe.engine.shard_over)
    rows = {}
    if recipe.tokenizer is None and recipe.model in list_presets():  # whose vocabulary is that of the captions
        for name, source in recipe.sources.items():
            rows[name] = open_clips(source.path, source.modalities, items, only=source.only)
    config = plan_mico(recipe, rows).config
    with torch.device("meta"):
        model = MiCoModel(replace(config, tower=replace(config.tower, drop_path=0.0)))
    parts: Counter[str] = Counter()
    rates: dict[str, float] = {}
    groups = recipe.groups()
    for name, parameter in model.named_parameters():
        part = name.split(".")[0]
        parts[part] += parameter.numel()
        rates[part] = recipe.optimizer.lr * groups(name, parameter)[1]
    memory = memory_of_weights(model, MiCoPass.blocks, recipe.engine, shards)
    flops = {name: recipe.batch_size * _flops(model, source) for name, source in recipe.sources.items()}
    return MiCoCost(dict(parts), rates, flops, memory, devices)


@torch.no_grad()
def _flops(model: MiCoModel, source: ClipSource) -> int:
    """Of one clip, forward and backward: every tuple's passes through the text model, each input encoded once."""
    config = model.config
    tokens = torch.zeros(1, config.max_caption_tokens, dtype=torch.int64, device="meta")
    seen = torch.ones(1, config.max_caption_tokens, config.max_caption_tokens, device="meta")
    with FlopCount() as counter:
        features: dict[str, Tensor] = {}
        for name in source.modalities:
            features[branch_of(name)] = model.encode(name, _input(config, name))
        if any(SUBTITLE in parts for task in source.tasks for parts in task.tuples):
            features[SUBTITLE] = model.text(tokens)
        if any(task.objective == "retrieval" for task in source.tasks):
            model.embed(TEXT, {"tokens": tokens})
        memories: dict[Parts, Memory] = {}
        for task in source.tasks:
            for parts in task.tuples:
                if parts not in memories:
                    raw = model.remember({part: features[part] for part in parts})
                    memories[parts] = model.text.project_memory(raw)
                if task.objective == "retrieval":
                    for _ in range(3):  # a text with its own input and with a wrong one, and the other way round
                        model.match(tokens, memories[parts])
                else:
                    model.text.predict(model.text(tokens, seen, memories[parts]))
    return (1 + BACKWARD) * counter.total


def _input(config: MiCoConfig, name: str) -> dict[str, Tensor]:
    settings, size = config.modalities[name], config.tower.image_size
    if isinstance(settings, SliceConfig):
        bands = settings.size or settings.bins
        return {"slices": torch.zeros(1, settings.count, settings.frames, bands, device="meta")}
    return {"frames": torch.zeros(1, settings.count, 3, size, size, device="meta")}
