"""Folders of ours from official files, and what they remember of these so that they can become them again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from one_peace.checkpoints.native import OFFICIAL_PREFIX, ORIGIN, write_folder, write_json
from one_peace.errors import CheckpointError


class Checkpoint(Protocol):
    """An official file: `tensors` by our names, in pieces, and `official`, all of them by its own."""

    @property
    def path(self) -> Path: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def tensors(self) -> Mapping[str, list[Tensor]]: ...
    @property
    def official(self) -> Mapping[str, Tensor]: ...
    @property
    def unknown(self) -> tuple[str, ...]: ...


def write_converted(
    checkpoint: Checkpoint,
    target: Path,
    aside: Iterable[str],
    origin: Mapping[str, Any],
    write_files: Callable[[Path], None] | None,
    max_shard_bytes: int,
) -> Path:
    """Our folder for an official file; tensors keep their bits, those of the official names `aside` have no other
    place. `origin` is what else has to be remembered; the rest as for `write_folder`.

    Raises:
        CheckpointError: tensors that no model of the family has.
    """
    if checkpoint.unknown:
        raise CheckpointError(f"{checkpoint.path}: no model has the tensors {', '.join(checkpoint.unknown)}")

    def files(folder: Path) -> None:
        write_json(folder / ORIGIN, {"names": list(checkpoint.official), **origin})
        if write_files is not None:
            write_files(folder)

    kept = {OFFICIAL_PREFIX + name: [checkpoint.official[name]] for name in aside}
    tensors = {**checkpoint.tensors, **kept}
    return write_folder(target, checkpoint.config, tensors, write_files=files, max_shard_bytes=max_shard_bytes)


def is_again(made: Tensor | None, stored: Tensor) -> bool:
    """Whether what can be made anew is a stored tensor to the bit, so that it need not be kept."""
    return made is not None and made.dtype == stored.dtype and torch.equal(made, stored)


def container_origin(form: str, container: Mapping[str, Any]) -> dict[str, Any]:
    """What is remembered of a container besides its tensors: all but the state of an optimizer."""
    rest = {key: value for key, value in container.items() if key != "last_optimizer_state"}
    return {"form": form, "container": _plain(rest)}


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; tensors and other objects become their description."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items() if not isinstance(item, Tensor)}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)


def read_origin(folder: Path, forms: Sequence[str], rest: str = "container") -> dict[str, Any]:
    """What a converted folder keeps of the official file that it came from, {} for others. `rest` is the key of what
    else that file held.

    Raises:
        CheckpointError: it is damaged, or of no file of these forms.
    """
    path = folder / ORIGIN
    if not path.exists():
        return {}
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        names, others = origin["names"], origin[rest]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); remove it to export with new official settings") from error
    named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not named or not isinstance(others, dict) or origin.get("form") not in forms:
        raise CheckpointError(f"{path}: damaged; remove it to export with new official settings")
    return origin
