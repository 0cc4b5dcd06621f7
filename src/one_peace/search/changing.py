"""Rows that stay what they are and get another path, caption or tags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from one_peace.search.stores.base import VectorStore

_ROWS_AT_ONCE = 2000  # they come with vectors and thumbnails, of which memory does not hold those of a large library


def change_entries(store: VectorStore, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Gives rows, by id, other values of some fields of their entries. Ids that are not there are ignored."""
    ids = list(changes)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        rows = store.rows(ids[start : start + _ROWS_AT_ONCE])
        store.add([replace(row, entry=replace(row.entry, **changes[id])) for id, row in rows.items()])
