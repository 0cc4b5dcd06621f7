"""The rows of a store at one moment, held by this process and scanned exactly."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import RLock
from typing import TypeAlias

import numpy as np

from one_peace.search.filters import Filter, passes
from one_peace.search.records import Entry, Hit
from one_peace.search.stores.exact import ExactScan

Rows: TypeAlias = Iterable[tuple[Sequence[Entry], Sequence[int], np.ndarray]]
"""Some rows at a time: entries, their revisions, and their vectors (n, dim) float32."""

_FILTERS = 32  # filters whose rows are remembered: pages of the same question come one after another


class Snapshot:
    """Rows with what searches filter by. Equal scores are ordered by id. `folder` is for temporary files.

    A row that changes gets a new slot, and slots never change; so a search goes on undisturbed while `refresh` works,
    and what was found out about a slot stays true.
    """

    def __init__(self, dim: int, folder: Path | None = None) -> None:
        self._dim = dim
        self._folder = folder if folder is not None and os.access(folder, os.W_OK) else None  # else the system's own
        self._lock = RLock()
        self._clear()

    def _clear(self) -> None:
        self._scan = ExactScan(self._dim, self._folder)
        self._entries: list[Entry] = []  # by slot
        self._alive = np.empty(0, bool)  # by slot; replaced, never changed
        self._slots: dict[str, int] = {}
        self._revisions: dict[str, int] = {}
        self._passing: OrderedDict[tuple, np.ndarray] = OrderedDict()  # by filter: which slots pass

    def __len__(self) -> int:
        return len(self._slots)

    def refresh(self, revisions: dict[str, int], fetch: Callable[[Sequence[str] | None], Rows]) -> None:
        """Brings it to what the store holds now.

        Args:
            revisions: of all rows by id; a number that is another one after every change of the row.
            fetch: gets the rows of some ids, or of all (None).
        """
        with self._lock:
            try:
                self._follow(revisions, fetch)
            except BaseException:  # half of it is in
                self._clear()
                raise

    def _follow(self, revisions: dict[str, int], fetch: Callable[[Sequence[str] | None], Rows]) -> None:
        known = self._revisions
        changed = [id_ for id_, revision in revisions.items() if known.get(id_) != revision]
        gone = known.keys() - revisions.keys()
        if 2 * (len(changed) + len(gone)) > len(revisions):
            self._clear()
            self._take(fetch(None))
            return
        self._drop([*gone, *(id_ for id_ in changed if id_ in known)])
        if changed:
            self._take(fetch(changed))
        if len(self._entries) > 2 * len(self._slots):
            self._compact()

    def search(self, queries: np.ndarray, k: int, where: Filter = ()) -> list[list[Hit]]:
        """As `VectorStore.search`, of queries (m, dim) that have been checked."""
        with self._lock:
            entries, scan, alive = self._entries, self._scan, self._alive
            allowed = alive & self._passes(tuple(where)) if where else alive
        rows = slice(0, len(allowed)) if allowed.all() else np.flatnonzero(allowed)
        answers = []
        for found, scores in scan.contenders(queries, k, rows):
            ranked = sorted(zip((-scores).tolist(), (entries[row].id for row in found), strict=True))[:k]
            answers.append([Hit(id_, -negative) for negative, id_ in ranked])
        return answers

    def _passes(self, where: tuple) -> np.ndarray:
        known = self._passing.pop(where, np.empty(0, bool))
        fresh = [passes(where, entry) for entry in self._entries[len(known) :]]
        self._passing[where] = known = np.concatenate([known, np.asarray(fresh, bool)])
        if len(self._passing) > _FILTERS:
            self._passing.popitem(last=False)
        return known

    def _drop(self, ids: Sequence[str]) -> None:
        alive = self._alive.copy()
        alive[[self._slots.pop(id_) for id_ in ids]] = False
        for id_ in ids:
            del self._revisions[id_]
        self._alive = alive

    def _take(self, rows: Rows) -> None:
        alive = [self._alive]
        for entries, revisions, vectors in rows:
            self._scan.extend(vectors)
            for entry, revision in zip(entries, revisions, strict=True):
                self._slots[entry.id] = len(self._entries)
                self._revisions[entry.id] = revision
                self._entries.append(entry)
            alive.append(np.ones(len(entries), bool))
        self._alive = np.concatenate(alive)

    def _compact(self) -> None:
        slots = np.flatnonzero(self._alive)
        entries, vectors, revisions = self._entries, self._scan.vectors, self._revisions
        self._clear()
        kept = [entries[slot] for slot in slots]
        self._take([(kept, [revisions[entry.id] for entry in kept], np.asarray(vectors[slots]))])
