"""One pretraining run: recipe in, run folder out.

A run folder holds `recipe.yaml`, `log.jsonl`, `state/` (to go on from) and `model/`: the model in our own format,
decoder included, which the next stage starts from. It is written before the first step and after the last one. Until
then `lessons/` has what a new partner learns ahead of the steps.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from one_peace.cache import pair_cache
from one_peace.data.decoding import PairDecoder
from one_peace.data.manifest import Item, captioned_items, held_out_captions
from one_peace.data.opening import open_pairs
from one_peace.data.pairs import PairSampler
from one_peace.data.prefetch import PrefetchedPairs
from one_peace.data.shard_cache import ShardCache
from one_peace.modalities.base import Processor
from one_peace.modalities.text import TextProcessor
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.training.distributed import Processes
from one_peace.training.initial_values import empty_model, fill
from one_peace.training.kept_recipe import LESSONS, goes_on, keep_recipe
from one_peace.training.log import Report
from one_peace.training.loop import Tally
from one_peace.training.pretraining.evaluation import open_evaluator
from one_peace.training.pretraining.front_end import kept_front_end
from one_peace.training.pretraining.lessons import learn_ahead
from one_peace.training.pretraining.pretrain import Watch, pretrain
from one_peace.training.pretraining.recipe import PretrainRecipe, recipe_values
from one_peace.training.pretraining.start import (
    partner_is_new,
    plan_model,
    saved_plan,
    saved_values,
    start_values,
)
from one_peace.training.pretraining.utilisation import Utilisation
from one_peace.training.saving import save_for_training
from one_peace.training.trackers import require_trackers


def run_pretraining(
    recipe: PretrainRecipe,
    items: list[Item],
    out: Path,
    device: str,
    report: Report,
    processes: Processes | None = None,
    tick: Callable[[int], None] | None = None,
    library: Path | None = None,
) -> OnePeaceForPretraining:
    """Trains and leaves the run folder `out`; run again after an interruption, it continues.

    `library` is the root of the sample library's cache, for what else the stage downloads; None for the default.

    Every one of several `processes` calls it, with a folder that all of them see; the first one writes and reports,
    and tells `tick` how many updates are done.
    After a SIGTERM `out/model` is as it was at the start, and `out/state` what the run goes on from.

    Raises:
        CheckpointError: `out` holds a run of another recipe, or a state without its model.
        InputError: pairs to learn from, or held-out ones, that cannot be used.
        ValueError: settings that do not fit together.

    What the model to start from raises is said by `plan_model` and `start_values`, what training raises by `pretrain`.
    """
    processes = processes or Processes()
    require_trackers(recipe.trackers)
    keep_recipe(out, recipe_values(recipe), processes)
    shards = ShardCache(pair_cache())
    folder = out / "model"
    resumed = goes_on(out, processes)
    plan = None
    if processes.first:  # one process trains the tokenizer; the others are told
        plan = saved_plan(folder, recipe) if resumed else plan_model(recipe, items, shards)
    shared = processes.share(plan)
    assert shared is not None
    config, processors = shared
    values = saved_values(folder, config, recipe.seed) if resumed else start_values(recipe, config)
    with open_batches(recipe, items, processors, shards) as source:
        if processes.first:
            report(source.summary())
        watch = Watch(
            tick if processes.first else None,
            open_evaluator(recipe, items, processors, device, processes, shards),
            Utilisation(recipe, config, processors, device, processes),
        )
        fitted: dict[str, Tensor] = {}
        if not resumed and partner_is_new(recipe):
            fitted = learn_ahead(
                recipe, items, config, processors, source.batch, device, report, processes, out, library
            )
        if recipe.data.takes:
            assert isinstance(source, PairSampler)
            known = saved_values(folder, config, recipe.seed) if resumed else start_values(recipe, config)
            source.keep_takes(kept_front_end(config, itertools.chain(known, fitted.items())), recipe.seed)

        def begin(model: OnePeaceForPretraining) -> None:
            fill(model, itertools.chain(values, fitted.items()))
            if not resumed:
                save_for_training(model, processors, folder, processes)
            if processes.first:
                shutil.rmtree(out / LESSONS, ignore_errors=True)  # the saved model has what was learned

        def go_on(totals: Mapping[str, float]) -> None:
            if processes.first:  # the others begin at nothing, so that all together have counted these once
                source.go_on(totals)

        model = empty_model(config)
        tally = Tally(partial(source.totals, processes.collect), go_on)
        done = pretrain(
            model,
            recipe,
            processors,
            source.batch,
            out,
            device,
            report,
            processes,
            fill=begin,
            watch=watch,
            tally=tally,
        )
        summary = source.summary(processes.collect)
        if processes.first:
            report(summary)
    if done >= recipe.steps:
        save_for_training(model, processors, folder, processes)
    return model


@contextmanager
def open_batches(
    recipe: PretrainRecipe, items: list[Item], processors: Mapping[str, Processor], shards: ShardCache
) -> Iterator[PairSampler | PrefetchedPairs]:
    """Where the recipe's pairs come from: its files, or the sample library."""
    stage, data = recipe.stage, recipe.data
    text = processors[stage.anchor]
    partner = processors[stage.partner].limited(seconds=data.clip_seconds, crop=data.crop)
    assert isinstance(text, TextProcessor)
    if not recipe.files:
        chosen = captioned_items(items, stage.partner)
        withheld = held_out_captions(items)
        yield PairSampler(chosen, text, data, stage.partner, partner, withheld, recipe.micro_batch)
        return
    decoder = PairDecoder(text, stage.partner, partner, data.augmentation, data.caption_tokens)
    opened = open_pairs(
        recipe.files, decoder, recipe.seed, shards, workers=recipe.workers, micro_batch=recipe.micro_batch
    )
    with opened as pairs:
        yield pairs
