"""Libraries of pictures, sounds and texts: embed them, keep them on disk, search them.

`Library` is what to use; `stores.base.VectorStore` is what a storage engine has to provide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from one_peace.search.filters import Filters as Filters
    from one_peace.search.library import Library as Library
    from one_peace.search.queries import Part as Part
    from one_peace.search.queries import Query as Query
    from one_peace.search.queries import QueryError as QueryError
    from one_peace.search.records import Item as Item
    from one_peace.search.records import Result as Result
    from one_peace.search.sheet import contact_sheet as contact_sheet

_HOMES = {
    "Filters": "filters",
    "Item": "records",
    "Library": "library",
    "Part": "queries",
    "Query": "queries",
    "QueryError": "queries",
    "Result": "records",
    "contact_sheet": "sheet",
}
__all__ = ["Filters", "Item", "Library", "Part", "Query", "QueryError", "Result", "contact_sheet"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
