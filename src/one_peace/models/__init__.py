"""Model families. Names are imported when first used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "from_pretrained": "loading",
    "OnePeace": "one_peace.interface",
    "EmbeddingResult": "embedding",
    "OnePeaceConfig": "one_peace.config",
    "Ofa": "ofa.interface",
    "OfaConfig": "ofa.config",
    "MiCo": "mico.interface",
    "MiCoConfig": "mico.config",
}


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_EXPORTS)
