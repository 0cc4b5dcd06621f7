"""Published OFA checkpoints under native names: original files (fairseq) and transformers-style folders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from one_peace.checkpoints.containers import named_tensors, open_state_dict, own_config, stored_settings
from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.native import CONFIG, INDEX, WEIGHTS, open_weights, read_json
from one_peace.checkpoints.ofa.config import TAILS, infer_config, settings_of_port
from one_peace.checkpoints.ofa.names import from_port, to_native, to_official
from one_peace.checkpoints.pieces import Pieces, joined_shape, sort_pieces
from one_peace.errors import CheckpointError
from one_peace.nn.grid_positions import code_positions
from one_peace.nn.relative_position import MAX_POSITIONS, grid_buckets, offset_buckets

Form = Literal["container", "state_dict", "transformers"]
PORT_WEIGHTS = "pytorch_model.bin"
PORT_TYPE = "ofa"  # `model_type` in the config.json of a transformers-style folder
AVERAGED = ("ema", "ema_fp32_params")  # in extra_state: the weights' moving average, and it in full precision
VERSION = 3.0  # of the published encoder and decoder

_JOINED = re.compile(r"(.*(?:self|encoder)_attn\.)in_proj_(weight|bias)")
_NUMBERED_NORM = re.compile(r"((en|de)coder\.layers\.\d+\.)layer_norms\.(\d)\.(.+)")
_NORMS = {
    "en": ("self_attn_layer_norm", "final_layer_norm"),
    "de": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
}


@dataclass(frozen=True)
class OfaCheckpoint:
    """A published checkpoint.

    `tensors` maps native names to the pieces that, joined along dimension 0, make up the tensor. `official` is the
    file's own state dict, `unused` what of it has no native counterpart (and why), `unknown` what no OFA model has.
    `container` is what else the file holds: of a transformers-style folder, its settings.
    """

    path: Path
    form: Form
    config: dict[str, Any]
    tensors: Mapping[str, list[Tensor]]
    official: Mapping[str, Tensor]
    unused: Mapping[str, Kind] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    container: Mapping[str, Any] = field(default_factory=dict)


def is_port(path: Path) -> bool:
    """Whether a path is a transformers-style folder of OFA."""
    return (path / CONFIG).is_file() and read_json(path / CONFIG).get("model_type") == PORT_TYPE


def read_ofa(path: str | Path) -> OfaCheckpoint:
    """Reads a published checkpoint of either layout; tensors are memory-mapped. Where a file has the average of its
    weights, as those for visual questions have, that is read in their place, as in the published evaluation.

    Nothing in the file is executed. `CheckpointError` for a file that is damaged, wants to run code or is no OFA model;
    `OSError` when it cannot be opened.
    """
    path = Path(path)
    form: Form
    container: Mapping[str, Any]
    if path.is_dir():
        form, container = "transformers", read_json(path / CONFIG)
        state = _port_state(path)
        settings: Mapping[str, Any] = settings_of_port(container)
    else:
        found, state, container = open_state_dict(path)
        form = "container" if found == "container" else "state_dict"
        extra = container.get("extra_state")
        if isinstance(extra, Mapping):
            averaged = extra.get(AVERAGED[0])
            if isinstance(averaged, Mapping) and averaged:
                state = named_tensors(path, averaged)
            container = {**container, "extra_state": {k: v for k, v in extra.items() if k not in AVERAGED}}
        settings = stored_settings(container)
    try:
        pieces = native_pieces(state)
        config = own_config(container)
        if config is None:
            shapes = {name: joined_shape(parts) for name, parts in pieces.tensors.items()}
            shapes |= {name: tuple(state[name].shape) for name in pieces.unused if name in state}
            config = infer_config(path.name if path.is_dir() else path.stem, shapes, settings)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise CheckpointError(f"{path}: settings or shapes that no OFA model has: {error}") from error
    return OfaCheckpoint(path, form, config, pieces.tensors, state, pieces.unused, pieces.unknown, container)


def native_pieces(state: Mapping[str, Tensor]) -> Pieces:
    """A state dict of either layout sorted by native names; see `sort_pieces` for what is refused."""
    return sort_pieces(upgraded(state), to_native, to_official)


def upgraded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names of the original code as it stands: from the port, and from older versions of it."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = from_port(name)
        if match := _JOINED.fullmatch(name):
            for part, third in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{match[1]}{part}_proj.{match[2]}"] = third
        elif (match := _NUMBERED_NORM.fullmatch(name)) and int(match[3]) < len(_NORMS[match[2]]):
            renamed[f"{match[1]}{_NORMS[match[2]][int(match[3])]}.{match[4]}"] = tensor
        else:
            renamed[name] = tensor
    return renamed


def published_tensor(
    name: str, tensors: Mapping[str, list[Tensor]], config: Mapping[str, Any], tail: int = TAILS[0]
) -> Tensor | None:
    """The tensor of an official name, from native ones or the configuration; None where neither has it.

    `tail`: how many positions follow the last code in the buffer of code positions, by layout.
    """
    target = to_native(name)
    if target is Kind.BUFFER:
        return published_buffer(name, config, tail)
    if not isinstance(target, Target) or target.name not in tensors:
        return None
    (tensor,) = tensors[target.name]
    return tensor if target.part is None else tensor.chunk(len(to_official(target.name)))[target.part]


def published_buffer(name: str, config: Mapping[str, Any], tail: int = TAILS[0]) -> Tensor:
    """The value that the published code gives a buffer computed from the configuration."""
    kind = name.partition(".")[2]
    if kind == "version":
        return torch.tensor([VERSION])
    if kind == "token_rp_bucket":
        return offset_buckets(config["text_buckets"], MAX_POSITIONS)
    grid, window = config["image_grid"], config["code_grid"]
    if kind == "image_rp_bucket":
        return grid_buckets(grid, grid, grid)
    assert kind == "image_position_idx", name
    return code_positions(window, grid, window**2 + 1 + tail)


def _port_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a transformers-style folder: safetensors, in one file or several, or a pickle."""
    if (path / INDEX).exists() or (path / WEIGHTS).exists():
        return {name: pieces[0] for name, pieces in open_weights(path).items()}
    parts = sorted(path.glob("pytorch_model*.bin"))
    if not parts:
        raise CheckpointError(f"{path}: has neither {PORT_WEIGHTS} nor {WEIGHTS}")
    state: dict[str, Tensor] = {}
    for part in parts:
        state |= open_state_dict(part)[1]
    return state
