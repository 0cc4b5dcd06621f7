"""Published OFA checkpoints to our folders and back, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from one_peace.checkpoints.containers import OWN_CONFIG
from one_peace.checkpoints.name_table import Kind
from one_peace.checkpoints.native import (
    CONFIG,
    INDEX,
    MAX_SHARD_BYTES,
    ORIGIN,
    WEIGHTS,
    NativeFolder,
    open_folder,
    write_json,
)
from one_peace.checkpoints.ofa.config import TAILS, official_settings, port_settings
from one_peace.checkpoints.ofa.names import TIED, from_port, to_native, to_official, to_port
from one_peace.checkpoints.ofa.official import PORT_WEIGHTS, Form, published_tensor, read_ofa, upgraded
from one_peace.checkpoints.origin import container_origin, is_again, read_origin, write_converted
from one_peace.checkpoints.pieces import own_storage
from one_peace.checkpoints.replacing import replacing_checkpoint
from one_peace.errors import CheckpointError


def ofa_to_native(
    source: Path,
    target: Path,
    write_files: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Our folder for a published checkpoint of either layout; what has no native name is kept aside in it."""
    checkpoint = read_ofa(source)
    current = set(upgraded(checkpoint.official))
    tail = _tail(checkpoint.form)
    aside = []
    for name, tensor in checkpoint.official.items():
        kept = to_native(from_port(name))
        again = published_tensor(from_port(name), {}, checkpoint.config, tail) if kept is Kind.BUFFER else None
        renamed = from_port(name) not in current  # of an older version: the new names come from it
        if renamed or (isinstance(kept, Kind) and not is_again(again, tensor)):
            aside.append(name)
    origin = container_origin(checkpoint.form, checkpoint.container)
    return write_converted(checkpoint, target, aside, origin, write_files, max_shard_bytes)


def native_to_ofa(source: Path, target: Path, form: Form | None = None) -> Path:
    """A published layout of a folder of ours: a file, or for "transformers" a folder; by default what it came from."""
    folder = open_folder(source)
    origin = read_origin(source, get_args(Form))
    came_as = origin.get("form")
    written: Form = form or came_as or "container"
    tail = _tail(written)
    names = origin["names"] if came_as == written else _all_names(folder, written)
    state: dict[str, Tensor] = {}
    for name in names:
        twin = TIED.get(from_port(name))
        first = None if twin is None else next((n for n in state if from_port(n) == twin), None)
        state[name] = state[first] if first else own_storage(_tensor(name, folder, tail))
    if written == "transformers":
        return _write_port(target, state, folder.config, origin["container"] if came_as == written else {})
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_checkpoint(target) as path:
        if written == "state_dict":
            torch.save(state, path)
        else:
            container = dict(origin["container"]) if came_as == written else _new_container(folder.config)
            first_keys = {key: container.pop(key) for key in ("args", "cfg") if key in container}
            torch.save(first_keys | {"model": state} | container, path)
    return target


def _tail(form: Form) -> int:
    return TAILS[form == "transformers"]


def _tensor(name: str, folder: NativeFolder, tail: int) -> Tensor:
    if name in folder.leftovers:
        return folder.leftovers[name][0]
    tensor = published_tensor(from_port(name), folder.tensors, folder.config, tail)
    if tensor is None:
        raise CheckpointError(f"{folder.path}: nothing to make {name} from; remove {ORIGIN} to do without it")
    return tensor


def _all_names(folder: NativeFolder, form: Form) -> list[str]:
    """The names of a whole state dict: parameters and statistics, the copies of the token table, buffers."""
    names: list[str] = []
    for native in folder.tensors:
        official = to_official(native)
        if not official:
            raise CheckpointError(f"{folder.path}: {native} has no official name")
        names += official
    names += TIED
    buffers = [f"{side}.{kind}" for side in ("encoder", "decoder") for kind in ("token_rp_bucket", "image_rp_bucket")]
    buffers += ["decoder.image_position_idx"]
    if form == "transformers":
        return [to_port(name) for name in names + buffers]
    return names + buffers + ["encoder.version", "decoder.version"]


def _new_container(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "args": None,
        "cfg": official_settings(config),
        "criterion": None,
        "optimizer_history": [],
        "task_state": {},
        "extra_state": {OWN_CONFIG: json.loads(json.dumps(config))},
    }


def _write_port(target: Path, state: dict[str, Tensor], config: Mapping[str, Any], stored: Mapping[str, Any]) -> Path:
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; a transformers-style model is a folder")
    if other := [name for name in (WEIGHTS, INDEX) if (target / name).exists()]:
        raise ValueError(f"{target} holds another model, whose {other[0]} would be read in place of {PORT_WEIGHTS}")
    settings = stored or port_settings(config)
    target.mkdir(parents=True, exist_ok=True)
    with replacing_checkpoint(target / PORT_WEIGHTS) as path:
        torch.save(state, path)
    write_json(target / CONFIG, settings)
    return target
