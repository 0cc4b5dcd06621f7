"""Official checkpoints: fairseq containers, bare state dicts, the vision branch; read under native names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from one_peace.checkpoints.containers import Form, open_state_dict, own_config, stored_settings
from one_peace.checkpoints.name_table import Kind as Unused
from one_peace.checkpoints.one_peace.config import infer_config
from one_peace.checkpoints.one_peace.names import from_vision, prefixed_name, to_native, to_official
from one_peace.checkpoints.pieces import joined_shape, sort_pieces
from one_peace.errors import CheckpointError


@dataclass(frozen=True)
class OfficialCheckpoint:
    """An official file.

    `tensors` maps native names to the pieces that, joined along dimension 0, make up the tensor; encoder names follow
    `encoder.` when the file also holds a decoder (a pretraining model) or a head (a fine-tuned one). `official` is
    the file's own state dict, `unused` what of it has no native counterpart (and why), `unknown` what no ONE-PEACE
    model has.
    """

    path: Path
    form: Form
    config: dict[str, Any]
    tensors: Mapping[str, list[Tensor]]
    official: Mapping[str, Tensor]
    unused: Mapping[str, Unused] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    container: Mapping[str, Any] = field(default_factory=dict)


def read_official(path: str | Path) -> OfficialCheckpoint:
    """Reads an official file; tensors are memory-mapped where its format allows.

    Nothing in the file is executed. `CheckpointError` for a file that is damaged, wants to run code or is no ONE-PEACE
    model; `OSError` when it cannot be opened.
    """
    path = Path(path)
    form, official, container = open_state_dict(path)
    try:
        pieces = sort_pieces(official, lambda name: to_native(from_vision(name)), to_official)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    tensors, unused = pieces.tensors, pieces.unused
    config = own_config(container)
    if config is None:
        settings = stored_settings(container)
        shapes = {name: joined_shape(parts) for name, parts in tensors.items()}
        try:
            config = infer_config(path.stem, shapes, settings)
        except (TypeError, ValueError, AttributeError, IndexError) as error:
            raise CheckpointError(f"{path}: settings or shapes that no ONE-PEACE model has: {error}") from error
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
    head = config.get("head")
    if head and head["pooling"] == "cls" and head["hidden"]:  # the published head then never applies its norm
        norms = [name for name in tensors if name.startswith("head.norm.")]
        unused |= {to_official(name)[0]: Unused.UNUSED for name in norms}
        tensors = {name: parts for name, parts in tensors.items() if name not in norms}
    if config.get("decoder") or head:
        tensors = {prefixed_name(n): parts for n, parts in tensors.items()}
    return OfficialCheckpoint(path, form, config, tensors, official, unused, pieces.unknown, container)
