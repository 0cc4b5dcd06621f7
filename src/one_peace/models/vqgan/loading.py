"""A VQGAN from a folder of ours or from a published file, and into a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from one_peace.checkpoints.assign import assign_tensors, build_on_meta, check_depth
from one_peace.checkpoints.native import CONFIG, WEIGHTS, open_weights, read_json, write_json
from one_peace.checkpoints.pickles import load_pickle
from one_peace.checkpoints.vqgan_names import infer_config, native_tensors
from one_peace.errors import CheckpointError
from one_peace.models.vqgan.config import VqganConfig
from one_peace.models.vqgan.model import Vqgan


def load_vqgan(path: str | Path) -> Vqgan:
    """In evaluation mode, from a folder that `save_vqgan` wrote, or a checkpoint of taming-transformers' Gumbel VQGAN.

    Nothing in the file is executed. `CheckpointError` for one that is damaged or another model.
    """
    path = Path(path)
    tensors: Mapping[str, list[Tensor]]
    try:
        if path.is_dir():
            config, tensors = VqganConfig.from_dict(read_json(path / CONFIG)), open_weights(path)
        else:
            loaded = load_pickle(path)
            state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
            if not isinstance(state, Mapping):
                raise ValueError("holds no state dict")
            tensors = native_tensors({str(name): t for name, t in state.items() if isinstance(t, Tensor)})
            config = VqganConfig.from_dict(infer_config(tensors))
        check_depth(config.to_dict(), tensors)
    except (ValueError, TypeError, IndexError, ArithmeticError) as error:
        raise CheckpointError(f"{path}: no VQGAN: {error}") from error
    try:
        model = build_on_meta(Vqgan, config)
        assign_tensors(model, tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return model.eval()


def save_vqgan(model: Vqgan, folder: str | Path, tensors: Mapping[str, Tensor] | None = None) -> None:
    """Writes `config.json` and `model.safetensors`. `tensors` stand for the model's own where these are sharded."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, model.config.to_dict())
    whole = model.state_dict() if tensors is None else tensors
    save_file({name: tensor.contiguous() for name, tensor in whole.items()}, folder / WEIGHTS)
