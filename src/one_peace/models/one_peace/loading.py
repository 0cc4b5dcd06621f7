"""Weights into models: `from_pretrained`, and models with a head or for training."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from one_peace.checkpoints.assign import assign_tensors, build_on_meta, check_depth
from one_peace.checkpoints.native import is_native, open_folder
from one_peace.checkpoints.one_peace.names import bare_name, modality_of
from one_peace.checkpoints.one_peace.official import read_official
from one_peace.checkpoints.registry import resolve
from one_peace.checkpoints.renamed import Renamed
from one_peace.errors import CheckpointError
from one_peace.modalities import get_modality
from one_peace.modalities.base import Processor
from one_peace.modalities.image import PATCH
from one_peace.modalities.text import TextConfig, TextProcessor
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.interface import OnePeace
from one_peace.models.one_peace.model import OnePeaceEncoder
from one_peace.models.one_peace.prediction import OnePeaceForPrediction
from one_peace.models.vocabularies import PUBLISHED_VOCABULARY, NoVocabulary, find_tokenizer, tokenizer_beside
from one_peace.nn.device import parse_device
from one_peace.nn.dtype import parse_dtype

MODEL_TYPES = ("one_peace_retrieval", "one_peace_classify")  # of the published function
AFTER_BLOCKS = ("fusion.norms.", "projections.", "logit_scale")  # of which a file without projections may lack all


def from_pretrained(
    name_or_path: str | os.PathLike[str],
    model_type: str | None = None,
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    download_root: str | os.PathLike[str] | None = None,
    *,
    modalities: Sequence[str] | None = None,
    image_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> OnePeace:
    """A model ready to encode, from a built-in name, an official name, a hub id, a folder of ours or an official file.

    `modalities` loads some of them only. `image_size` (pixels, a multiple of 16) resizes the position tables once. For
    official files `tokenizer` is a tokenizer.json or a folder with one or with encoder.json, vocab.bpe and
    dict.txt; by default it is looked for beside the file and in $ONE_PEACE_VOCAB. Without one, texts cannot
    be encoded but everything else can. `model_type` and `download_root` are those of the published function.

    `CheckpointError` names every tensor that does not fit. Files without projections (the vision branch, models
    fine-tuned to classify or ground) load with a warning: features yes, comparable embeddings no.
    """
    if model_type is not None and model_type not in MODEL_TYPES:
        raise ValueError(f"unknown model_type {model_type!r}; known: {', '.join(MODEL_TYPES)}")
    if model_type == "one_peace_classify":
        raise ValueError(
            "a model with a head predicts through one_peace.tasks.predictor.Predictor.from_pretrained, or "
            "`one-peace predict`; leave model_type out for the encoder alone"
        )
    source = open_saved(resolve(name_or_path, download_root=None if download_root is None else Path(download_root)))
    full, path = source.config, source.path
    config = full if modalities is None else full.with_modalities(modalities)
    config = _with_image_size(dataclasses.replace(config, decoder=None, head=None), image_size)
    encoder = load_encoder(source, config, parse_device(device), parse_dtype(dtype))
    processors = {name: open_processor(name, settings, path, tokenizer) for name, settings in config.modalities.items()}
    return OnePeace(encoder, processors)


def load_encoder(
    source: SavedModel, config: OnePeaceConfig, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> OnePeaceEncoder:
    """The encoder of a saved model in the shape of `config`, which may have fewer of its modalities.

    `CheckpointError` names every tensor that does not fit.
    """
    try:
        encoder = build_on_meta(OnePeaceEncoder, config)
        kept = _encoder_tensors(source, config)
        headless = not any(name.startswith("projections.") for name in kept)
        report = assign_tensors(encoder, kept, device, dtype, AFTER_BLOCKS if headless else ())
    except CheckpointError as error:
        raise CheckpointError(f"{source.path}: {error}") from error
    if headless:
        _fill_after_blocks(source.path, encoder, report.missing, device, dtype)
    return encoder


def load_for_prediction(
    name_or_path: str | os.PathLike[str],
    device: str | int | torch.device | None = None,
    dtype: str | torch.dtype = "float32",
    *,
    image_size: int | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
) -> tuple[OnePeaceForPrediction, dict[str, Processor]]:
    """A fine-tuned model with its head, and the processors of its modalities: arguments as for `from_pretrained`.

    `CheckpointError` for a model without a head, or naming every tensor that does not fit.
    """
    source = open_saved(resolve(name_or_path))
    if source.config.head is None:
        raise CheckpointError(f"{source.path}: has no prediction head; fine-tune it for a task first")
    config = _with_image_size(dataclasses.replace(source.config, decoder=None), image_size)
    model = load_predictor(source, config, parse_device(device), parse_dtype(dtype))
    processors = {
        name: open_processor(name, settings, source.path, tokenizer) for name, settings in config.modalities.items()
    }
    return model, processors


def load_predictor(
    source: SavedModel, config: OnePeaceConfig, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> OnePeaceForPrediction:
    """A fine-tuned model in the shape of `config`, which has a head. Errors as of `load_encoder`."""
    try:
        model = build_on_meta(OnePeaceForPrediction, config)
        wanted = dict(model.named_parameters())
        # Norms of modalities that the head does not read, and projections, may be there and serve nothing.
        ignored = ("encoder.projections.", "encoder.logit_scale", "encoder.fusion.norms.")
        names = {name: name for name in source.tensors if name in wanted or not name.startswith(ignored)}
        names, added = _fold_roles(names, config, prefix="encoder.") if not model.roles else (names, {})
        tensors = _WithRoles(source.tensors, names, added)
        assign_tensors(model, tensors, device, dtype, optional=("roles.",), shrink=_resizes_tables(config))
    except CheckpointError as error:
        raise CheckpointError(f"{source.path}: {error}") from error
    for name, parameter in model.roles.items():
        if parameter.is_meta:  # a file whose examples have two pictures and no embedding of their role
            model.roles[name] = nn.Parameter(torch.zeros(parameter.shape, device=device, dtype=dtype))
    return model.eval()


@dataclasses.dataclass(frozen=True)
class SavedModel:
    """A saved model: its configuration, and its tensors under our names, unread. `unknown` are those that have no such
    name."""

    path: Path
    config: OnePeaceConfig
    tensors: Mapping[str, list[Tensor]]
    unknown: tuple[str, ...] = ()


def open_saved(path: Path) -> SavedModel:
    """A folder in our format, or an official file.

    Raises:
        CheckpointError: it is neither, damaged, or of a configuration that this version does not have.
    """
    unknown: tuple[str, ...] = ()
    tensors: Mapping[str, list[Tensor]]
    if is_native(path):
        folder = open_folder(path)
        values, tensors = folder.config, folder.tensors
        if family := values.get("family"):
            raise CheckpointError(f"{path}: is a model of the family {family!r}, and one of ONE-PEACE is needed")
    elif path.is_dir():
        raise CheckpointError(f"{path}: no config.json in this folder; give a saved model or an official file")
    else:
        checkpoint = read_official(path)
        values, unknown = checkpoint.config, checkpoint.unknown
        tensors = {**checkpoint.tensors, **{n: [checkpoint.official[n]] for n in unknown}}
    try:
        config = OnePeaceConfig.from_dict(values)
        check_depth(values, tensors)
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: its configuration does not fit this version: {error}") from error
    return SavedModel(path, config, tensors, unknown)


def open_processor(name: str, settings: Any, path: Path, tokenizer: str | os.PathLike[str] | None) -> Processor:
    """The processor of one modality of a saved model; for texts whose vocabulary is missing, one that raises when it is
    used."""
    if not isinstance(settings, TextConfig):
        return get_modality(name).processor(settings, path if path.is_dir() else None)
    if tokenizer is not None:
        found = find_tokenizer(tokenizer, settings.max_tokens)
        if found is None:
            raise ValueError(f"{tokenizer}: holds neither tokenizer.json nor {', '.join(PUBLISHED_VOCABULARY)}")
    else:
        found = tokenizer_beside(path, settings.max_tokens, lambda ids: ids <= settings.vocab_size)
    try:
        return NoVocabulary() if found is None else TextProcessor(settings, found)
    except ValueError as error:
        raise ValueError(f"{tokenizer or path}: {error}") from error


def _with_image_size(config: OnePeaceConfig, size: int | None) -> OnePeaceConfig:
    """The config for pictures of `size` pixels (None: its own), with a relative table that is large enough."""
    image = config.modalities.get("image")
    if image is None:
        return config
    if size is not None and (size < PATCH or size % PATCH):
        raise ValueError(f"image_size must be a positive multiple of {PATCH}, got {size}")
    size = size or image.image_size
    grid = size // PATCH
    if not _resizes_tables(config):
        grid = max(image.bias_grid, grid)  # a smaller grid reads a part of the table
    image = dataclasses.replace(image, image_size=size, bias_grid=grid)
    return dataclasses.replace(config, modalities={**config.modalities, "image": image})


def _resizes_tables(config: OnePeaceConfig) -> bool:
    """Whether it is the published image classifier, which resizes its relative table for smaller pictures too."""
    return config.head is not None and config.head.pooling == "mean"


class _WithRoles(Renamed):
    """Tensors of a source under other names, embeddings of roles in their tables.

    `added` names, for a position table, a type embedding that the published code adds to the same tokens: to every
    token of the modality, so that it is a part of the table here.
    """

    def __init__(self, source: Mapping[str, list[Tensor]], names: Mapping[str, str], added: Mapping[str, str]) -> None:
        super().__init__(source, names)
        self._added = added

    def __getitem__(self, name: str) -> list[Tensor]:
        pieces = super().__getitem__(name)
        if name not in self._added:
            return pieces
        (table,), (embedding,) = pieces, self._source[self._added[name]]
        if embedding.numel() != table.shape[-1]:
            raise CheckpointError(
                f"{self._added[name]}: shape {tuple(embedding.shape)} does not go with {name}, {tuple(table.shape)}"
            )
        return [table.float() + embedding.float().reshape(1, -1)]


def _encoder_tensors(source: SavedModel, config: OnePeaceConfig) -> Mapping[str, list[Tensor]]:
    """The tensors of the encoder with the modalities of `config`.

    Those that are unknown in the file stay in, to be refused in one error with all others that do not fit.
    """
    absent = set(source.config.modalities) - set(config.modalities)
    names = {bare_name(n): n for n in source.tensors if not n.startswith(("decoder.", "head."))}
    names = {short: n for short, n in names.items() if modality_of(short) not in absent}
    names |= {n: n for n in source.unknown}
    return _WithRoles(source.tensors, *_fold_roles(names, config))


def _fold_roles(
    names: Mapping[str, str], config: OnePeaceConfig, prefix: str = ""
) -> tuple[dict[str, str], dict[str, str]]:
    """Takes the embeddings of roles out of the names, and says to which position table each of them is added."""
    names, added = dict(names), {}
    for modality in config.modalities:
        positions, role = f"{prefix}adapters.{modality}.positions.weight", f"roles.{modality}"
        if positions in names and role in names:
            added[positions] = names.pop(role)
    if added:  # that of the second picture of a pair, which no single picture gets
        names.pop("roles.second_image", None)
    return names, added


def _fill_after_blocks(
    path: Path, encoder: nn.Module, missing: Sequence[str], device: str | torch.device, dtype: torch.dtype
) -> None:
    """Neutral final norms and projections, for files that never had them."""
    shapes = dict(encoder.named_parameters())
    for name in missing:
        shape = shapes[name].shape
        value = torch.eye(shape[0]) if len(shape) == 2 else torch.zeros(shape)
        if name.startswith("fusion.norms.") and name.endswith(".weight"):
            value = torch.ones(shape)
        owner, _, leaf = name.rpartition(".")
        parameter = nn.Parameter(value.to(device, dtype), requires_grad=shapes[name].requires_grad)
        setattr(encoder.get_submodule(owner), leaf, parameter)
    warnings.warn(
        f"{path} has no projections into the shared space (a vision branch, or fine-tuned for another task): its "
        "features serve fine-tuning, its embeddings are not comparable across modalities",
        stacklevel=3,
    )
