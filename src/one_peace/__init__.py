"""ONE-PEACE: one representation model over text, images and sound.

    import one_peace

    model = one_peace.from_pretrained("one-peace-nano")
    model.similarity(model.encode_image("dog.jpeg"), model.encode_text(["a dog", "a cow"]))

The names below are imported on first use: `import one_peace` alone loads neither PyTorch nor anything optional.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from one_peace.checkpoints.registry import list_models
    from one_peace.modalities.registry import register_modality
    from one_peace.models import from_pretrained
    from one_peace.models.one_peace.interface import OnePeace
    from one_peace.search.library import Library

__version__ = "0.1.0"

__all__ = ["Library", "OnePeace", "__version__", "from_pretrained", "list_models", "register_modality"]

_HOMES = {
    "Library": "one_peace.search.library",
    "OnePeace": "one_peace.models.one_peace.interface",
    "from_pretrained": "one_peace.models",
    "list_models": "one_peace.checkpoints.registry",
    "register_modality": "one_peace.modalities.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'one_peace' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
