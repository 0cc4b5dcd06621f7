"""What a run would cost, told before it starts: parameters, tokens, arithmetic and memory of one step.

A run from tables (OFA's pretraining, a coder of pictures) computes the update of a few of its rows on the CPU, with the
whole model and in small batches; arithmetic and kept memory are counted there and grow with the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from one_peace.cache import pair_cache
from one_peace.data.manifest import Item
from one_peace.data.pairs import source_of
from one_peace.data.shard_cache import ShardCache
from one_peace.modalities.base import Example, Processor
from one_peace.modalities.text import TextProcessor
from one_peace.models.ofa.layers import Layer
from one_peace.models.ofa.model import OfaModel, part_of
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.presets import list_presets
from one_peace.nn.block import Block
from one_peace.training.cost import Cost, FlopCount, KeptMemory, count_parameters, memory_of_weights
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.job import FinetuneJob
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.finetuning.run import open_job
from one_peace.training.forward_pass import ForwardPass, shards_over
from one_peace.training.pretraining.cost import PAIRS, PretrainingStep
from one_peace.training.pretraining.evaluation import open_held_out
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.pretraining.run import open_batches
from one_peace.training.pretraining.start import plan_model
from one_peace.training.trackers import require_trackers

SAMPLE = 256  # items of the sample library that are read
MEASURED = 64  # pairs drawn, for their mean length and the longest
ROWS = 8  # of tables, to count with: beside so many OFA's mixture has its second batch once


def plan_run(recipe: PretrainRecipe, items: Iterable[Item], devices: int = 1) -> Cost:
    """The dry run of a recipe: reads a few of its pictures or sounds, and no weights.

    Raises:
        InputError: a source of pairs, or of held-out ones, that cannot be used.
        ValueError: the batch, or the sharding, cannot be divided among so many devices; held-out pairs are also
            trained on.
    """
    _check(recipe, devices)
    shards = ShardCache(pair_cache())
    open_held_out(recipe, shards)
    items, stage = list(items), recipe.stage
    config, processors = plan_model(recipe, items, shards)
    weighed = recipe.data.sources
    drawn = [item.id for item in items if item.kind == stage.partner and source_of(item, weighed) in weighed]
    few = set(drawn[:: max(1, len(drawn) // SAMPLE)])
    items = [item for item in items if item.kind != stage.partner or item.id in few]
    here = dataclasses.replace(recipe, workers=0)  # for a few pairs
    with open_batches(here, items, processors, shards) as source:
        # of many small batches: the pairs of one are alike in length
        pairs = [pair for step in range(MEASURED // PAIRS) for pair in source.batch(PAIRS, recipe.seed, step)]
    return _cost(recipe, config, processors, pairs, devices)


def plan_without_pairs(recipe: PretrainRecipe, devices: int = 1) -> Cost | None:
    """The dry run of a recipe whose pairs are not at hand: with the longest that there can be, the most that a step
    costs. None where the partner's longest input is not known. Errors as of `plan_run`."""
    _check(recipe, devices)
    stage, data = recipe.stage, recipe.data
    config, processors = plan_model(dataclasses.replace(recipe, files={}), (), ShardCache(pair_cache()))
    text, partner = processors[stage.anchor], processors[stage.partner].limited(seconds=data.clip_seconds).longest()
    if partner is None:
        return None
    assert isinstance(text, TextProcessor)
    if recipe.model in list_presets() and recipe.tokenizer is None:  # none can be trained, but its size is told
        sized = dataclasses.replace(config.modalities[stage.anchor], vocab_size=recipe.vocabulary)
        config = dataclasses.replace(config, modalities={**config.modalities, stage.anchor: sized})
    words = text.tokenizer.encode(" a" * data.caption_tokens)
    pair = text.of_tokens(words[-data.caption_tokens :]), partner
    return _cost(recipe, config, processors, [pair] * PAIRS, devices)


def plan_table_run(recipe: FinetuneRecipe, devices: int = 1) -> Cost:
    """The dry run of a recipe: reads its tables and a few of their rows.

    Raises:
        InputError: a table that cannot be used.
        CheckpointError: a model to start from that cannot be read, or has no vocabulary.
        ValueError: the batch, or the sharding, cannot be divided among so many devices.
    """
    require_trackers(recipe.trackers)
    _, at_once = Processes(0, devices).divide(recipe.batch_size, recipe.micro_batch)
    shards = shards_over(devices, recipe.engine.shard_over)
    rows = min(recipe.batch_size, ROWS)
    few = max(count for count in range(1, rows + 1) if rows % count == 0 and count <= at_once)
    engine = dataclasses.replace(recipe.engine, shard_over=None)
    small = dataclasses.replace(recipe, batch_size=rows, micro_batch=few, workers=0, drop_path=0.0, engine=engine)
    job, flops, kept = _counted(dataclasses.replace(small, engine=dataclasses.replace(engine, recompute=False)))
    activations = kept.most
    if engine.recompute:  # and one layer's, while it goes backward
        activations = _counted(small)[2].most + kept.largest_block
    memory = memory_of_weights(job.model, ForwardPass.blocks, engine, shards)
    memory["activations"] = activations * at_once // few
    by_name = part_of if isinstance(job.model, OfaModel) else _child_of
    tokens = {name: count * recipe.batch_size // rows for name, count in job.tokens(_step(small, job)).items()}
    return Cost(count_parameters(job.model, by_name), tokens, flops * recipe.batch_size // rows, memory, devices)


def _check(recipe: PretrainRecipe, devices: int) -> None:
    require_trackers(recipe.trackers)
    if recipe.batch_size % devices:
        raise ValueError(f"batch_size={recipe.batch_size} is no multiple of the {devices} devices")
    shards_over(devices, recipe.engine.shard_over)


def _cost(
    recipe: PretrainRecipe,
    config: OnePeaceConfig,
    processors: Mapping[str, Processor],
    pairs: Sequence[tuple[Example, Example]],
    devices: int,
) -> Cost:
    step = PretrainingStep(config, recipe.stage, processors, recipe.denoise_every > 0, recipe.engine)
    return step.cost(pairs, recipe.batch_size, recipe.micro_batch, devices)


def _counted(recipe: FinetuneRecipe) -> tuple[FinetuneJob, int, KeptMemory]:
    """The job, and the flops and kept memory of one of its updates."""
    job = open_job(recipe, "cpu", Processes())
    layers = [module for module in job.model.modules() if isinstance(module, Block | Layer)]
    with FlopCount() as counter, KeptMemory(job.model, layers) as kept:
        job.gradients(_step(recipe, job))
    return job, counter.total, kept


def _step(recipe: FinetuneRecipe, job: FinetuneJob) -> int:
    """The last update: a fresh coder has its codes by then."""
    return recipe.updates(len(job.examples)) - 1


def _child_of(name: str) -> str:
    return name.partition(".")[0]
