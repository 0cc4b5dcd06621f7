"""Model families. Names are imported when first used."""

from __future__ import annotations

from typing import Any

_EXPORTS = (
    "from_pretrained",
    "save_pretrained",
    "OnePeace",
    "EmbeddingResult",
    "OnePeaceConfig",
    "list_models",
)


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from one_peace.models import one_peace

    return getattr(one_peace, name)


def __dir__() -> list[str]:
    return sorted(_EXPORTS)
