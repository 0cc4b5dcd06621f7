"""One pretraining run: recipe in, run folder out.

A run folder holds `recipe.yaml`, `log.jsonl`, `state/` (to go on from) and `model/`: the model in our own format,
decoder included, which the next stage starts from. It is written before the first step and after the last one.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from one_peace.cache import cache_folder, pair_cache
from one_peace.checkpoints.native import is_native
from one_peace.data.decoding import PairDecoder
from one_peace.data.manifest import Item, normalise_caption
from one_peace.data.opening import open_pairs
from one_peace.data.pairs import PairSampler
from one_peace.data.prefetch import PrefetchedPairs, worker_death
from one_peace.data.sample_library.packages import fetch
from one_peace.data.speech.recorded_speech import read_recordings
from one_peace.data.speech.speech_synthesis import PACKAGE as SYNTHESIZER
from one_peace.data.speech.speech_synthesis import open_synthesizer
from one_peace.data.speech.spoken_captions import SpokenCaptions
from one_peace.modalities.base import Processor
from one_peace.modalities.text import TextProcessor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.training.distributed import Processes
from one_peace.training.initial_values import empty_model, fill
from one_peace.training.kept_recipe import keep_recipe
from one_peace.training.log import Report
from one_peace.training.pretraining.evaluation import open_evaluator
from one_peace.training.pretraining.front_end import fit_front_end, kept_front_end
from one_peace.training.pretraining.gradients import BatchSource
from one_peace.training.pretraining.pretrain import Watch, pretrain
from one_peace.training.pretraining.recipe import PretrainRecipe, recipe_values
from one_peace.training.pretraining.speech_lessons import SpeechLessons
from one_peace.training.pretraining.start import (
    partner_is_new,
    plan_model,
    saved_plan,
    saved_values,
    start_values,
)
from one_peace.training.saving import save_for_training
from one_peace.training.throughput import Utilisation
from one_peace.training.trackers import require_trackers


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
    report: Report,
    processes: Processes | None = None,
    tick: Callable[[int], None] | None = None,
    library: Path | None = None,
) -> OnePeaceForPretraining:
    """Trains and leaves the run folder `out`; run again after an interruption, it continues.

    `library` is the root of the sample library's cache, for what the stage fetches besides; None: the usual one.

    Every one of several `processes` calls it, with a folder that all of them see; the first one writes and reports,
    and tells `tick` how many updates are done.
    After a SIGTERM `out/model` is as it was at the start, and `out/state` what the run goes on from.

    Raises:
        CheckpointError: `out` holds a run of another recipe.
    """
    processes = processes or Processes()
    require_trackers(recipe.trackers)
    keep_recipe(out, recipe_values(recipe), processes)
    folder = out / "model"
    resumed = processes.any(is_native(folder))
    # One process trains the tokenizer; the others are told.
    plan = None if not processes.first else saved_plan(folder, recipe) if resumed else plan_model(recipe, items)
    shared = processes.share(plan)
    assert shared is not None
    config, processors = shared
    values = saved_values(folder, config, recipe.seed) if resumed else start_values(recipe, config)
    with open_batches(recipe, items, processors) as source:
        if processes.first:
            report(source.summary())
        watch = Watch(
            tick if processes.first else None,
            open_evaluator(recipe, items, processors, device, processes),
            Utilisation(recipe, config, processors, device, processes),
        )
        fitted: dict[str, Tensor] = {}
        if not resumed and partner_is_new(recipe):
            fitted = learn_to_hear(recipe, items, config, processors, source.batch, device, report, processes, library)
        if recipe.data.takes:
            assert isinstance(source, PairSampler)
            known = saved_values(folder, config, recipe.seed) if resumed else start_values(recipe, config)
            source.keep_takes(kept_front_end(config, itertools.chain(known, fitted.items())), recipe.seed)

        def begin(model: OnePeaceForPretraining) -> None:
            fill(model, itertools.chain(values, fitted.items()))
            if not resumed:
                save_for_training(model, processors, folder, processes)

        model = empty_model(config)
        done = pretrain(
            model, recipe, processors, source.batch, out, device, report, processes, fill=begin, watch=watch
        )
        if processes.first:
            report(source.summary())
    if done >= recipe.steps:
        save_for_training(model, processors, folder, processes)
    return model


def learn_to_hear(
    recipe: PretrainRecipe,
    items: Iterable[Item],
    config: OnePeaceConfig,
    processors: Mapping[str, Processor],
    batches: BatchSource,
    device: str,
    report: Report,
    processes: Processes,
    library: Path | None = None,
) -> dict[str, Tensor]:
    """What the recipe has a new partner learn ahead of its updates -> values by name. See `front_end_steps`,
    `speech_sound_steps`, `word_steps` and `caption_steps` of the stage.

    The first of several processes learns, and tells the others with each report that it is not done: they would give
    up waiting before long.
    """
    if not processes.first:
        while not processes.share(True):
            pass
        return processes.share({})

    def told(row: dict[str, Any]) -> None:
        report(row)
        processes.share(False)

    stage = recipe.stage
    fitted: dict[str, Tensor] = {}
    if stage.front_end_steps:
        fitted |= fit_front_end(config, processors, batches, stage.front_end_steps, recipe.seed, told)
    if stage.speech_sound_steps or stage.word_steps or stage.caption_steps:
        synthesizer = open_synthesizer(fetch(SYNTHESIZER, cache_folder() if library is None else library))
        texts = training_items(items, stage.partner)
        withheld = held_out_captions(items)
        spoken = SpokenCaptions(texts, synthesizer, withheld)
        recordings = read_recordings(texts, synthesizer, spoken.words, withheld)
        model = empty_model(config).to_empty(device=device)
        fill(model, itertools.chain(start_values(recipe, config), fitted.items()))
        heard = SpeechLessons(model, stage, processors, spoken, recordings, recipe.seed, told).give()
        fitted |= {name: value.cpu() for name, value in heard.items()}
    processes.share(True)
    return processes.share(fitted)


@contextmanager
def open_batches(
    recipe: PretrainRecipe, items: list[Item], processors: Mapping[str, Processor]
) -> Iterator[PairSampler | PrefetchedPairs]:
    """Where the recipe's pairs come from: its files, or the sample library."""
    stage, data = recipe.stage, recipe.data
    text = processors[stage.anchor]
    partner = processors[stage.partner].limited(seconds=data.clip_seconds, crop=data.crop)
    assert isinstance(text, TextProcessor)
    if not recipe.files:
        chosen = training_items(items, stage.partner)
        yield PairSampler(chosen, text, data, stage.partner, partner, held_out_captions(items))
        return
    decoder = PairDecoder(text, stage.partner, partner, data.augmentation, data.caption_tokens)
    cache = pair_cache()
    with open_pairs(recipe.files, decoder, recipe.seed, cache, workers=recipe.workers) as pairs:
        try:
            yield pairs
        except RuntimeError as error:
            if (death := worker_death(error)) is not None:
                raise death from error
            raise
