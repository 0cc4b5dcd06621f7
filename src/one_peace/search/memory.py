"""A store that lives in memory: the oracle of the tests, and for libraries made and searched in one go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from one_peace.search.records import Entry, Hit, Record
from one_peace.search.snapshot import Snapshot
from one_peace.search.store import check_vectors


class MemoryStore:
    """A `VectorStore` of vectors (dim,), searched exactly. Nothing is written to disk."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._records: dict[str, Record] = {}
        self._snapshot: Snapshot | None = None

    def add(self, records: Sequence[Record]) -> None:
        check_vectors(records, self.dim)
        self._records.update({record.entry.id: record for record in records})
        self._snapshot = None

    def delete(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            self._records.pop(id_, None)
        self._snapshot = None

    def count(self) -> int:
        return len(self._records)

    def entries(self) -> list[Entry]:
        return [record.entry for record in self._records.values()]

    def rows(self, ids: Sequence[str]) -> dict[str, Record]:
        return {id_: self._records[id_] for id_ in ids if id_ in self._records}

    def search(
        self, vectors: np.ndarray, k: int, *, modality: str | None = None, prefix: str | None = None
    ) -> list[list[Hit]]:
        if self._snapshot is None:
            records = list(self._records.values())
            self._snapshot = Snapshot(
                list(self._records),
                [record.entry.path for record in records],
                [record.entry.modality for record in records],
                np.stack([record.vector for record in records]).astype(np.float32)
                if records
                else np.empty((0, self.dim), np.float32),
            )
        return self._snapshot.search(vectors, k, modality, prefix)

    def finish(self) -> None:
        """Nothing to compact."""

    def close(self) -> None:
        self._snapshot = None
