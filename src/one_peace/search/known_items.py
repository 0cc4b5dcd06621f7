"""What a store knows of files before a run of indexing, by path and by contents, and what became of it."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from one_peace.search.filters import Condition
from one_peace.search.records import Entry
from one_peace.search.stores.base import VectorStore

_PATHS_AT_ONCE = 500  # in a question to the store


class KnownItems:
    """The items of a store, each as its rows in order of their parts.

    `only` are the paths that are asked for; by default all. To look at few is quick in a library of many, but copies
    and renamed files are not recognised. `ids`, by path, are for files that had them in an earlier library.

    Attributes:
        by_path, by_contents: items by path, and by (modality, digest) where all their rows are there.
        broken: paths of items whose rows a crash left incomplete.
        leftover: ids of rows of earlier contents that a crash kept from being removed.
    """

    def __init__(
        self, store: VectorStore, only: Sequence[str] | None = None, ids: Mapping[str, str] | None = None
    ) -> None:
        self.by_path: dict[str, list[Entry]] = {}
        self.by_contents: dict[tuple[str, str], list[Entry]] = {}
        self.broken: set[str] = set()
        self.leftover: list[str] = []
        self._vanished: dict[tuple[str, str], list[list[Entry]]] = {}
        self._alike: dict[tuple[str, str], deque[list[Entry]]] = {}
        self._found_again: set[str] = set()  # ids of items that were lost
        self._ids: set[str] = set()  # of items
        self._all, self._before = only is None, ids or {}
        for where in [()] if only is None else _among(only):
            for rows in by_item(store.entries(where)):
                self._know(rows)

    def lose(self, rows: list[Entry]) -> None:
        """Notes that the file of an item was not found where it was."""
        self._vanished.setdefault((rows[0].modality, rows[0].digest), []).append(rows)

    def found_again(self, modality: str, digest: str) -> list[Entry] | None:
        """An item of these contents that was lost, or whose file is gone from a folder that nobody looked into: it is
        lost no longer. None if there is none."""
        if twins := self._vanished.get((modality, digest)):
            rows = twins.pop()
            self._found_again.add(rows[0].item)
            return rows
        alike = self._alike.get((modality, digest), deque())
        while alike:  # each is looked for once: thousands of files may be equal
            rows = alike.popleft()
            if rows[0].item not in self._found_again and _is_gone(rows[0].path):
                return rows
        return None

    def lost(self) -> list[list[Entry]]:
        """The items that stayed lost."""
        return [rows for twins in self._vanished.values() for rows in twins]

    def has(self, modality: str, digest: str) -> bool:
        """Whether the embeddings of these contents are there."""
        return (modality, digest) in self.by_contents

    def update(self, rows: list[Entry]) -> None:
        """Notes the rows that an item has now."""
        self.by_path[rows[0].path] = self.by_contents[rows[0].modality, rows[0].digest] = rows

    def new_id(self, path: str) -> str:
        """An id that no other item has; made from the path, so that equal folders give equal ids, if all are known."""
        if path in self._before:
            return self._before[path]
        if not self._all:
            return secrets.token_hex(12)
        attempt = 0
        while (identity := hashlib.sha256(f"{path}\0{attempt}".encode()).hexdigest()[:24]) in self._ids:
            attempt += 1
        self._ids.add(identity)
        return identity

    def _know(self, rows: list[Entry]) -> None:
        first = rows[0]
        belongs = [row.digest == first.digest and row.part < first.parts for row in rows]
        whole = [row for row, does in zip(rows, belongs, strict=True) if does]
        self.leftover += [row.id for row, does in zip(rows, belongs, strict=True) if not does]
        self._ids.add(first.item)
        self.by_path[first.path] = whole
        if len(whole) == first.parts:
            self.by_contents[first.modality, first.digest] = whole
            self._alike.setdefault((first.modality, first.digest), deque()).append(whole)
        else:
            self.broken.add(first.path)


def by_item(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Rows by item, in order of their parts."""
    items: dict[str, list[Entry]] = {}
    for entry in entries:
        items.setdefault(entry.item, []).append(entry)
    return [sorted(rows, key=lambda row: row.part) for rows in items.values()]


def _is_gone(path: str) -> bool:
    """False where a folder cannot be read: the file may be there."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _among(paths: Sequence[str]) -> Iterator[tuple[Condition, ...]]:
    for start in range(0, len(paths), _PATHS_AT_ONCE):
        yield (Condition("path", "in", tuple(paths[start : start + _PATHS_AT_ONCE])),)
