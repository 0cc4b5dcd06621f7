"""OFA reference numbers: weights, configuration and models of a folder of them."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from one_peace.checkpoints.assign import assign_tensors
from one_peace.checkpoints.ofa.config import infer_config
from one_peace.checkpoints.ofa.names import TIED
from one_peace.checkpoints.ofa.official import native_pieces
from one_peace.checkpoints.pieces import joined_shape
from one_peace.models.ofa.config import OfaConfig
from one_peace.models.ofa.model import OfaModel


def manifest(folder: Path) -> dict[str, Any]:
    """The folder's `manifest.json`."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=4)
def state_dict(folder: Path) -> dict[str, Tensor]:
    """The official state dict of the small model: integers times their power of two, tied tensors shared."""
    table = json.loads((folder / "weights_scales.json").read_text(encoding="utf-8"))
    state = {}
    for path in sorted(folder.glob("weights_*.safetensors")):
        for name, tensor in load_file(path).items():
            state[name] = tensor.float() * table["scales"][name] if tensor.dtype == torch.int8 else tensor
    return state | {name: state[source] for name, source in table["aliases"].items()}


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    """The model and task settings that an official file of the small model would hold."""
    facts = manifest(folder)
    task = {"num_bins": facts["vocab"]["n_bin"], "code_dict_size": facts["vocab"]["n_code"]}
    return {"model": facts["args"] | changes, "task": task}


def model(folder: Path, **changes: Any) -> OfaModel:
    """The small model; `changes` replace official settings."""
    return build(state_dict(folder), settings(folder, **changes))


def hash_uniform(name: str, count: int, seed: int) -> Tensor:
    """Numbers in [-1, 1) that depend on a name and a seed alone: how the reference numbers came by their weights."""
    base = 0xCBF29CE484222325
    for byte in name.encode():
        base = ((base ^ byte) * 0x100000001B3) % 2**64
    golden = 0x9E3779B97F4A7C15
    z = np.uint64(base ^ (seed * golden % 2**64)) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(golden)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float32) / np.float32(2**23) - np.float32(1))


def hashed_state(shapes: dict[str, list[int]], seed: int) -> dict[str, Tensor]:
    """The weights of a whole model by `hash_uniform`, from the official names and shapes of its state dict."""
    state = {}
    for name, shape in shapes.items():
        u = hash_uniform(name, math.prod(shape), seed).view(shape)
        state[name] = _vector(name, u) if u.dim() < 2 else _matrix(name, u)
    return state | {name: state[source] for name, source in TIED.items()}


def _matrix(name: str, u: Tensor) -> Tensor:
    fan_in = math.prod(u.shape[1:])
    if "embed_tokens" in name:
        scale = 0.5
    elif any(word in name for word in ("rel_pos", "embed_positions", "embed_image_positions", "type_embedding")):
        scale = 1.0
    elif u.dim() == 4:
        scale = 2.0 ** round(math.log2(math.sqrt(6 / fan_in)))
    else:
        gain = 6 if "pos_" in name and "linear" in name else 4 if "fc2" in name else 1.5
        scale = 2.0 ** round(math.log2(gain * math.sqrt(3 / fan_in)))
    return (127 * u).round().clip(-127, 127) * (scale / 128)


def _vector(name: str, u: Tensor) -> Tensor:
    if name.endswith("running_var") or name.endswith("c_attn"):
        return 1 + 0.5 * u
    if name.endswith(("running_mean", "bias")):
        return 0.25 * u
    if name in ("decoder.layernorm_embedding.weight", "decoder.code_layernorm_embedding.weight"):
        return 0.25 + 0.125 * u
    return 1 + 0.25 * u


def build(state: dict[str, Tensor], stored: dict[str, Any]) -> OfaModel:
    """A model of an official state dict and settings, in evaluation mode."""
    shapes = {name: joined_shape(parts) for name, parts in native_pieces(state).tensors.items()}
    return filled(OfaConfig.from_dict(infer_config("golden", shapes, stored)), state)


def filled(config: OfaConfig, state: dict[str, Tensor]) -> OfaModel:
    """A model of this form with the tensors of an official state dict, in evaluation mode."""
    with torch.device("meta"):
        module = OfaModel(config)
    assign_tensors(module, native_pieces(state).tensors, optional=("encoder.trunk.",))
    return module.eval()
