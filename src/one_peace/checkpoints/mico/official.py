"""Official MiCo checkpoints under native names: a folder with `log/hps.json` and `ckpt/model_step_N.pt`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from one_peace.checkpoints.mico.config import infer_config
from one_peace.checkpoints.mico.names import current_name, to_native, to_official
from one_peace.checkpoints.name_table import Kind, Target
from one_peace.checkpoints.native import read_json
from one_peace.checkpoints.pickles import load_pickle
from one_peace.checkpoints.pieces import joined_shape, sort_pieces
from one_peace.errors import CheckpointError
from one_peace.nn.resize import resize_frames, resize_positions

SETTINGS = Path("log", "hps.json")
WEIGHTS = re.compile(r"model_step_(\d+)\.pt")


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
        pieces = sort_pieces(official, native_name, partial(to_official, eva02=eva02))
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


def native_name(name: str) -> Target | Kind | None:
    """`to_native` of a name of any version."""
    return to_native(current_name(name))
