"""What a library holds: its items and rows, by id, path and filter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from one_peace.search.encoding import Encoder
from one_peace.search.file_kinds import Kind, kinds_for
from one_peace.search.filters import Condition, Filter, Filters
from one_peace.search.library_folder import LibraryFolder
from one_peace.search.manifest import UnknownItemError
from one_peace.search.queries import QueryError, check_name
from one_peace.search.records import Entry, Item, Record
from one_peace.search.stores.base import VectorStore
from one_peace.search.walk import absolute


class LibraryItems:
    """The items of the library in `folder`, which were encoded by `model`."""

    def __init__(self, model: Encoder, folder: LibraryFolder) -> None:
        self.model = model
        self.path = folder.path
        self._folder = folder

    def __len__(self) -> int:
        """Number of items that can be found."""
        return len(self._firsts())

    def entries(self) -> list[Entry]:
        """All rows, ordered by path and part: several to an item that has several parts."""
        return sorted(self._rows(), key=lambda row: (row.path, row.part))

    def items(self) -> list[Item]:
        """All files that can be found, ordered by path."""
        return sorted((Item.of(row) for row in self._firsts()), key=lambda item: item.path)

    def item(self, id: str) -> Item:
        """The item of this id; `UnknownItemError` if there is none."""
        return Item.of(self._row(id).entry)

    def content(self, id: str) -> Path:
        """The file of an item: the one way from an id to the disk. `UnknownItemError` if there is no such item."""
        return self.item(id).path

    def find(self, path: str | os.PathLike[str]) -> Item | None:
        """The item of a file, None if the library does not have it."""
        rows = self._rows((Condition("path", "in", (os.fspath(absolute(path)),)),))
        return Item.of(min(rows, key=lambda row: row.part)) if rows else None

    def thumbnail(self, id: str) -> bytes | None:
        """A small JPEG of an item, None if it has none (texts). `UnknownItemError` if there is no such item."""
        return self._row(id).thumbnail

    def vectors(self, filters: Filters | None = None) -> Iterator[tuple[list[Entry], np.ndarray]]:
        """All rows that pass, some thousands at a time: entries and embeddings (n, dim) float32, in any order.

        Raises:
            QueryError: as `conditions`.
        """
        store = self._folder.store
        return store.vectors(self.conditions(filters)) if store else iter(())

    def conditions(self, filters: Filters | None) -> Filter:
        """Filters as the store takes them.

        Raises:
            QueryError: an unknown modality or branch, or a folder that nothing here is below.
        """
        narrowed = self._narrowed(filters or Filters())
        self._check_folder(narrowed)
        return narrowed.conditions()

    def statistics(self) -> dict[str, int]:
        """Number of items by modality."""
        counts: dict[str, int] = {}
        for row in self._firsts():
            counts[row.modality] = counts.get(row.modality, 0) + 1
        return dict(sorted(counts.items()))

    @property
    def store(self) -> VectorStore:
        """What keeps the rows; `LibraryError` if nothing has been indexed yet. Not to be written to."""
        return self._folder.opened()

    @property
    def _kinds(self) -> dict[str, Kind]:
        return kinds_for(self.model.modalities)

    def _firsts(self) -> list[Entry]:
        """The first row of each item."""
        return self._rows((Condition("part", "in", (0,)),))

    def _rows(self, where: Filter = ()) -> list[Entry]:
        store = self._folder.store
        return store.entries(where) if store else []

    def _row(self, id: str) -> Record:
        store = self._folder.store
        rows = store.rows([id]) if store else {}
        if id not in rows or rows[id].entry.part:
            raise UnknownItemError(f"{self.path} has no item {id!r}")
        return rows[id]

    def _check_folder(self, filters: Filters) -> None:
        """Raises `QueryError` for a folder (absolute) that no file is below."""
        if filters.folder is not None and not self._has_below(filters.folder):
            raise QueryError("folder", "no file of the library is below it")  # clients are told no paths of ours

    def _has_below(self, folder: str | os.PathLike[str]) -> bool:
        """Whether it has rows of any file in the folder."""
        inside = Condition("path", "prefix", os.path.join(folder, ""))
        return any(entries for entries, _ in self.store.vectors((inside,)))

    def _narrowed(self, filters: Filters) -> Filters:
        """With names that exist, and an absolute folder: of a relative one that in the working directory, or else that
        beside the library, whichever has files."""
        if (given := filters.folder) is not None:
            place = absolute(given)
            if not Path(given).expanduser().is_absolute() and not self._has_below(place):
                own = absolute(self.path.parent / given)
                if not self._has_below(own):
                    raise QueryError("folder", f"no file of the library is below {place} or {own}")
                place = own
            filters = replace(filters, folder=os.fspath(place))
        for name in filters.modality:
            check_name("modality", name, list(self._kinds))
        for name in filters.branch:
            check_name("branch", name, self.model.modalities)
        return filters
