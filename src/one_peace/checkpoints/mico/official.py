"""Official MiCo checkpoints: a folder with `log/hps.json` and `ckpt/model_step_N.pt`; read, written, converted."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from one_peace.checkpoints.mico.config import infer_config, official_settings
from one_peace.checkpoints.mico.names import TIED, current_name, tied_to, to_native, to_official
from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.native import (
    MAX_SHARD_BYTES,
    OFFICIAL_PREFIX,
    NativeFolder,
    open_folder,
    read_json,
    write_folder,
    write_json,
)
from one_peace.checkpoints.pickles import load_pickle
from one_peace.checkpoints.pieces import joined_shape, own_storage, sort_pieces
from one_peace.checkpoints.replacing import replacing_checkpoint
from one_peace.errors import CheckpointError
from one_peace.nn.resize import resize_frames, resize_positions
from one_peace.nn.rotary import grid_rotary

SETTINGS = Path("log", "hps.json")
WEIGHTS = re.compile(r"model_step_(\d+)\.pt")
ORIGIN = "official.json"  # in a converted folder: names, their order, settings and number of the official files


@dataclass(frozen=True)
class MiCoCheckpoint:
    """An official checkpoint.

    `tensors` maps native names to the pieces that, joined along dimension 0, make up the tensor, in the sizes of the
    file, which may be others than those of `config`. `official` is the file's own state dict; `unused` what of
    it has no native counterpart (and why); `unknown` what no MiCo model has.
    """

    path: Path
    settings: dict[str, Any]
    config: dict[str, Any]
    tensors: Mapping[str, list[Tensor]]
    official: Mapping[str, Tensor]
    unused: Mapping[str, Kind]
    unknown: tuple[str, ...]


def find_mico(path: Path) -> Path | None:
    """The weights of an official checkpoint: of its folder, those of the most steps; None for anything else."""
    if path.is_dir() and (path / SETTINGS).is_file():
        found = {int(m[1]): file for file in path.glob("ckpt/*.pt") if (m := WEIGHTS.fullmatch(file.name))}
        if not found:
            raise CheckpointError(f"{path}: has {SETTINGS} but no ckpt/model_step_N.pt")
        return found[max(found)]
    if WEIGHTS.fullmatch(path.name) and (path.parent.parent / SETTINGS).is_file():
        return path
    return None


def read_mico(path: str | Path) -> MiCoCheckpoint:
    """Reads an official checkpoint, given by its folder or its file of weights; tensors are memory-mapped.

    Nothing in the file is executed. `CheckpointError` for a file that is damaged, wants to run code or is no MiCo
    model; `OSError` when it cannot be opened.
    """
    file = find_mico(Path(path))
    if file is None:
        raise CheckpointError(f"{path}: not a MiCo checkpoint, a folder with {SETTINGS} and ckpt/model_step_N.pt")
    settings = read_json(file.parent.parent / SETTINGS)
    model_settings = settings.get("model_cfg")
    if not isinstance(model_settings, Mapping):
        raise CheckpointError(f"{file.parent.parent / SETTINGS}: has no model_cfg")
    loaded = load_pickle(file)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("model"), Mapping):
        loaded = loaded["model"]
    if not isinstance(loaded, Mapping) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise CheckpointError(f"{file}: must hold a dict of tensors and nothing else")
    official = {name: value.detach() for name, value in loaded.items()}
    eva02 = any(current_name(name).endswith("visual.blocks.0.attn.q_proj.weight") for name in official)
    try:
        pieces = sort_pieces(official, _native, partial(to_official, eva02=eva02))
        shapes = {name: joined_shape(parts) for name, parts in pieces.tensors.items()}
        config = infer_config(file.parent.parent.name, shapes, model_settings)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from error
    except (TypeError, ValueError, AttributeError, IndexError, KeyError) as error:
        raise CheckpointError(f"{file}: settings or shapes that no MiCo model has: {error!r}") from error
    return MiCoCheckpoint(file, settings, config, pieces.tensors, official, pieces.unused, pieces.unknown)


def fit_tables(tensors: Mapping[str, list[Tensor]], config: Mapping[str, Any]) -> Mapping[str, list[Tensor]]:
    """Position and frame tables in the sizes of the configuration, by the published rules; all else as it is, unread.

    Positions of the tower's patches are resized bilinearly, frame embeddings take the nearest row.
    """
    fitted: dict[str, list[Tensor] | None] = {}
    grid = config["tower"]["image_size"] // config["tower"]["patch"]
    if (name := "tower.positions") in tensors and tensors[name][0].shape[1] != 1 + grid**2:
        fitted[name] = [resize_positions(tensors[name][0][0].float(), (grid, grid), "bilinear")[None]]
    for branch, count in config["frames"].items():
        name = f"memory.{branch}.frames"
        if name in tensors and count == 0:
            fitted[name] = None  # a table that the settings switch off
        elif name in tensors and tensors[name][0].shape[1] != count:
            fitted[name] = [resize_frames(tensors[name][0].float(), count)]
    return _Replaced(tensors, fitted) if fitted else tensors


class _Replaced(Mapping[str, list[Tensor]]):
    """Tensors of which some are others, or not there (None); the rest is read when used."""

    def __init__(self, tensors: Mapping[str, list[Tensor]], replaced: Mapping[str, list[Tensor] | None]) -> None:
        self._tensors, self._replaced = tensors, replaced

    def __getitem__(self, name: str) -> list[Tensor]:
        if name not in self._replaced:
            return self._tensors[name]
        found = self._replaced[name]
        if found is None:
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._tensors if self._replaced.get(name, ()) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def mico_to_native(
    source: Path,
    target: Path,
    write_files: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Our folder for an official checkpoint; tensors keep their bits, what has no native name is kept aside."""
    checkpoint = read_mico(source)
    if checkpoint.unknown:
        raise CheckpointError(f"{checkpoint.path}: not tensors of a MiCo model: {', '.join(checkpoint.unknown)}")
    tensors: dict[str, list[Tensor]] = dict(checkpoint.tensors)
    for name, reason in checkpoint.unused.items():
        tensor = checkpoint.official[name]
        buffer = _buffer(current_name(name), checkpoint.config) if reason is Kind.BUFFER else None
        if buffer is None or buffer.dtype != tensor.dtype or not torch.equal(buffer, tensor):
            tensors[OFFICIAL_PREFIX + name] = [tensor]

    def files(folder: Path) -> None:
        names = list(checkpoint.official)
        write_json(
            folder / ORIGIN,
            {"form": "mico", "names": names, "file": checkpoint.path.name, "settings": checkpoint.settings},
        )
        if write_files is not None:
            write_files(folder)

    return write_folder(target, checkpoint.config, tensors, write_files=files, max_shard_bytes=max_shard_bytes)


def native_to_mico(source: Path, target: Path) -> Path:
    """The official form, a folder, of a folder of ours."""
    folder = open_folder(source)
    origin = read_json(source / ORIGIN) if (source / ORIGIN).exists() else {}
    names = origin.get("names") or _all_names(folder)
    settings = origin.get("settings") or official_settings(folder.config)
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
    with replacing_checkpoint(target / "ckpt" / origin.get("file", "model_step_0.pt")) as path:
        torch.save(state, path)
    write_json(target / SETTINGS, settings)
    return target


def _native(name: str) -> Target | Kind | None:
    return to_native(current_name(name))


def _official_tensor(name: str, folder: NativeFolder) -> Tensor:
    if name in folder.leftovers:
        return folder.leftovers[name][0]
    target = _native(name)
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
