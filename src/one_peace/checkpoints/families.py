"""Which family of models a file or folder holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from one_peace.checkpoints.containers import open_state_dict
from one_peace.checkpoints.mico.official import find_mico
from one_peace.checkpoints.native import CONFIG, is_native, read_json
from one_peace.checkpoints.pickles import pickle_in_zip

Family = Literal["one_peace", "ofa", "mico"]
FAMILIES: tuple[Family, ...] = ("one_peace", "ofa", "mico")

_OFA = "decoder.layers.0.encoder_attn.q_proj.weight"  # in every original OFA file and in no other
_OFA_OLDER = "decoder.layers.0.encoder_attn.in_proj_weight"


def family_of(path: Path) -> Family:
    """The family of a saved model or a published checkpoint; "one_peace" for whatever says nothing else.

    Raises:
        CheckpointError: a damaged file, or a config.json that is none.
    """
    if is_native(path):
        values = read_json(path / CONFIG)
        named = values.get("family") or values.get("model_type")  # ours, or a transformers-style folder's
        return named if named in FAMILIES else "one_peace"
    if find_mico(path) is not None:
        return "mico"
    if path.is_file() and _names(path, _OFA, _OFA_OLDER):
        return "ofa"
    return "one_peace"


def _names(path: Path, *wanted: str) -> bool:
    """Whether a published file has a tensor of one of these names."""
    content = pickle_in_zip(path)
    if content is not None:  # the names stand in the pickle as they are; no need to build what it describes
        return any(re.search(re.escape(name.encode()), content) for name in wanted)
    state = open_state_dict(path)[1]
    return any(name in state for name in wanted)
