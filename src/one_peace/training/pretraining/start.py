"""What a run starts with: a fresh preset, or saved weights, with whatever the stage adds to them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from one_peace.cache import pair_cache
from one_peace.checkpoints.registry import resolve
from one_peace.data.manifest import Item
from one_peace.data.opening import sample_texts
from one_peace.data.shard_cache import ShardCache
from one_peace.errors import CheckpointError
from one_peace.modalities import get_modality
from one_peace.modalities.base import Processor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.loading import SavedModel, open_processor
from one_peace.models.one_peace.presets import decoder_shape, list_presets, preset
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.models.vocabularies import PUBLISHED_VOCABULARY, NoVocabulary, find_tokenizer
from one_peace.training.initial_values import assign, empty_model, fill
from one_peace.training.kept_recipe import unfinished
from one_peace.training.pretraining.recipe import PretrainRecipe
from one_peace.training.saved_weights import TEMPERATURE, open_for_training, values_of

Processors = Mapping[str, Processor]
VOCABULARY_FILES = f"tokenizer.json, or {', '.join(PUBLISHED_VOCABULARY)}"


def plan_model(recipe: PretrainRecipe, items: Iterable[Item], shards: ShardCache) -> tuple[OnePeaceConfig, Processors]:
    """The shape of the model that `recipe.model` names, and its processors, without any weights.

    That is a preset with a tokenizer trained on the captions, or a saved model: a folder in our format, a built-in
    name, an official file. A saved model without the stage's partner gets one, and without a decoder a fresh one.

    Raises:
        FileNotFoundError: no such saved model.
        ValueError: no such name, the initial model of an unfinished run, or a `tokenizer` that is none.
        CheckpointError: a saved model that cannot be read, or has no vocabulary.
    """
    if recipe.model in list_presets():
        return _fresh(recipe, items, shards)
    saved = open_for_training(_saved_path(recipe))
    return _extended(saved, recipe)


def start_values(recipe: PretrainRecipe, config: OnePeaceConfig) -> Iterator[tuple[str, Tensor]]:
    """Names and values of what `plan_model` says, a few at a time.

    Raises:
        CheckpointError: names every tensor of a saved model that does not fit, before the first value comes.
        ValueError: `expert_from` names no modality of the model, or would overwrite a partner that it has already.
    """
    source, partner = recipe.expert_from, recipe.stage.partner
    saved = None if recipe.model in list_presets() else open_for_training(_saved_path(recipe))
    known = config.modalities if saved is None else saved.config.modalities
    if source is not None and source not in known:
        raise ValueError(f"expert_from={source!r}: the model has {', '.join(known)}")
    if source is not None and saved is not None and partner in known:
        raise ValueError(
            f"expert_from={source!r} would overwrite the trained {partner} side of {recipe.model}; leave expert_from "
            f"out to go on training it, or start from a model without {partner}"
        )
    copies = {} if source is None else _expert_copies(config, source, partner)
    renewed = (TEMPERATURE,) if recipe.reset_temperature else ()
    values = values_of(config, recipe.seed, saved, copies, renewed)
    if saved is None or source is None:
        return values
    return itertools.chain(values, _adapter_values(config, saved, source, partner))


def saved_values(path: Path, config: OnePeaceConfig, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Names and values of a saved model as it is, what it lacks of `config` fresh. Errors as of `start_values`."""
    return values_of(config, seed, open_for_training(path))


def start_model(recipe: PretrainRecipe, items: Iterable[Item]) -> tuple[OnePeaceForPretraining, Processors]:
    """The model that a run starts with, whole on the CPU."""
    config, processors = plan_model(recipe, items, ShardCache(pair_cache()))
    model = empty_model(config).to_empty(device="cpu")
    fill(model, start_values(recipe, config))
    return model, processors


def saved_plan(path: Path, recipe: PretrainRecipe) -> tuple[OnePeaceConfig, Processors]:
    """`plan_model` for a run folder's own model, which a run goes on with."""
    return _extended(open_for_training(path), recipe)


def partner_is_new(recipe: PretrainRecipe) -> bool:
    """Whether the stage's partner is added to the model by this recipe, and not trained before."""
    if recipe.model in list_presets():
        return True
    return recipe.stage.partner not in open_for_training(_saved_path(recipe)).config.modalities


def _expert_copies(config: OnePeaceConfig, source: str, target: str) -> dict[str, str]:
    """Which of one modality's parameters start as another's: experts, final norm, projection, cls."""
    parts = (".ffn.{}.", "encoder.fusion.norms.{}.", "encoder.projections.{}.", "encoder.adapters.{}.cls")
    copies = {}
    for name, _ in empty_model(config).named_parameters():
        for part in parts:
            if name.startswith("encoder.") and part.format(target) in name and not name.endswith(".cls_position"):
                copies[name] = name.replace(part.format(target), part.format(source))
    return copies


def _adapter_values(
    config: OnePeaceConfig, saved: SavedModel, source: str, target: str
) -> Iterator[tuple[str, Tensor]]:
    """What else one modality's adapter takes over from another's."""
    shape = config.width, config.heads, config.bias_tables
    trained = get_modality(source).adapter(config.modalities[source], *shape)
    for name, parameter in trained.named_parameters():
        assign(parameter, torch.cat(list(saved.tensors[f"encoder.adapters.{source}.{name}"])))
    with torch.device("meta"):
        fresh = get_modality(target).adapter(config.modalities[target], *shape)
    for name, value in fresh.start_from(trained).items():
        yield f"encoder.adapters.{target}.{name}", value


def _saved_path(recipe: PretrainRecipe) -> Path:
    try:
        path = resolve(recipe.model)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model: {error}; run the stage that makes it first, or set model=FOLDER") from None
    except ValueError as error:
        raise ValueError(f"{error}; presets are {', '.join(list_presets())}") from None
    if done := unfinished(path):
        raise ValueError(f"model: {path} is the initial model of an unfinished run ({done}); finish that run first")
    return path


def _extended(saved: SavedModel, recipe: PretrainRecipe) -> tuple[OnePeaceConfig, Processors]:
    """A saved model's shape with the partner of the recipe's stage and a decoder."""
    partner, was = recipe.stage.partner, saved.config
    modalities = dict(was.modalities)
    modalities.setdefault(partner, get_modality(partner).preset(was.width))
    decoder = was.decoder or decoder_shape(was.width)
    config = dataclasses.replace(was, modalities=modalities, decoder=decoder, drop_path=recipe.drop_path)
    place = recipe.tokenizer
    processors = {name: open_processor(name, settings, saved.path, place) for name, settings in modalities.items()}
    if any(isinstance(processor, NoVocabulary) for processor in processors.values()):
        raise CheckpointError(f"{saved.path}: no vocabulary beside it; give tokenizer=FOLDER ({VOCABULARY_FILES})")
    return config, processors


def _fresh(recipe: PretrainRecipe, items: Iterable[Item], shards: ShardCache) -> tuple[OnePeaceConfig, Processors]:
    config = preset(recipe.model, (recipe.stage.anchor, recipe.stage.partner), decoder=True)
    tokenizer = (
        _trained_tokenizer(recipe, items, shards) if recipe.tokenizer is None else find_tokenizer(recipe.tokenizer, 70)
    )
    if tokenizer is None:
        raise ValueError(f"tokenizer={recipe.tokenizer}: holds no vocabulary ({VOCABULARY_FILES})")
    modalities = {**config.modalities, "text": TextConfig(vocab_size=tokenizer.vocab_size)}
    name = f"one-peace-{recipe.model}"
    config = dataclasses.replace(config, name=name, drop_path=recipe.drop_path, modalities=modalities)
    processors: dict[str, Processor] = {
        name: TextProcessor(settings, tokenizer)
        if isinstance(settings, TextConfig)
        else get_modality(name).processor(settings, None)
        for name, settings in modalities.items()
    }
    return config, processors


def _trained_tokenizer(recipe: PretrainRecipe, items: Iterable[Item], shards: ShardCache) -> Tokenizer:
    """A tokenizer of the training captions."""
    if recipe.files:
        captions = sorted(set(sample_texts(recipe.files, recipe.stage.partner, shards)))
    else:
        languages = recipe.data.languages
        training = [i.texts for i in items if i.split == "train"]
        captions = sorted({text for texts in training for language in languages for text in texts.get(language, ())})
    return Tokenizer(train_tokenizer([" " + caption.lower() for caption in captions], recipe.vocabulary))
