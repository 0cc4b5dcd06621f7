"""Saved weights that training starts from: in our format or official, read one by one, filled up with fresh ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from one_peace.checkpoints.one_peace.names import bare_name, modality_of
from one_peace.checkpoints.pieces import joined_shape
from one_peace.checkpoints.renamed import Renamed
from one_peace.errors import CheckpointError
from one_peace.models.one_peace.config import OnePeaceConfig
from one_peace.models.one_peace.loading import SavedModel, open_saved
from one_peace.training.initial_values import empty_model, fresh_values

TEMPERATURE = "encoder.logit_scale"


def open_for_training(path: Path) -> SavedModel:
    """A saved model, each tensor under the name that a pretraining model gives it. Errors as of `open_saved`."""
    saved = open_saved(path)
    names = {n if n.startswith(("encoder.", "decoder.")) else f"encoder.{n}": n for n in saved.tensors}
    return dataclasses.replace(saved, tensors=Renamed(saved.tensors, names))


def values_of(
    config: OnePeaceConfig,
    seed: int,
    saved: SavedModel | None = None,
    copies: Mapping[str, str] | None = None,
    renewed: Collection[str] = (),
) -> Iterator[tuple[str, Tensor]]:
    """Names and values of all parameters of a pretraining model, a few at a time: saved ones, and what is not, fresh.

    `copies` says which parameters start as another one does, `renewed` which are fresh though they are saved.

    Raises:
        CheckpointError: names every saved tensor that does not fit, before the first value comes.
    """
    copies = copies or {}
    shapes = {name: tuple(parameter.shape) for name, parameter in empty_model(config).named_parameters()}
    wanted: dict[str, list[str]] = {}  # a value -> the parameters that start with it
    for name in shapes:
        wanted.setdefault(copies.get(name, name), []).append(name)
    if saved is None:
        return _generate(config, seed, {}, wanted, list(wanted))
    _check(saved, shapes, wanted)
    fresh = [name for name in wanted if name not in saved.tensors or name in renewed]
    return _generate(config, seed, saved.tensors, wanted, fresh)


def _generate(
    config: OnePeaceConfig,
    seed: int,
    stored: Mapping[str, list[Tensor]],
    wanted: Mapping[str, list[str]],
    fresh: list[str],
) -> Iterator[tuple[str, Tensor]]:
    for name, value in fresh_values(config, seed, fresh):
        for target in wanted[name]:
            yield target, value
    drawn = set(fresh)
    for name in stored:
        if name in wanted and name not in drawn:
            pieces = stored[name]
            value = pieces[0] if len(pieces) == 1 else torch.cat(list(pieces))
            for target in wanted[name]:
                yield target, value


def _check(saved: SavedModel, shapes: Mapping[str, tuple[int, ...]], wanted: Iterable[str]) -> None:
    problems = [f"{name}: unexpected" for name in saved.tensors if name not in shapes]
    for name in wanted:
        if name in saved.tensors:
            if (shape := joined_shape(saved.tensors[name])) != shapes[name]:
                problems.append(f"{name}: shape {shape}, expected {shapes[name]}")
        elif not _starts_fresh(name, saved.config):
            problems.append(f"{name}: missing")
    if problems:
        raise CheckpointError(f"{saved.path}: {len(problems)} tensors do not fit:\n  " + "\n  ".join(problems))


def _starts_fresh(name: str, saved: OnePeaceConfig) -> bool:
    modality = modality_of(bare_name(name))
    new_modality = modality is not None and modality not in saved.modalities
    return new_modality or name == TEMPERATURE or (saved.decoder is None and name.startswith("decoder."))
