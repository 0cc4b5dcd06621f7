"""Training of OFA models through the shared loop: tasks from tables, the model's own captions, pretraining."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from one_peace.cache import table_cache
from one_peace.checkpoints.tensor_file import DeferredTensor
from one_peace.errors import InputError
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.trunk import STRIDE
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.caption_metrics.cider import DocumentFrequency
from one_peace.tasks.ofa.example import SequenceExample
from one_peace.tasks.ofa.kinds import SequenceSettings, read_sequence_settings
from one_peace.tasks.ofa.predictor import SequencePredictor
from one_peace.tasks.ofa.task import SequenceTask, check_taught
from one_peace.tasks.task import Row, check_usable
from one_peace.training.distributed import Processes, whole_tensor
from one_peace.training.ema import WeightAverage, measured
from one_peace.training.finetuning.examples import DrawingReader, Examples
from one_peace.training.finetuning.job import Drawn, FinetuneJob
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.forward_pass import prepare_model
from one_peace.training.loop import Judge
from one_peace.training.ofa.forward_pass import OfaPass, norms_of
from one_peace.training.ofa.mixture import PRETRAINING, SECOND, mixed_examples
from one_peace.training.ofa.recipe import SequenceRecipe
from one_peace.training.ofa.self_critical import CaptionPart, count_documents
from one_peace.training.ofa.start import start_sequence_model, starts_at_random
from one_peace.training.ofa.update import Groups, Part, Prepare, SequenceUpdate, TargetPart
from one_peace.training.saving import write_sharded


class SequenceReader(DrawingReader[SequenceExample]):
    """Rows of a task's table as examples to learn from."""

    def __init__(self, task: SequenceTask, longest: int, references: bool = False) -> None:
        """`longest`: tokens that the model can read. `references`: captions to be compared with take no place."""
        self.task, self.longest, self.references = task, longest, references

    def draw(self, row: Row, key: str, generator: torch.Generator) -> SequenceExample:
        made = self.task.draw(row, key, generator)
        if self.references:  # all of them in a row may be longer than what the model reads
            made = dataclasses.replace(made, previous=made.previous[:2], target=made.target[:2])
        check_taught(made, self.longest)
        return made


def open_sequence(recipe: FinetuneRecipe, device: str, processes: Processes) -> FinetuneJob:
    """A task that is written out by a sequence-to-sequence model.

    Raises:
        InputError: a table, or a file of answers, that cannot be used.
        CheckpointError: a model that is not of this family, or has no vocabulary.
        ValueError: settings that do not fit the task.
    """
    chosen = recipe.sequence or SequenceRecipe()
    values = {**recipe.task, **({"noise": chosen.noise} if chosen.noise else {})}
    mixture: dict[str, Any] = {name: values.pop(name) for name in ("mixed", "negatives") if name in values}
    settings = read_sequence_settings({**values, "columns": recipe.tables.columns}, Path(recipe.tables.root))
    _check(recipe, chosen, settings, mixture)
    cache = table_cache()
    model, vocabulary = start_sequence_model(recipe, chosen, settings, cache)
    task = settings.build(vocabulary, model.config)
    if task.first_token:
        _check_first_tokens(vocabulary, task.choices)
    model.train()
    if chosen.freeze_tokens:
        model.tokens.requires_grad_(False)
    if chosen.freeze_norms:
        for norm in norms_of(model):
            norm.requires_grad_(False)
    logits = prepare_model(OfaPass(model, chosen.freeze_norms), recipe.engine, processes, device)
    logits.train()
    place = torch.device(device)
    rows = recipe.tables.open_training(task.columns, cache)
    train: Drawn
    if settings.kind == PRETRAINING:
        train = mixed = mixed_examples(recipe, rows, vocabulary, model.config, mixture, cache)
        draw = partial(mixed.groups, recipe.batch_size, processes)
    else:
        reader = SequenceReader(task, model.config.longest_text, chosen.self_critical)
        train = single = Examples(rows, reader, recipe.seed, recipe.tables.augmentation, recipe.workers)
        draw = partial(_one_group, single, recipe.batch_size, processes)
    if chosen.self_critical:
        prepare = _captions(logits, vocabulary, chosen, count_documents(rows), place)
    else:
        codes = (vocabulary.first_code, vocabulary.first_bin) if task.codes else None
        prepare = _targets(logits, chosen, codes, place)

    def save(folder: Path) -> None:
        save_sequence_model(model, vocabulary, settings, folder, processes)

    judge, passed_over = None, list[InputError]()
    if recipe.tables.validation is not None:
        judge = _judge(recipe, settings, vocabulary, logits, save, len(train), cache, passed_over)
    update = SequenceUpdate(draw, prepare, recipe, processes, place)
    learnt = {"answers": list(settings.answers)} if settings.answers else {}
    tokens = partial(count_tokens, draw, chosen.patches)
    random = starts_at_random(recipe)
    return FinetuneJob(model, train, update.gradients, save, judge, (), passed_over, learnt, random, tokens)


def _check(recipe: FinetuneRecipe, chosen: SequenceRecipe, settings: SequenceSettings, mixture: object) -> None:
    if chosen.self_critical and not (settings.kind == "captioning" and settings.references):
        raise ValueError("sequence.self_critical is for captioning with task.references: true")
    if chosen.noise and settings.kind != "summarization":
        raise ValueError(f"sequence.noise is for summarization, not for {settings.kind}")
    if mixture and settings.kind != PRETRAINING:
        raise ValueError(f"task: mixed and negatives are for {PRETRAINING}, not for {settings.kind}")
    if recipe.engine.compile:
        raise ValueError("engine.compile is for ONE-PEACE's blocks; OFA's are not compiled")


def _check_first_tokens(vocabulary: OfaVocabulary, answers: Sequence[str]) -> None:
    """Where one token of an answer is trained it has to tell the answers apart."""
    if len({vocabulary.encode(f" {answer}")[0] for answer in answers}) < len(answers):
        raise ValueError(f"this vocabulary is too small: {', '.join(sorted(answers))} begin with the same token")


def _one_group(train: Examples[SequenceExample], size: int, processes: Processes, step: int) -> Groups:
    return {"": train.batch(size, step, processes.rank, processes.count)}


def count_tokens(draw: Callable[[int], Groups], patches: int | None, step: int) -> dict[str, int]:
    """Tokens of the source, cells of pictures and tokens of the target in update `step` (from 0), padding not."""
    counts = {"source": 0, "picture": 0, "target": 0}
    for name, examples in draw(step).items():
        for example in examples:
            counts["source"] += len(example.source)
            counts["target"] += len(example.previous)
            if example.pixels is not None:
                cells = math.prod(-(-side // STRIDE) for side in example.pixels.shape[1:])
                counts["picture"] += min(cells, _patches_of(name, patches) or cells)
    return counts


def _patches_of(group: str, patches: int | None) -> int | None:
    """Cells of a picture that are read, None for all: those of the second batch are small, and read whole."""
    return None if group == SECOND else patches


def _captions(
    logits: OfaPass,
    vocabulary: OfaVocabulary,
    recipe: SequenceRecipe,
    frequency: DocumentFrequency,
    device: torch.device,
) -> Prepare:
    def prepare(examples: list[SequenceExample], name: str, step: int) -> Part:
        return CaptionPart(logits, vocabulary, examples, recipe, frequency, device)

    return prepare


def _targets(logits: OfaPass, recipe: SequenceRecipe, codes: tuple[int, int] | None, device: torch.device) -> Prepare:
    def prepare(examples: list[SequenceExample], name: str, step: int) -> Part:
        patches = _patches_of(name, recipe.patches)
        return TargetPart(logits, examples, recipe, step + 1, device, patches=patches, token_range=codes)

    return prepare


def save_sequence_model(
    model: OfaModel, vocabulary: OfaVocabulary, settings: SequenceSettings, folder: Path, processes: Processes
) -> None:
    """Writes a model that `from_pretrained` reads and `one-peace predict` takes. Every process calls it."""
    config = dataclasses.replace(model.config, dropout=0.0, drop_path=0.0)
    tensors = {
        name: DeferredTensor(tuple(tensor.shape), tensor.dtype, partial(whole_tensor, tensor))
        for name, tensor in model.state_dict().items()
    }

    def files(target: Path) -> None:
        vocabulary.tokenizer.save(target / "tokenizer.json")
        settings.save(target)

    write_sharded(folder, config.to_dict(), tensors, files, processes)


def _judge(
    recipe: FinetuneRecipe,
    settings: SequenceSettings,
    vocabulary: OfaVocabulary,
    logits: OfaPass,
    save: Callable[[Path], None],
    examples: int,
    cache: Path,
    passed_over: list[InputError],
) -> Judge:
    """Figures of what the model writes for the validation table, after every epoch or every so many updates."""
    assert recipe.tables.validation is not None
    chosen = dataclasses.replace(settings, references=True) if settings.kind == "captioning" else settings
    task = chosen.build(vocabulary, logits.model.config)
    rows = recipe.tables.open(recipe.tables.validation, task.columns, cache)
    rows.check_ids()
    check_usable(rows, str(rows.path), task.measured)

    def figures(average: WeightAverage | None) -> dict[str, float]:
        size = recipe.micro_batch or recipe.batch_size
        predictor = SequencePredictor(logits.model, vocabulary, chosen, size, run=logits.within)
        with measured(logits, average):
            answered = predictor.figures(rows, on_error="skip")
        found = {**answered.watched(), "examples": float(len(answered.values))}
        passed_over[:] = predictor.skipped
        found["unusable"] = float(len(passed_over))
        return found

    return Judge(partial(recipe.evaluates, examples=examples), figures, task.figures().main, save, recipe.patience)
