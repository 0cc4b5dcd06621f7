"""The model that a run starts with: a fresh preset, or saved weights, with whatever the stage adds to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from one_peace.checkpoints.names import bare_name, modality_of
from one_peace.checkpoints.native import is_native, open_folder, write_folder
from one_peace.checkpoints.registry import resolve
from one_peace.data.manifest import Item
from one_peace.data.opening import sample_texts
from one_peace.data.packages import default_cache
from one_peace.errors import CheckpointError
from one_peace.modalities import get_modality
from one_peace.modalities.base import Processor
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.modalities.tokenization import Tokenizer, train_tokenizer
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.presets import decoder_shape, list_models, preset
from one_peace.models.one_peace.pretraining import OnePeaceForPretraining
from one_peace.nn.block import Block
from one_peace.training.distributed import whole_tensor
from one_peace.training.recipe import PretrainRecipe

Processors = Mapping[str, Processor]


def start_model(recipe: PretrainRecipe, items: Iterable[Item]) -> tuple[OnePeaceForPretraining, Processors]:
    """What `recipe.model` names: a preset with a tokenizer trained on the captions, or a saved model.

    A saved model (a folder in our format, a built-in name) without the stage's partner modality gets one, and
    without a decoder a fresh one.
    """
    torch.manual_seed(recipe.seed)
    if recipe.model in list_models():
        config, processors = plan_model(recipe, items)
        return OnePeaceForPretraining(config), processors
    model, processors = load_for_training(_saved_path(recipe), recipe)
    if recipe.expert_from is not None:
        _copy_experts(model, recipe.expert_from, recipe.stage.partner)
    return model, processors


def plan_model(recipe: PretrainRecipe, items: Iterable[Item]) -> tuple[OnePeaceConfig, Processors]:
    """The shape of what `start_model` makes, and its processors, without any weights."""
    if recipe.model in list_models():
        return _fresh(recipe, items)
    path = _saved_path(recipe)
    return _extended(OnePeaceConfig.from_dict(open_folder(path).config), recipe, path)


def partner_is_new(recipe: PretrainRecipe) -> bool:
    """Whether the stage's partner is added to the model by this recipe, and not trained before."""
    if recipe.model in list_models():
        return True
    return recipe.stage.partner not in OnePeaceConfig.from_dict(open_folder(_saved_path(recipe)).config).modalities


def save_for_training(model: OnePeaceForPretraining, processors: Processors, folder: Path, write: bool = True) -> None:
    """Writes a model with its decoder in our format; `from_pretrained` reads the encoder of it.

    Of a sharded model every process has to call it, one with `write`.
    """

    def files(target: Path) -> None:
        for processor in processors.values():
            processor.save(target)

    tensors = {}
    for name, parameter in model.named_parameters():
        whole = whole_tensor(parameter)
        if write:  # the other processes let go of each tensor at once
            tensors[name] = [whole]
    if write:
        write_folder(folder, model.config.to_dict(), tensors, write_files=files)


def load_for_training(path: Path, recipe: PretrainRecipe) -> tuple[OnePeaceForPretraining, Processors]:
    """A saved model with a decoder and the modalities of the recipe's stage, what it lacked of them fresh.

    Raises:
        CheckpointError: names every tensor that does not fit.
    """
    folder = open_folder(path)
    saved = OnePeaceConfig.from_dict(folder.config)
    config, processors = _extended(saved, recipe, path)
    model = OnePeaceForPretraining(config)
    tensors = {n if n.startswith(("encoder.", "decoder.")) else f"encoder.{n}": n for n in folder.tensors}
    parameters = dict(model.named_parameters())
    problems = [f"{name}: unexpected" for name in tensors if name not in parameters]
    for name, parameter in parameters.items():
        if name in tensors:
            (value,) = folder.tensors[tensors[name]]  # our own format keeps every tensor whole
            if value.shape == parameter.shape:
                parameter.data.copy_(value)
            else:
                problems.append(f"{name}: shape {tuple(value.shape)}, expected {tuple(parameter.shape)}")
        elif not _starts_fresh(name, saved):
            problems.append(f"{name}: missing")
    if problems:
        raise CheckpointError(f"{path}: {len(problems)} tensors do not fit:\n  " + "\n  ".join(problems))
    return model, processors


def _saved_path(recipe: PretrainRecipe) -> Path:
    path = resolve(recipe.model)
    if not is_native(path):
        raise ValueError(f"model {recipe.model!r} is neither a preset ({', '.join(list_models())}) nor a saved model")
    return path


def _extended(saved: OnePeaceConfig, recipe: PretrainRecipe, path: Path) -> tuple[OnePeaceConfig, Processors]:
    """A saved model's shape with the partner of the recipe's stage and a decoder."""
    partner = recipe.stage.partner
    modalities = dict(saved.modalities)
    modalities.setdefault(partner, get_modality(partner).preset(saved.width))
    decoder = saved.decoder or decoder_shape(saved.width)
    config = dataclasses.replace(saved, modalities=modalities, decoder=decoder, drop_path=recipe.drop_path)
    return config, {name: get_modality(name).processor(settings, path) for name, settings in modalities.items()}


def _fresh(recipe: PretrainRecipe, items: Iterable[Item]) -> tuple[OnePeaceConfig, Processors]:
    if recipe.files:
        captions = sorted(set(sample_texts(recipe.files, recipe.stage.partner, default_cache() / "pairs")))
    else:
        languages = recipe.data.languages
        training = [i.texts for i in items if i.split == "train"]
        captions = sorted({text for texts in training for language in languages for text in texts.get(language, ())})
    tokenizer = Tokenizer(train_tokenizer([" " + caption.lower() for caption in captions], recipe.vocabulary))
    config = preset(recipe.model, (recipe.stage.anchor, recipe.stage.partner), decoder=True)
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


def _starts_fresh(name: str, saved: OnePeaceConfig) -> bool:
    modality = modality_of(bare_name(name).removeprefix("decoder."))
    new_modality = modality is not None and modality not in saved.modalities
    return new_modality or (saved.decoder is None and name.startswith("decoder."))


def _copy_experts(model: OnePeaceForPretraining, source: str, target: str) -> None:
    """Starts one modality's feed-forward experts, cls, final norm and projection from another's."""
    encoder = model.encoder
    for block in encoder.fusion.blocks:
        assert isinstance(block, Block)
        block.ffn[target].load_state_dict(block.ffn[source].state_dict())
    for parts in (encoder.fusion.norms, encoder.projections):
        parts[target].load_state_dict(parts[source].state_dict())
    encoder.adapter(target).cls.data.copy_(encoder.adapter(source).cls.data)
