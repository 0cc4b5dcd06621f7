"""What a converted folder remembers of the official file that it came from, so that it can become that file again."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from one_peace.errors import CheckpointError

ORIGIN = "official.json"  # the names of the official file, their order and its container


def plain(value: Any) -> Any:
    """A value as JSON can hold it; tensors and other objects become their description."""
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if not isinstance(item, Tensor)}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else repr(value)


def read_origin(folder: Path, forms: Sequence[str]) -> dict[str, Any]:
    """What a converted folder keeps of the official file that it came from, {} for others."""
    path = folder / ORIGIN
    if not path.exists():
        return {}
    try:
        origin = json.loads(path.read_text(encoding="utf-8"))
        valid = isinstance(origin["names"], list) and isinstance(origin["container"], dict)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); remove it to export with new official settings") from error
    if not valid or origin.get("form") not in forms:
        raise CheckpointError(f"{path}: damaged; remove it to export with new official settings")
    return origin
