"""MiCo reference numbers: weights, configuration and models of a folder of them."""

from __future__ import annotations

import json
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from one_peace.checkpoints.mico.official import MiCoCheckpoint, read_mico
from one_peace.models.mico.loading import build_mico
from one_peace.models.mico.model import MiCoModel

WORDS = "multimodal_encoder.bert.embeddings.word_embeddings.weight"
PREDICTION = "multimodal_encoder.cls.predictions"


@lru_cache(maxsize=4)
def manifest(folder: Path) -> dict[str, Any]:
    """The folder's `manifest.json`."""
    found: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=4)
def state_dict(folder: Path) -> dict[str, Tensor]:
    """The official state dict of the small model; word embeddings are stored as integers, so many times their value."""
    state = dict(load_file(folder / "weights.safetensors"))
    for name, tensor in load_file(folder / "weights_word_embeddings.safetensors").items():
        name, _, factor = name.partition(".int8_times_")
        state[name] = tensor.float() / int(factor or 1)
    state[f"{PREDICTION}.decoder.weight"] = state[WORDS]
    state[f"{PREDICTION}.decoder.bias"] = state[f"{PREDICTION}.bias"]
    return state


@lru_cache(maxsize=4)
def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of another reference file."""
    found: dict[str, Tensor] = load_file(path)
    return found


def write_official(folder: Path, target: Path, **changes: Any) -> Path:
    """The small model as an official checkpoint folder; `changes` replace settings of its hps.json."""
    (target / "log").mkdir(parents=True)
    (target / "ckpt").mkdir()
    settings = {"run_cfg": {}, "model_cfg": manifest(folder)["config"] | changes, "data_cfg": {}, "local_rank": 0}
    (target / "log" / "hps.json").write_text(json.dumps(settings))
    torch.save(state_dict(folder), target / "ckpt" / "model_step_7.pt")
    return target


@lru_cache(maxsize=8)
def checkpoint(folder: Path) -> MiCoCheckpoint:
    """The small model as users read it."""
    with tempfile.TemporaryDirectory() as place:
        return read_mico(write_official(folder, Path(place) / "model"))


def model(folder: Path, **changes: Any) -> MiCoModel:
    """A fresh copy of the small model, in evaluation mode; `changes` replace fields of its configuration."""
    found = checkpoint(folder)
    return build_mico(found.config | changes, found.tensors).eval()
