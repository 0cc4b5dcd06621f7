"""Libraries of pictures, sounds and texts: embed them, keep them on disk, search them.

`Library` is what to use; `store.VectorStore` is what a storage engine has to provide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from one_peace.search.library import Library as Library
    from one_peace.search.records import Result as Result
    from one_peace.search.sheet import contact_sheet as contact_sheet

_HOMES = {"Library": "library", "Result": "records", "contact_sheet": "sheet"}
__all__ = ["Library", "Result", "contact_sheet"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
