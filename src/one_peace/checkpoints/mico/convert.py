"""Official MiCo checkpoints to our folders and back, bit for bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.checkpoints.mico.config import official_settings
from one_peace.checkpoints.mico.names import TIED, current_name, tied_to, to_official
from one_peace.checkpoints.mico.official import SETTINGS, WEIGHTS, native_name, read_mico
from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.native import MAX_SHARD_BYTES, ORIGIN, NativeFolder, open_folder, write_json
from one_peace.checkpoints.origin import is_again, read_origin, write_converted
from one_peace.checkpoints.pieces import own_storage
from one_peace.checkpoints.replacing import replacing_checkpoint
from one_peace.errors import CheckpointError
from one_peace.nn.rotary import grid_rotary

FORM = "mico"
FIRST = "model_step_0.pt"  # of a folder that was no official checkpoint before


def mico_to_native(
    source: Path,
    target: Path,
    write_files: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Our folder for an official checkpoint; what has no native name is kept aside in it."""
    checkpoint = read_mico(source)
    aside = [
        name
        for name, reason in checkpoint.unused.items()
        if reason is not Kind.BUFFER
        or not is_again(_buffer(current_name(name), checkpoint.config), checkpoint.official[name])
    ]
    origin = {"form": FORM, "file": checkpoint.path.name, "settings": checkpoint.settings}
    return write_converted(checkpoint, target, aside, origin, write_files, max_shard_bytes)


def native_to_mico(source: Path, target: Path) -> Path:
    """The official form, a folder, of a folder of ours."""
    folder = open_folder(source)
    origin = read_origin(source, (FORM,), rest="settings")
    names = origin.get("names") or _all_names(folder)
    settings = origin.get("settings") or official_settings(folder.config)
    file = origin.get("file", FIRST)
    if not isinstance(file, str) or not WEIGHTS.fullmatch(file):
        raise CheckpointError(f"{source / ORIGIN}: {file!r:.60} is no name of official weights, such as {FIRST}")
    state = {name: own_storage(_official_tensor(name, folder)) for name in names}
    given = {current_name(name): name for name in names}
    for name in names:  # stored once, as the published code stores them
        twin = given.get(tied_to(current_name(name)) or "")
        if twin is not None and name not in folder.leftovers:
            state[name] = state[twin]
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file; an official MiCo checkpoint is a folder")
    (target / "log").mkdir(parents=True, exist_ok=True)
    (target / "ckpt").mkdir(exist_ok=True)
    with replacing_checkpoint(target / "ckpt" / file) as path:
        torch.save(state, path)
    write_json(target / SETTINGS, settings)
    return target


def _official_tensor(name: str, folder: NativeFolder) -> Tensor:
    if name in folder.leftovers:
        return folder.leftovers[name][0]
    target = native_name(name)
    if isinstance(target, Target) and target.name in folder.tensors:
        tensor = folder.tensors[target.name][0]
        parts = len(to_official(target.name, eva02=_eva02(folder.config)))
        return tensor if target.part is None else tensor.chunk(parts)[target.part]
    buffer = _buffer(current_name(name), folder.config)
    if buffer is None:
        raise CheckpointError(f"{folder.path}: nothing to make {name} from; remove {ORIGIN} to export without it")
    return buffer


def _all_names(folder: NativeFolder) -> list[str]:
    names = []
    for native in folder.tensors:
        official = to_official(native, eva02=_eva02(folder.config))
        if not official:
            raise CheckpointError(f"{folder.path}: {native} has no official name")
        names += official
    if _eva02(folder.config):
        ropes = ["rope", *(f"blocks.{i}.attn.rope" for i in range(folder.config["tower"]["layers"]))]
        names += [f"vision_encoder.visual.{rope}.freqs_{f}" for rope in ropes for f in ("cos", "sin")]
    return [*names, *TIED, "multimodal_encoder.bert.embeddings.position_ids"]


def _eva02(config: Mapping[str, Any]) -> bool:
    return bool(config["tower"]["kind"] == "eva02")


def _buffer(name: str, config: Mapping[str, Any]) -> Tensor | None:
    """The value that the published code gives a buffer."""
    if name.endswith(".position_ids"):
        return torch.arange(config["text"]["max_positions"])[None]
    tower = config["tower"]
    if ".rope.freqs_" in name and tower["kind"] == "eva02":
        head = tower["width"] // tower["heads"]
        cos, sin = grid_rotary(tower["image_size"] // tower["patch"], head, tower["rotary_grid"])
        return (cos if name.endswith("cos") else sin)[1:]
    return None
