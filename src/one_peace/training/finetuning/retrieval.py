"""Fine-tuning for retrieval: the contrast of pretraining, over the global batch, without the denoising objective."""

from __future__ import annotations

from functools import partial

import torch

from one_peace.cache import table_cache
from one_peace.checkpoints.assign import assign_tensors
from one_peace.configuration import build_dataclass
from one_peace.errors import InputError
from one_peace.modalities.base import Example, Processor
from one_peace.models.one_peace.loading import from_pretrained
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.tasks.pretraining import PretrainingStage, freeze_for_stage
from one_peace.tasks.retrieval_pairs import CaptionedRows, RetrievalSettings, read_captions, read_retrieval_set
from one_peace.training.distributed import Processes
from one_peace.training.finetuning.examples import Examples
from one_peace.training.finetuning.job import FinetuneJob, changed_shape
from one_peace.training.finetuning.lora import add_lora
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.forward_pass import prepare_model
from one_peace.training.loop import Judge
from one_peace.training.pretraining.evaluation import Evaluator
from one_peace.training.pretraining.forward_pass import PretrainingPass
from one_peace.training.pretraining.gradients import COUNTS, Update
from one_peace.training.pretraining.recipe import EvaluationSchedule, PretrainRecipe
from one_peace.training.saving import save_for_training


def open_retrieval(recipe: FinetuneRecipe, device: str, processes: Processes) -> FinetuneJob:
    """The encoder of text and one other modality, trained so that matching pairs have similar embeddings.

    The best model is the one whose first text is right for most of the validation's pictures or sounds, as published.

    Raises:
        InputError: a table, or a file of captions, that cannot be used.
        ValueError: settings that retrieval does not have.
    """
    settings = build_dataclass(RetrievalSettings, {**recipe.task, "columns": recipe.tables.columns}, "task")
    if recipe.freeze:
        raise ValueError("freeze trains a head on fixed features; retrieval has no head")
    cache = table_cache()
    model, processors = start_retrieval(recipe, settings.modality)
    reader = CaptionedRows(processors, settings.modality)
    train = Examples(
        recipe.tables.open_training(reader.columns, cache),
        reader,
        recipe.seed,
        recipe.tables.augmentation,
        recipe.workers,
    )
    contrast = _contrast_recipe(recipe, settings, len(train))
    freeze_for_stage(model, contrast.stage)
    if recipe.lora is not None:
        add_lora(model, recipe.lora, recipe.seed)
    losses = prepare_model(PretrainingPass(model.train(), contrast.stage), recipe.engine, processes, device)

    def pairs(size: int, seed: int, step: int, rank: int = 0, world: int = 1) -> list[tuple[Example, Example]]:
        drawn = train.batch(size, step, rank, world)
        return [(example.inputs["text"][0], example.inputs[settings.modality][0]) for example in drawn]

    save = partial(save_for_training, model, processors, processes=processes, also=settings.save)
    judge, passed_over = None, list[InputError]()
    if recipe.tables.validation is not None:
        rows = recipe.tables.open(recipe.tables.validation, reader.columns, cache)
        captions = None if recipe.tables.texts is None else read_captions(recipe.tables.path(recipe.tables.texts))
        asked = read_retrieval_set(rows, settings.modality, captions, on_error="skip")
        held_out, passed_over = asked.decode(reader)
        evaluator = Evaluator(contrast, processors, held_out, None, device, processes)
        judge = Judge(evaluator.due, partial(evaluator, losses), evaluator.best_by, save, recipe.patience)
    update = Update(losses, contrast, processors, pairs, processes, device)
    return FinetuneJob(model, train, update.gradients, save, judge, COUNTS, passed_over)


def start_retrieval(recipe: FinetuneRecipe, modality: str) -> tuple[OnePeaceForPretraining, dict[str, Processor]]:
    """The model that a run starts from: text and `modality` of the recipe's model, no decoder."""
    source = from_pretrained(recipe.model, image_size=recipe.image_size, modalities=("text", modality))
    with torch.device("meta"):
        model = OnePeaceForPretraining(changed_shape(source.config, recipe))
    tensors = {f"encoder.{name}": [parameter.detach()] for name, parameter in source.encoder.named_parameters()}
    assign_tensors(model, tensors)
    return model, {name: processor.limited(seconds=recipe.seconds) for name, processor in source.processors.items()}


def _contrast_recipe(recipe: FinetuneRecipe, settings: RetrievalSettings, examples: int) -> PretrainRecipe:
    """The run as a recipe of pretraining: the contrast and nothing else."""
    updates, partner = recipe.updates(examples), settings.modality
    every = 0 if recipe.tables.validation is None else recipe.evaluation_interval(examples)
    return PretrainRecipe(
        model=recipe.model,
        stage=PretrainingStage(partner, True, partner_mask=0.0, joint_anchor_mask=0.0, joint_partner_mask=0.0),
        steps=updates,
        batch_size=recipe.batch_size,
        micro_batch=recipe.micro_batch,
        optimizer=recipe.schedule(updates),
        engine=recipe.engine,
        contrast=settings.contrast,
        repeated_captions=settings.repeated_captions,
        drop_path=recipe.drop_path,
        denoise_every=0,
        evaluation=EvaluationSchedule(every, best_by=f"{partner}_to_text@1"),
        seed=recipe.seed,
    )
