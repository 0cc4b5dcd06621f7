"""Containers of official files: the state dict in them, and what else they hold (settings, our own configuration)."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from one_peace.checkpoints.pickles import load_pickle
from one_peace.errors import CheckpointError

OWN_CONFIG = "one_peace_config"  # in extra_state of the files that `convert` writes: our config, word for word
_WRAPPERS = ("module.", "_orig_mod.")
Form = Literal["container", "state_dict", "vision"]


def open_state_dict(path: Path) -> tuple[Form, dict[str, Tensor], Mapping[str, Any]]:
    """Form of a file, its tensors (memory-mapped where it can be), and the rest of its container."""
    loaded = load_pickle(path)
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a dict of tensors")
    form: Form = "state_dict"
    state, container = loaded, {}
    if isinstance(loaded.get("model"), Mapping):
        form = "vision" if "matching_heuristics" in loaded else "container"
        state, container = loaded["model"], {key: value for key, value in loaded.items() if key != "model"}
    return form, named_tensors(path, state), container


def named_tensors(path: Path, state: Mapping[Any, Any]) -> dict[str, Tensor]:
    """The entries of a state dict, without what `torch.compile` and parallel training put before all names.

    `CheckpointError` where one is no tensor.
    """
    tensors = {name: _tensor(path, name, value) for name, value in state.items()}
    while wrapper := next((w for w in _WRAPPERS if tensors and all(name.startswith(w) for name in tensors)), None):
        tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _tensor(path: Path, name: Any, value: Any) -> Tensor:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        if not value.dtype.isnative:
            value = value.astype(value.dtype.newbyteorder("="))
        value = torch.from_numpy(value if value.flags.writeable else value.copy())
    if not isinstance(name, str) or not isinstance(value, Tensor):
        raise CheckpointError(f"{path}: entry {name!r} of the model is a {type(value).__name__}, not a tensor")
    return value.detach()


def stored_settings(container: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings by part, {} for none: `cfg` or, in older files, the one flat namespace for model and task in `args`."""
    for part in (container.get("cfg"), container.get("args")):
        values = vars(part) if isinstance(part, argparse.Namespace) else part
        if values and isinstance(values, Mapping):
            parted = any(isinstance(values.get(name), Mapping | argparse.Namespace) for name in ("model", "task"))
            return values if parted else {"model": values, "task": values}
    return {}


def own_config(container: Mapping[str, Any]) -> dict[str, Any] | None:
    """Our own config in a file that this package wrote, None in others."""
    extra = container.get("extra_state")
    config = extra.get(OWN_CONFIG) if isinstance(extra, Mapping) else None
    return dict(config) if isinstance(config, Mapping) else None
