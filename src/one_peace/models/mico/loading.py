"""Weights into MiCo models and back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.checkpoints.assign import assign_tensors, build_on_meta, check_depth
from one_peace.checkpoints.mico.official import fit_tables, read_mico
from one_peace.checkpoints.native import is_native, open_folder
from one_peace.errors import CheckpointError
from one_peace.modalities import get_modality
from one_peace.modalities.base import Processor
from one_peace.modalities.frames import FrameProcessor
from one_peace.modalities.slices import SliceConfig, SliceProcessor
from one_peace.modalities.wordpiece import FILE, VOCABULARY, WordPieceProcessor, WordPieces
from one_peace.models.inputs import choose_modalities
from one_peace.models.mico.config import MiCoConfig
from one_peace.models.mico.interface import MiCo
from one_peace.models.mico.model import TEXT, MiCoModel
from one_peace.models.vocabularies import VOCABULARY_VARIABLE, NoVocabulary, reading_vocabulary
from one_peace.nn.device import parse_device
from one_peace.nn.dtype import parse_dtype


def from_pretrained(
    path: Path,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    *,
    modalities: Sequence[str] | None = None,
    image_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> MiCo:
    """A MiCo model ready to use, from a folder of ours or an official one (`log/hps.json`, `ckpt/model_step_N.pt`).

    `modalities` are those that get a processor (the weights are shared). `image_size` (pixels, a multiple of the patch)
    resizes the position table. Official checkpoints come without their vocabulary, that of bert-base-uncased:
    `tokenizer` is its vocab.txt, a tokenizer.json or a folder with one of them; by default it is looked for in the
    folder and in $ONE_PEACE_VOCAB. Without one, texts can be neither read nor written.
    """
    values, tensors = open_saved(path)
    if image_size is not None:
        values = with_image_size(values, image_size)
    try:
        model = build_mico(values, tensors, parse_device(device), parse_dtype(dtype))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    known = (TEXT, *model.config.modalities)
    chosen = known if modalities is None else choose_modalities(modalities, known, model.config.name)
    pieces = find_pieces(path, tokenizer)
    try:
        processors = open_processors(model.config, pieces)
    except ValueError as error:
        hint = "" if tokenizer else f"; give tokenizer=PATH, or change {VOCABULARY_VARIABLE} if it was found there"
        raise ValueError(f"{tokenizer or path}: {error}{hint}") from error
    return MiCo(model, {name: processors[name] for name in chosen})


def open_saved(path: Path) -> tuple[dict[str, Any], Mapping[str, list[Tensor]]]:
    """The plain config and the tensors, unread, of a folder of ours or an official checkpoint.

    Raises:
        CheckpointError: it is neither, damaged, or of a configuration that this version does not have.
    """
    if is_native(path):
        folder = open_folder(path)
        values, tensors = folder.config, folder.tensors
    else:
        checkpoint = read_mico(path)
        values = checkpoint.config
        tensors = {**checkpoint.tensors, **{name: [checkpoint.official[name]] for name in checkpoint.unknown}}
    try:
        MiCoConfig.from_dict(values)
        check_depth(values, tensors)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise CheckpointError(f"{path}: its configuration does not fit this version: {error}") from error
    return values, tensors


def build_mico(
    config: Mapping[str, Any],
    tensors: Mapping[str, list[Tensor]],
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> MiCoModel:
    """A model of a plain config with these tensors, whose tables are resized where the config wants other sizes.

    Raises:
        CheckpointError: tensors that do not fit the model, all of them named.
        ValueError: a configuration that this version does not have.
    """
    model = build_on_meta(MiCoModel, MiCoConfig.from_dict(config))
    assign_tensors(model, fit_tables(tensors, config), device, dtype)
    return model


def with_image_size(config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A plain config for frames of `size` pixels; sounds of the tower become slices of that size."""
    tower = {**config["tower"], "image_size": size}
    modalities = {}
    for name, settings in config["modalities"].items():
        modalities[name] = {**settings, "size": size} if settings.get("size") is not None else dict(settings)
        if "bins" in settings and settings.get("size") is not None:
            modalities[name]["frames"] = size
    return {**config, "tower": tower, "modalities": modalities}


def open_processors(config: MiCoConfig, pieces: WordPieces | None) -> dict[str, Processor]:
    """The processors of a model; that of texts only says so where there is no vocabulary."""
    processors: dict[str, Processor] = {TEXT: NoWordPieces()}
    if pieces is not None:
        if pieces.vocab_size > config.text.vocab_size:
            raise ValueError(f"the vocabulary has {pieces.vocab_size} ids, the model only {config.text.vocab_size}")
        processors[TEXT] = WordPieceProcessor(pieces, config.max_caption_tokens)
    for name, settings in config.modalities.items():
        if isinstance(settings, SliceConfig):
            processors[name] = SliceProcessor(settings)
        else:
            processors[name] = FrameProcessor(get_modality(name), settings)
    return processors


class NoWordPieces(NoVocabulary):
    """Stands in for the processor of texts where no vocabulary was found."""

    PROBLEM = (
        f"this model was loaded without a vocabulary: put {VOCABULARY} of bert-base-uncased into its folder, pass "
        f"from_pretrained(..., tokenizer=PATH), or set {VOCABULARY_VARIABLE} to a folder with {VOCABULARY}"
    )


def find_pieces(path: Path, tokenizer: str | os.PathLike[str] | None) -> WordPieces | None:
    """The vocabulary that was asked for, or the one beside a model; None where there is none to be found."""
    if tokenizer is not None:
        found = _read_pieces(Path(tokenizer))
        if found is None:
            raise ValueError(f"{tokenizer}: holds neither {FILE} nor {VOCABULARY}")
        return found
    places = [path if path.is_dir() else path.parent.parent]
    if named := os.environ.get(VOCABULARY_VARIABLE):
        places.append(Path(named) / VOCABULARY)  # a tokenizer.json there is that of another family
    return next((found for place in places if (found := _read_pieces(place)) is not None), None)


def _read_pieces(place: Path) -> WordPieces | None:
    with reading_vocabulary(place):
        return WordPieces.find(place)
