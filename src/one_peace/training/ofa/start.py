"""The OFA model that a run starts from: a saved one, or a fresh one with the words of its training table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from one_peace.checkpoints.registry import resolve
from one_peace.errors import CheckpointError, InputError
from one_peace.media.pictures import IMAGENET
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models.ofa import prompts
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.loading import open_saved, open_vocabulary, start_from, with_image_size
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.presets import NANO, list_presets, nano, preset
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.tasks.ofa import entailment
from one_peace.tasks.ofa.kinds import PROMPTS, SequenceSettings
from one_peace.tasks.ofa.sentences import QUESTIONS
from one_peace.training.finetuning.recipe import FinetuneRecipe
from one_peace.training.ofa.mixture import PRETRAINING
from one_peace.training.ofa.recipe import SequenceRecipe

SENTENCE_COLUMNS = sorted({column for question in QUESTIONS.values() for column in question.columns})
TEXT_COLUMNS = tuple(
    dict.fromkeys(("caption", "question", "text", "answer", "source", "target", "hypothesis", *SENTENCE_COLUMNS))
)
WORDS = 3000  # of a fresh small model, where a recipe for pretraining says nothing
ASKED = (  # so that what the model is asked is made of whole words
    *(prompt.replace(" {}", "") for prompt in prompts.PRETRAINED),
    *(f" {answer}" for answer in entailment.ANSWERS.values()),
)


def start_sequence_model(
    recipe: FinetuneRecipe, chosen: SequenceRecipe, settings: SequenceSettings, cache: Path
) -> tuple[OfaModel, OfaVocabulary]:
    """A model on the CPU with first values, and its vocabulary; seeded by the recipe.

    A saved model's tensors go where they fit, by the published rules; what it lacks is fresh. An `ofa-nano` that
    `starts_at_random` learns its words from the texts of the training table, the other presets take a published
    vocabulary.

    Raises:
        CheckpointError: tensors that do not fit, or no vocabulary.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        if recipe.model == NANO and starts_at_random(recipe):
            tokenizer = _learned_words(recipe, settings, WORDS if chosen.words is None else chosen.words, cache)
            config = _changed(nano(tokenizer.vocab_size), recipe, chosen, settings)
            return OfaModel(config), OfaVocabulary(tokenizer, config)
        saved = None if recipe.model in list_presets() else open_saved(path := resolve(recipe.model))
        own = preset(recipe.model) if saved is None else saved.config
        config = _changed(own, recipe, chosen, settings)
        found = open_vocabulary(Path(recipe.model) if saved is None else path, config)
        if found is None:
            raise CheckpointError(f"{recipe.model}: no vocabulary beside it; say where one is in $ONE_PEACE_VOCAB")
        model = OfaModel(config)
        if saved is not None:
            start_from(model, saved, torch.Generator().manual_seed(recipe.seed))
    return model, found


def starts_at_random(recipe: FinetuneRecipe) -> bool:
    """Whether the model is but a shape: a published one by its preset's name, or the small one in pretraining and where
    a number of `words` is to be learnt. Otherwise `ofa-nano` is the shipped weights."""
    if recipe.model != NANO:
        return recipe.model in list_presets()
    return recipe.kind == PRETRAINING or (recipe.sequence is not None and recipe.sequence.words is not None)


def _changed(
    config: OfaConfig, recipe: FinetuneRecipe, chosen: SequenceRecipe, settings: SequenceSettings
) -> OfaConfig:
    """The shape that a run trains."""
    changes: dict[str, Any] = {
        "dropout": chosen.dropout,
        "drop_path": recipe.drop_path,
        "prompt": PROMPTS[settings.prompt],
    }
    if chosen.code_grid is not None:
        changes["code_grid"] = chosen.code_grid
    if settings.kind == "labelling" and chosen.imagenet_statistics:
        changes |= {"image_mean": IMAGENET[0], "image_std": IMAGENET[1]}
    return with_image_size(dataclasses.replace(config, **changes), recipe.image_size)


def _learned_words(recipe: FinetuneRecipe, settings: SequenceSettings, most: int, cache: Path) -> Tokenizer:
    """Of the texts in the training table, at most so many words."""
    rows = recipe.tables.open_training((), cache, media=())
    texts: set[str] = set()
    for index in range(len(rows)):
        try:
            row: Mapping[str, Any] = rows.row(index)[1]
        except InputError:
            continue
        texts |= {str(row[name]) for name in TEXT_COLUMNS if row.get(name)}
    if not texts:
        raise InputError(str(rows.path), f"has no words to learn; looked for in {', '.join(TEXT_COLUMNS)}")
    asked = ASKED
    if settings.kind == "sentences":
        asked += (
            QUESTIONS[settings.question].prompt.replace(" {}", ""),
            *QUESTIONS[settings.question].answers.values(),
        )
    return Tokenizer(train_tokenizer([*(text.strip() for text in asked * 100), *sorted(texts)], most))
