"""A VQGAN from a folder of ours or from a published file, and into a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.pickles import load_pickle
from one_peace.checkpoints.vqgan_names import infer_config, native_tensors
from one_peace.errors import CheckpointError
from one_peace.models.vqgan.config import VqganConfig
from one_peace.models.vqgan.model import Vqgan

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def load_vqgan(path: str | Path) -> Vqgan:
    """In evaluation mode, from a folder that `save_vqgan` wrote, or a checkpoint of taming-transformers' Gumbel VQGAN.

    Nothing in the file is executed. `CheckpointError` for one that is damaged or another model.
    """
    path = Path(path)
    try:
        if path.is_dir():
            config = VqganConfig.from_dict(json.loads((path / CONFIG).read_text(encoding="utf-8")))
            tensors = {name: [tensor] for name, tensor in load_file(path / WEIGHTS).items()}
        else:
            loaded = load_pickle(path)
            if not isinstance(loaded, dict):
                raise ValueError("holds no state dict")
            state = loaded.get("state_dict", loaded)
            tensors = native_tensors({name: t for name, t in state.items() if isinstance(t, torch.Tensor)})
            config = VqganConfig.from_dict(infer_config(tensors))
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: no VQGAN: {error}") from error
    with torch.device("meta"):
        model = Vqgan(config)
    assign_tensors(model, tensors)
    return model.eval()


def save_vqgan(model: Vqgan, folder: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Writes `config.json` and `model.safetensors`. `tensors` stand for the model's own where these are sharded."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(model.config.to_dict(), indent=1) + "\n", encoding="utf-8")
    whole = model.state_dict() if tensors is None else tensors
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, folder / WEIGHTS)
