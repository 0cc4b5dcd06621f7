"""Official checkpoints: fairseq containers, bare state dicts, the vision branch; read under native names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from one_peace.checkpoints.containers import Form, open_state_dict, own_config, stored_settings
from one_peace.checkpoints.name_table import Kind as Unused
from one_peace.checkpoints.name_table import Target
from one_peace.checkpoints.one_peace.config import infer_config
from one_peace.checkpoints.one_peace.names import from_vision, prefixed_name, to_native, to_official
from one_peace.checkpoints.pieces import joined_shape
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

    @property
    def pretraining(self) -> bool:
        """Whether there is a decoder."""
        return self.config.get("decoder") is not None


def read_official(path: str | Path) -> OfficialCheckpoint:
    """Reads an official file; tensors are memory-mapped where its format allows.

    Nothing in the file is executed. `CheckpointError` for a file that is damaged, wants to run code or is no ONE-PEACE
    model; `OSError` when it cannot be opened.
    """
    path = Path(path)
    form, official, container = open_state_dict(path)
    pieces: dict[str, dict[int, Tensor]] = {}
    unused: dict[str, Unused] = {}
    unknown: list[str] = []
    for name, tensor in official.items():
        match to_native(from_vision(name)):
            case Target(native, part) if (part or 0) in pieces.get(native, {}):
                unknown.append(name)  # a second tensor for the same place
            case Target(native, part):
                pieces.setdefault(native, {})[part or 0] = tensor
            case Unused() as reason:
                unused[name] = reason
            case None:
                unknown.append(name)
    tensors = {native: [parts[i] for i in sorted(parts)] for native, parts in pieces.items()}
    _check_pieces(path, tensors)
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
    return OfficialCheckpoint(path, form, config, tensors, official, unused, tuple(unknown), container)


def _check_pieces(path: Path, tensors: Mapping[str, list[Tensor]]) -> None:
    """Every part of a joined tensor must be there and fit the others."""
    problems = []
    for native, parts in tensors.items():
        names = to_official(native)
        if len(parts) != len(names):
            problems.append(f"of {', '.join(names)} only {len(parts)} are present")
        elif len({p.shape[1:] for p in parts}) > 1:
            problems.append(f"{', '.join(names)} differ in shape")
    if problems:
        raise CheckpointError(f"{path}: {len(problems)} tensors are not whole:\n  " + "\n  ".join(problems))
