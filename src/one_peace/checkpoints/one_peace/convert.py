"""Official ONE-PEACE checkpoints to our folders and back, bit for bit, without holding a model in memory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from one_peace.checkpoints.containers import OWN_CONFIG, Form
from one_peace.checkpoints.name_table import Kind as Unused
from one_peace.checkpoints.name_table import Target
from one_peace.checkpoints.native import MAX_SHARD_BYTES, ORIGIN, NativeFolder, open_folder
from one_peace.checkpoints.one_peace.config import OFFICIAL_MODALITIES, official_settings
from one_peace.checkpoints.one_peace.names import (
    bare_name,
    from_vision,
    prefixed_name,
    to_native,
    to_official,
    to_vision,
)
from one_peace.checkpoints.one_peace.official import read_official
from one_peace.checkpoints.origin import container_origin, is_again, read_origin, write_converted
from one_peace.checkpoints.pieces import own_storage
from one_peace.checkpoints.replacing import replacing_checkpoint
from one_peace.errors import CheckpointError
from one_peace.nn.relative_position import MAX_POSITIONS, grid_buckets, sequence_buckets

VERSION = 3.0  # of the published fusion model


def official_to_native(
    source: Path,
    target: Path,
    write_files: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Our folder for an official file; what has no native name is kept aside in it."""
    checkpoint = read_official(source)
    aside = [
        name
        for name, reason in checkpoint.unused.items()
        if reason is not Unused.BUFFER or not is_again(_buffer(name, checkpoint.config), checkpoint.official[name])
    ]
    origin = container_origin(checkpoint.form, checkpoint.container)
    return write_converted(checkpoint, target, aside, origin, write_files, max_shard_bytes)


def native_to_official(source: Path, target: Path, *, vision: bool = False) -> Path:
    """An official file for a folder of ours."""
    folder = open_folder(source)
    origin = read_origin(source, get_args(Form))
    written: Form = "vision" if vision else origin.get("form", "container")
    names = _vision_names(folder) if vision else origin.get("names") or _all_names(folder)
    state = {name: own_storage(_official_tensor(name, folder)) for name in names}
    container = dict(origin.get("container") or _new_container(folder.config))
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing_checkpoint(target) as path:
        if written == "vision":
            arrays = {n: t if t.dtype is torch.bfloat16 else t.numpy() for n, t in state.items()}
            marks = {"__author__": "ofa", "matching_heuristics": True}
            with open(path, "wb") as file:
                pickle.dump({"model": arrays} | marks, file, protocol=4)
        elif written == "state_dict":
            torch.save(state, path)
        else:
            order = ["args", "cfg"] if "cfg" in container else []
            first = {key: container.pop(key, None) for key in order}
            torch.save(first | {"model": state} | container, path)
    return target


def _new_container(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "cfg": official_settings(config),
        "criterion": None,
        "optimizer_history": [],
        "task_state": {},
        "extra_state": {OWN_CONFIG: json.loads(json.dumps(config))},
    }


def _all_names(folder: NativeFolder) -> list[str]:
    """Official names of a folder's tensors and of the buffers that belong to them."""
    names = []
    for native in folder.tensors:
        official = to_official(bare_name(native))
        if not official:
            raise CheckpointError(
                f"{folder.path}: {native} has no official name; official files hold text, image, audio"
            )
        names += official
    return names + list(folder.leftovers) + _buffer_names(names)


def _vision_names(folder: NativeFolder) -> list[str]:
    """Names in the published vision format: the image adapter and the blocks without other experts or final norm."""
    official = [name for native in folder.tensors for name in to_official(bare_name(native))]
    names = [vision for name in official + _buffer_names(official) if (vision := to_vision(name))]
    if not any(name.startswith("image_adapter.") for name in names):
        raise CheckpointError(f"{folder.path}: has no image modality, so no vision branch")
    return names


def _buffer_names(names: list[str]) -> list[str]:
    """The recomputed buffers that the published state dict has for these tensors, of the modalities that it knows."""
    adapters = {name.split(".rel_pos_table")[0] for name in names if ".rel_pos_table" in name}
    known = tuple(f"{modality}_adapter" for modality in OFFICIAL_MODALITIES)
    buffers = {f"{adapter}.rp_bucket" for adapter in adapters if adapter.endswith(known)}
    buffers |= {name.replace("pos_embed", "position_idx") for name in names if name.endswith("image_adapter.pos_embed")}
    buffers |= {name.split(".layers.")[0] + ".version" for name in names if ".fusion_model.layers." in name}
    return sorted(buffers - set(names))


def _official_tensor(name: str, folder: NativeFolder) -> Tensor:
    if name in folder.leftovers:
        return folder.leftovers[name][0]
    name = from_vision(name)
    target = to_native(name)
    native = target.name if isinstance(target, Target) else ""
    if native and folder.composed:
        native = prefixed_name(native)
    if isinstance(target, Target) and native in folder.tensors:
        tensor = folder.tensors[native][0]
        return tensor if target.part is None else tensor.chunk(3)[target.part]
    buffer = _buffer(name, folder.config)
    if buffer is None:
        raise CheckpointError(f"{folder.path}: nothing to make {name} from; remove {ORIGIN} to export without it")
    return buffer


def _buffer(name: str, config: Mapping[str, Any]) -> Tensor | None:
    """The value that the published code gives a buffer."""
    if name.endswith("fusion_model.version"):
        return torch.tensor([VERSION])
    adapter, _, buffer = name.rpartition(".")
    modality = adapter.rpartition(".")[2].removesuffix("_adapter")
    settings = config["modalities"].get(modality)
    if settings is None:
        return None
    if buffer == "position_idx":
        return torch.arange(settings["grid"] ** 2 + 1)
    if buffer == "rp_bucket" and modality == "image":
        side = settings["bias_grid"]
        return grid_buckets(side, side, side)
    if buffer == "rp_bucket" and "bias_buckets" in settings:
        return sequence_buckets(settings["bias_buckets"], MAX_POSITIONS)
    return None
