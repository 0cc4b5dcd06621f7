"""A library that was moved or copied together with its files: its rows follow."""

from __future__ import annotations

import os
from pathlib import Path

from one_peace.search.changing import change_entries
from one_peace.search.filters import Condition
from one_peace.search.records import Entry
from one_peace.search.stores.base import VectorStore


def relocate(store: VectorStore, before: Path, now: Path) -> None:
    """Rows of files below the folder `before` get the paths that these have below `now`.

    Files that stayed behind keep theirs. Rows of files that are known under the new path too, and are gone from the
    old one, are removed.
    """
    inside = os.path.join(before, "")
    known = {row.path for row in store.entries((Condition("path", "prefix", os.path.join(now, "")),))}
    moved: dict[str, dict[str, str]] = {}  # what changes, by the id of the row
    twice: list[str] = []
    for row in store.entries((Condition("path", "prefix", inside),)):
        path = os.path.join(now, row.path.removeprefix(inside))
        if path not in known and _went(row, path):
            moved[row.id] = {"path": path}
        elif path in known and not os.path.lexists(row.path):
            twice.append(row.id)
    store.delete(twice)
    change_entries(store, moved)


def _went(row: Entry, path: str) -> bool:
    """Whether the file of a row is at `path` now: there is one like it, or none where it was."""
    try:
        return os.stat(path).st_size == row.size or not os.path.lexists(row.path)
    except OSError:
        return not os.path.lexists(row.path)
