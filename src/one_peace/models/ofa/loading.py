"""Weights into OFA models."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from one_peace.checkpoints.assign import assign_tensors, build_on_meta, check_depth
from one_peace.checkpoints.native import STATISTICS, is_native, open_folder
from one_peace.checkpoints.ofa.config import FAMILY
from one_peace.checkpoints.ofa.growth import fit_tables
from one_peace.checkpoints.ofa.official import is_port, read_ofa
from one_peace.errors import CheckpointError
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.interface import Ofa
from one_peace.models.ofa.model import OfaModel
from one_peace.models.ofa.processor import OfaProcessor
from one_peace.models.ofa.trunk import STRIDE
from one_peace.models.ofa.vocabulary import OfaVocabulary
from one_peace.models.vocabularies import find_tokenizer, tokenizer_beside
from one_peace.nn.device import parse_device
from one_peace.nn.dtype import parse_dtype


@dataclass(frozen=True)
class SavedOfa:
    """A saved model: its configuration, and its tensors under our names, unread, beside those that have none."""

    path: Path
    config: OfaConfig
    tensors: Mapping[str, list[Tensor]]


def open_saved(path: Path) -> SavedOfa:
    """A folder in our format, a published file or a transformers-style folder.

    Raises:
        CheckpointError: it is neither, damaged, or of a configuration that this version does not have.
    """
    if is_native(path) and not is_port(path):
        folder = open_folder(path)
        values, tensors = folder.config, dict(folder.tensors.items())
        if (family := values.get("family", "one_peace")) != FAMILY:
            raise CheckpointError(f"{path}: is a model of the family {family!r}, and one of OFA is needed")
    else:
        checkpoint = read_ofa(path)
        values, tensors = checkpoint.config, dict(checkpoint.tensors)
        tensors |= {name: [checkpoint.official[name]] for name in checkpoint.unknown if name in checkpoint.official}
    try:
        config = OfaConfig.from_dict(values)
        check_depth(values, tensors)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its configuration does not fit this version: {error}") from error
    return SavedOfa(path, config, tensors)


def load_model(
    saved: SavedOfa,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    image_size: int | None = None,
) -> OfaModel:
    """The model of saved weights, for pictures of `image_size` pixels (None: its own). Fresh rows fill tables of image
    positions that are too small (the published rule).

    Raises:
        CheckpointError: tensors that do not fit, all of them named.
        ValueError: an image size that the positions do not reach.
    """
    config = with_image_size(saved.config, image_size)
    try:
        model = build_on_meta(OfaModel, config)
    except CheckpointError as error:
        raise CheckpointError(f"{saved.path}: {error}") from error
    tensors = fit_tables(saved.tensors, config.image_grid**2 + 1, config.vocabulary)
    # Counters of batches serve nothing here, and models with frozen norms are saved without them.
    counters = tuple(name for name in model.state_dict() if name.endswith(STATISTICS[-1]))
    try:
        report = assign_tensors(model, tensors, device, dtype, optional=counters)
    except CheckpointError as error:
        raise CheckpointError(f"{saved.path}: {error}") from error
    for name in report.missing:
        owner = model.get_submodule(name.rpartition(".")[0])
        assert isinstance(owner, nn.BatchNorm2d)
        owner.num_batches_tracked = torch.zeros((), dtype=torch.int64, device=device)
    return model.eval()


def from_pretrained(
    path: Path,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    *,
    image_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Ofa:
    """An OFA model ready to use, from a file or folder that `open_saved` reads.

    For published checkpoints `tokenizer` is a tokenizer.json or a folder with one, with encoder.json, vocab.bpe and
    dict.txt, or with vocab.json and merges.txt; by default it is looked for beside the file and in $ONE_PEACE_VOCAB.
    Without one, texts can be neither read nor written.
    """
    saved = open_saved(path)
    model = load_model(saved, parse_device(device), parse_dtype(dtype), image_size)
    return Ofa(model, OfaProcessor(model.config, open_vocabulary(path, model.config, tokenizer)))


def open_vocabulary(
    path: Path, config: OfaConfig, tokenizer: str | os.PathLike[str] | None = None
) -> OfaVocabulary | None:
    """The vocabulary of a saved model, None where there is none to be found.

    Raises:
        ValueError: a tokenizer that was asked for is not there, or one that was found does not fit.
    """
    if tokenizer is None:
        found = tokenizer_beside(path, config.text_positions, lambda ids: ids == config.words)
    elif (found := find_tokenizer(tokenizer, config.text_positions)) is None:
        raise ValueError(f"{tokenizer}: holds no vocabulary that we read")
    try:
        return None if found is None else OfaVocabulary(found, config)
    except ValueError as error:
        raise ValueError(f"{tokenizer or path}: {error}") from error


def with_image_size(config: OfaConfig, size: int | None) -> OfaConfig:
    """The config for pictures of `size` pixels."""
    if size is None or size == config.image_size:
        return config
    largest = config.image_grid * STRIDE
    if size < STRIDE or size > largest:
        raise ValueError(f"image_size must be from {STRIDE} to {largest} pixels, got {size}")
    return dataclasses.replace(config, image_size=size)


@dataclass(frozen=True)
class StartReport:
    """What a model got from a file: `filled` tensors, those left `fresh`, and those of the file that have no place."""

    filled: list[str]
    fresh: list[str]
    unused: list[str]


@torch.no_grad()
def start_from(model: OfaModel, saved: SavedOfa, generator: torch.Generator | None = None) -> StartReport:
    """First values of a model to be trained, from weights of another: the published rules.

    What the file lacks keeps the model's values (so that a BART checkpoint can be the start of an OFA), tables of image
    positions and tokens grow.

    Raises:
        CheckpointError: tensors of another shape, all of them named.
    """
    config = model.config
    tensors = fit_tables(saved.tensors, config.image_grid**2 + 1, config.vocabulary, generator)
    own = model.state_dict()
    problems = []
    for name in own.keys() & tensors.keys():
        shape = (sum(piece.shape[0] for piece in tensors[name]), *own[name].shape[1:]) if own[name].dim() else ()
        if shape != tuple(own[name].shape) or any(p.shape[1:] != own[name].shape[1:] for p in tensors[name]):
            problems.append(f"{name}: shape {tuple(tensors[name][0].shape)} in the file, {tuple(own[name].shape)} here")
    if problems:
        raise CheckpointError(f"{saved.path}: {len(problems)} tensors do not fit:\n  " + "\n  ".join(sorted(problems)))
    filled = [name for name in own if name in tensors]
    for name in filled:
        pieces = tensors[name]
        own[name].copy_(pieces[0] if len(pieces) == 1 else torch.cat(pieces))
    return StartReport(filled, [n for n in own if n not in tensors], [n for n in tensors if n not in own])
